"""`import esper`: what a practitioner calls first."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

import esper
from esper.kasmina import build_seeded
from esper.leyline import ConfigError, EsperError, HostError
from esper.runtime.api import grow, propose
from kasmina.strangers import Encoder, Patches, SmallResNet, Wave, build
from runtime.own_models import grow_net
from tolaria.loop_toys import TRAIN, Net

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TOKENS = {"input_ids": torch.arange(10).view(2, 5), "attention_mask": torch.ones(2, 5)}


def test_the_public_names_are_there_and_a_wrong_one_is_told() -> None:
    assert esper.grow is grow
    assert set(esper.__all__) <= set(dir(esper))
    for name in esper.__all__:
        assert getattr(esper, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'grwo'; it has Budget"):
        esper.grwo  # noqa: B018


def test_importing_the_front_pulls_in_no_torch() -> None:
    code = "import esper, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("kind", "sample", "at", "select", "blueprint"),
    [
        (SmallResNet, IMAGES, ["stages.*", "neck"], None, "conv_light"),
        (Encoder, TOKENS, ["layers.*"], 0, "norm"),
        (Wave, torch.randn(2, 1, 9), ["conv1"], None, "norm"),
        (Patches, IMAGES, ["mix"], None, "conv_light"),
        (Encoder, TOKENS, None, None, "norm"),
    ],
)
def test_strangers_grow_as_they_are(
    kind: type[nn.Module], sample: object, at: list[str] | None, select: int | None, blueprint: str
) -> None:
    grown = grow(build(kind), sample=sample, at=at, select=select)  # type: ignore[arg-type]

    def call(module: nn.Module = grown) -> torch.Tensor:
        outputs = module(**sample) if isinstance(sample, dict) else module(sample)
        logits: torch.Tensor = outputs if isinstance(outputs, torch.Tensor) else outputs["logits"]
        return logits

    grown.eval()
    before = call()
    slot = grown[grown.slot_ids[0]]
    slot.germinate(blueprint)
    slot.blend(steps=0)
    assert torch.equal(call(), before)
    with torch.no_grad():
        for parameter in slot.parameters():
            parameter.add_(0.3)
    assert not torch.equal(call(), before)
    slot.fossilize()
    assert torch.allclose(call(grown.export()), call(), atol=1e-5)


def test_a_seed_that_incubates_in_a_model_that_works_in_place_changes_no_bit_of_its_training() -> None:
    def train(with_seeds: bool) -> dict[str, torch.Tensor]:
        grown = grow(build(SmallResNet), sample=IMAGES, at=["stages.*", "stem", "stages.0.0.bn1"])
        optimizer = torch.optim.SGD(grown.host.parameters(), lr=0.05, momentum=0.9)
        controller = esper.Controller(grown, optimizer, policy="never")
        if with_seeds:
            for slot in grown.slot_ids:
                grown[slot].germinate("conv_light")
        grown.train()
        for place in range(4):
            x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(place))
            optimizer.zero_grad()
            nn.functional.cross_entropy(grown(x), torch.arange(8) % 5).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        controller.close()
        if with_seeds:
            assert all(
                float(list(grown[slot].parameters())[-1].detach().abs().max()) > 0 for slot in grown.slot_ids
            )
        return grown.host.state_dict()

    bare, seeded = train(False), train(True)
    assert all(torch.equal(value, bare[name]) for name, value in seeded.items())


def test_proposals_come_with_reasons_and_leave_the_model_alone() -> None:
    host = build(SmallResNet)
    points = propose(host, IMAGES)
    assert points
    assert all(point.reason.startswith("proposed: ") for point in points)
    assert not any(module._forward_hooks for module in host.modules())


def _grow_a_number() -> object:
    return grow(3, sample=TRAIN[0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (_grow_a_number, "model is a int: expected a torch.nn.Module"),
        (lambda: grow(grow_net(), sample=TRAIN[0]), "model can grow already"),
        (lambda: grow(Net(), sample="x"), "sample is a str: expected one batch as Net takes it"),
        (lambda: grow(Net(), sample=TRAIN[0][:0]), "sample holds no batch|does not take"),
        (lambda: grow(Net(), sample=torch.zeros(2, 7)), r"Net does not take inputs of shape \(7,\)"),
        (lambda: grow(Net(), sample=TRAIN[0], at="bdy"), "did you mean 'body'"),
        (lambda: grow(Net(), sample=TRAIN[0], blueprints=["mpl"]), "did you mean 'mlp'"),
        (lambda: grow(Net(), sample=TRAIN[0], layout="flt"), "did you mean 'flat'"),
        (lambda: esper.Budget(params=0.5), "budget.params=0.5: is a factor on the host's own"),
        (lambda: esper.Budget(seeds=-1), "budget.seeds=-1: must be >= 0"),
        (lambda: grow(nn.DataParallel(Net()), sample=TRAIN[0]), "wrapped in DataParallel"),
    ],
)
def test_a_wrong_call_is_answered_with_the_nearest_right_one(
    call: Callable[[], object], message: str
) -> None:
    with pytest.raises(EsperError, match=message) as raised:
        call()
    assert isinstance(raised.value, HostError | ConfigError)


def test_another_name_of_a_policy_is_refused_by_grow_and_by_the_controller() -> None:
    with pytest.raises(ConfigError, match="did you mean 'heuristic'"):
        grow(build_seeded(Net, 0), sample=TRAIN[0], policy="heuristik")
    grown = grow(build_seeded(Net, 0), sample=TRAIN[0])
    with pytest.raises(ConfigError, match="did you mean 'heuristic'"):
        esper.Controller(grown, torch.optim.SGD(grown.parameters(), lr=0.1), policy="heuristik")


class Counting(Net):
    """Counts its passes in a buffer, in place."""

    passes: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes.add_(1)
        return super().forward(x)


@pytest.mark.parametrize("at", [["body"], None])
def test_a_model_whose_passes_leave_traces_is_grown_without_one(at: list[str] | None) -> None:
    host = Counting()
    grow(host, sample=TRAIN[0][:2], at=at)
    assert float(host.passes) == 0.0
