from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina import MAX_DIFFERENCE, SlotSpec, builtin_registry
from esper.leyline import BlueprintContractError, ConfigError, EsperError, UnknownNameError
from esper.runtime.controller import Controller
from esper.runtime.export_run import export_run
from esper.runtime.own_blueprints import add_to_rotation, blueprint, extend_registry, load_offer
from esper.runtime.replay import replay_run
from esper.runtime.run import run_experiment
from esper.tamiyo import HeuristicConfig
from runtime.own_code import SEED_MODULE, SEEDS
from runtime.own_models import grow_net
from runtime.test_run import tiny
from tolaria.loop_toys import TRAIN


def build_zeroed(spec: SlotSpec) -> nn.Module:
    layer = nn.Linear(spec.num_channels, spec.num_channels)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def test_a_decorated_builder_is_a_blueprint_that_can_be_planted() -> None:
    mine = blueprint("scale", needs="flat")(build_zeroed)
    grown = grow_net(blueprints=["mlp", mine])
    before = grown(TRAIN[0])
    event = grown["body"].germinate("scale")
    assert "+72 params" in str(event)
    grown["body"].blend(steps=0)
    assert torch.equal(grown(TRAIN[0]), before)


def test_a_blueprint_may_fit_several_layouts() -> None:
    mine = blueprint("scale", needs=("flat", "sequence"))(build_zeroed)
    assert {layout.value for layout in mine.layouts} == {"flat", "sequence"}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda spec: nn.Linear(spec.num_channels, spec.num_channels), "0 at birth|exactly 0"),
        (lambda spec: _Wrong(spec.num_channels), "shape"),
    ],
)
def test_a_builder_that_breaks_the_contract_is_refused_where_it_is_declared(
    build: object, message: str
) -> None:
    with pytest.raises(BlueprintContractError, match=message):
        blueprint("bad", needs="flat")(build)  # type: ignore[arg-type]


class _Wrong(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Linear(channels, channels + 1)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.layer(h)
        return out


def test_an_unknown_layout_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"needs='3d'.*2d"):
        blueprint("x", needs="3d")


def test_names_families_and_own_ones_are_offered_and_a_wrong_name_is_not() -> None:
    mine = blueprint("scale", needs="flat")(build_zeroed)
    registry, names = extend_registry(["conv", mine])
    assert names == ("conv", "scale")
    assert "scale" in registry.ids
    assert extend_registry(None)[1] == ()
    with pytest.raises(UnknownNameError, match="did you mean 'conv_light'"):
        extend_registry(["conv_lihgt"])
    with pytest.raises(ConfigError, match=r"blueprints holds function: expected names.*@esper\.blueprint"):
        extend_registry([build_zeroed])  # type: ignore[list-item]


def test_two_of_one_id_are_refused() -> None:
    mine = blueprint("mlp", needs="flat")(build_zeroed)
    with pytest.raises(ConfigError, match="'mlp' is registered already"):
        extend_registry([mine])


# ---------------------------------------------------------------------- offered by a configuration


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory with a module of own seeds; search path and modules are put back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / f"{SEED_MODULE}.py").write_text(SEEDS, encoding="utf-8")
    (tmp_path / "own_bad.py").write_text(
        SEEDS.replace("    nn.init.zeros_(layer.weight)\n", ""), encoding="utf-8"
    )
    yield tmp_path
    for name in (SEED_MODULE, "own_bad"):
        sys.modules.pop(name, None)


def test_a_configuration_offers_own_seeds_beside_built_in_ones(folder: Path) -> None:
    registry, names = load_offer(("conv", f"{SEED_MODULE}:scale"))
    assert names == ("conv", "scale")
    assert registry.get("scale").family == "own"
    assert "scale" not in builtin_registry().ids


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("own_seeds:scail", r"own_seeds .*has no blueprint scail: did you mean 'scale'"),
        ("own_seeds:plain", "has plain, but it is a function; expected a blueprint"),
        ("own_sedes:scale", "there is no module 'own_sedes'.*own_seeds"),
        ("own_seeds:", "expected package.module:Class"),
        ("own_bad:scale", "0 at birth|exactly 0"),
    ],
)
def test_a_seed_that_cannot_be_had_is_refused_in_one_line(folder: Path, reference: str, message: str) -> None:
    with pytest.raises(EsperError, match=message):
        load_offer((reference,))


def test_what_is_offered_by_its_own_name_joins_the_rotation_once() -> None:
    rules = HeuristicConfig()
    flat = blueprint("flat_one", needs="flat")(build_zeroed)
    both = blueprint("both", needs=("flat", "sequence"))(build_zeroed)
    wider = add_to_rotation(add_to_rotation(rules, [flat, both]), [flat])
    assert wider.blueprints_flat == (*rules.blueprints_flat, "flat_one", "both")
    assert wider.blueprints_sequence == (*rules.blueprints_sequence, "both")
    assert wider.blueprints_2d == rules.blueprints_2d


def test_the_heuristic_plants_an_own_seed_beside_built_in_ones() -> None:
    mine = blueprint("scale", needs="flat")(build_zeroed)
    grown = grow_net(policy="heuristic", blueprints=["mlp_small", mine])
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.01)
    controller = Controller(grown, optimizer, epochs=100)
    planted = set()
    for _ in range(30):
        told = controller.act()
        planted |= {word for event in told for word in ("scale", "mlp_small") if f"({word})" in str(event)}
        optimizer.step()
        controller.observe(1.0)
    assert planted == {"scale", "mlp_small"}


def test_a_run_grows_own_seeds_and_rebuilds_them_only_where_their_code_is_trusted(folder: Path) -> None:
    config = replace(tiny("heuristic"), blueprints=(f"{SEED_MODULE}:scale",))
    config = replace(config, heuristic=replace(config.heuristic, first_germination_epoch=1))
    run = folder / "run"
    result = run_experiment(config, run_dir=run, provenance={})
    assert {slot["blueprint"] for slot in result.slots} & {"scale"}
    (folder / f"{SEED_MODULE}.py").rename(folder / "elsewhere.py")
    sys.modules.pop(SEED_MODULE)
    for rebuild in (lambda: replay_run(run), lambda: export_run(run, folder / "m", allow_unfinished=True)):
        with pytest.raises(ConfigError, match=r"names code of seeds.*own_seeds:scale.*--trust-code"):
            rebuild()
    assert SEED_MODULE not in sys.modules
    (folder / "elsewhere.py").rename(folder / f"{SEED_MODULE}.py")
    assert replay_run(run, is_code_trusted=True).is_identical
    summary = export_run(run, folder / "m", allow_unfinished=True, is_code_trusted=True)
    assert summary.max_difference <= MAX_DIFFERENCE
