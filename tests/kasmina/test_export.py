"""A grown network leaves as torch classes only, equal to itself, and not before it is finished."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, fx, nn

from esper.kasmina import InjectionPoint
from esper.kasmina.difference import MAX_DIFFERENCE
from esper.kasmina.export import export_model
from esper.leyline import BlendForm, ExportError, Layout, SeedStage
from kasmina.growing import draw, grow, make_clock, make_cnn, make_mlp, make_model

SAMPLE = draw(4, 3, 8, 8, seed=1)


class _BranchingHost(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 8)

    def injection_points(self) -> tuple[InjectionPoint, ...]:
        return (InjectionPoint(slot_id="body", path="body", layout=Layout.FLAT, num_channels=8),)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.body(inputs)
        return out if bool(inputs.is_meta) or out.sum() > 0 else -out


class _DriftingHost(_BranchingHost):
    """Counts its calls in Python, which a graph cannot know."""

    calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.body(inputs)
        return out + float(self.calls)


@pytest.mark.parametrize("blend", list(BlendForm))
@pytest.mark.parametrize("blueprint", ["attention", "depthwise", "conv_heavy", "bottleneck", "norm", "noop"])
def test_export_equals_the_grown_network(blueprint: str, blend: BlendForm) -> None:
    model = make_model()
    grow(model, "block2", SeedStage.FOSSILIZED, blueprint=blueprint, blend=blend)
    model(SAMPLE)
    exported = export_model(model, SAMPLE)
    other = draw(3, 3, 8, 8, seed=9)
    difference = (exported(other) - model.eval()(other)).abs().max()
    assert float(difference.detach()) <= MAX_DIFFERENCE


def test_export_of_a_flat_host_with_two_fossils_is_equal() -> None:
    model = make_model(make_mlp(norm="batch"), sample=draw(2, 6))
    grow(model, "hidden1", SeedStage.FOSSILIZED, blueprint="low_rank")
    grow(model, "hidden2", SeedStage.FOSSILIZED, blueprint="mlp", blend=BlendForm.VALVE)
    exported = export_model(model, draw(5, 6))
    assert torch.allclose(exported(draw(9, 6)), model.eval()(draw(9, 6)), atol=MAX_DIFFERENCE, rtol=0)


def test_export_holds_torch_classes_only() -> None:
    model = make_model()
    for slot_id, blend in zip(model.slot_ids, BlendForm, strict=True):
        grow(model, slot_id, SeedStage.FOSSILIZED, blend=blend)
    exported = export_model(model, SAMPLE)
    assert isinstance(exported, fx.GraphModule)
    inner = [module for module in exported.modules() if module is not exported]
    assert inner
    assert all(type(module).__module__.startswith("torch.") for module in inner)
    assert not any(module._forward_hooks for module in exported.modules())
    assert "alpha" not in exported.code
    assert not exported.training


def test_export_has_every_trained_parameter() -> None:
    model = make_model()
    grow(model, "block2", SeedStage.FOSSILIZED)
    counts = [sum(p.numel() for p in module.parameters()) for module in (model, export_model(model, SAMPLE))]
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    "stage", [SeedStage.GERMINATED, SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.PROBATIONARY]
)
def test_live_seed_is_refused_or_left_out_on_request(stage: SeedStage) -> None:
    model, bare = make_model(), make_model()
    grow(model, "block2", stage)
    with pytest.raises(ExportError, match=rf"block2 \({stage.value}\)"):
        export_model(model, SAMPLE)
    exported = export_model(model, SAMPLE, allow_unfinished=True)
    assert torch.allclose(exported(SAMPLE), bare.eval()(SAMPLE), atol=MAX_DIFFERENCE, rtol=0)
    assert model.slot("block2").state.stage is stage


def test_cooling_slot_leaves_no_trace() -> None:
    model = make_model()
    grow(model, "block2", SeedStage.TRAINING)
    model.cull_live(make_clock(2), "test")
    assert export_model(model, SAMPLE).code == export_model(make_model(), SAMPLE).code


def test_export_leaves_the_model_as_it_is() -> None:
    model = make_model()
    grow(model, "block1", SeedStage.FOSSILIZED)
    before = copy.deepcopy(model.state())
    export_model(model, SAMPLE)
    after = model.state()
    assert model.training
    assert after[1] == before[1]
    assert all(torch.equal(after[0][name], before[0][name]) for name in before[0])


def test_export_is_independent_of_the_model() -> None:
    model = make_model()
    exported = export_model(model, SAMPLE)
    expected = exported(SAMPLE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(exported(SAMPLE), expected)


def test_export_can_be_handed_to_torch_export() -> None:
    model = make_model(make_cnn(norm="group"))
    grow(model, "block2", SeedStage.FOSSILIZED)
    exported = export_model(model, SAMPLE)
    program = torch.export.export(exported, (SAMPLE,))
    assert torch.allclose(program.module()(SAMPLE), exported(SAMPLE), atol=MAX_DIFFERENCE, rtol=0)


def test_branching_forward_is_refused() -> None:
    with pytest.raises(ExportError, match="cannot be traced"):
        export_model(make_model(_BranchingHost(), sample=draw(2, 6)), draw(2, 6))


def test_export_that_differs_is_refused() -> None:
    with pytest.raises(ExportError, match="the export differs by"):
        export_model(make_model(_DriftingHost(), sample=draw(2, 6)), draw(2, 6))
