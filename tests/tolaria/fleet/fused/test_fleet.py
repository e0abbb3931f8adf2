"""Hosts trained as one program live exactly as they live one after another, whatever grows in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from esper.kasmina import builtin_registry, export_model
from esper.leyline import AlphaCurve, BlendForm, Layout, LifecycleOp
from esper.tolaria import Fleet, HostRunParts, OptimizerConfig, StateRecord
from esper.tolaria.checkpoint import CheckpointStore, checkpoint_name
from esper.tolaria.fleet.fused import FusedFleet
from tolaria.fleet.fused.double_hosts import (
    CLIP,
    Kind,
    cnn,
    do,
    grow,
    make_host_parts,
    mlp,
    quick_config,
    word_data,
    word_task,
    words,
)
from tolaria.fleet.fused.twins import Script, Twins, draw_decisions, expect_same
from tolaria.small_run import StopAfter, through_json

pytestmark = pytest.mark.usefixtures("in_double")

IMAGE_SEEDS = ("conv_light", "attention", "norm", "depthwise", "noop")
FLAT_SEEDS = ("low_rank", "mlp_small", "norm", "mlp", "noop")
WORD_SEEDS = ("lora_small", "mlp_small", "norm", "causal_attention", "noop")


def make_episode(first: str, second: str, seeds: tuple[str, ...]) -> Script:
    """Return an episode of four hosts in 7 intervals; each lives another life in the same slots."""
    a, b, c, d, e = seeds
    advance, cull = LifecycleOp.ADVANCE, LifecycleOp.CULL
    return {
        (0, 0): grow(first, a, tempo=2),
        (2, 0): do(advance, first),  # blends over two intervals, then is on probation
        (5, 0): do(LifecycleOp.FOSSILIZE, first),
        (6, 0): grow(second, b),
        (0, 1): grow(first, b, BlendForm.GATE, AlphaCurve.COSINE, target=0.5),
        (1, 1): do(advance, first),
        (2, 1): do(LifecycleOp.SET_ALPHA, first, tempo=2),
        (4, 1): do(cull, first, tempo=3),  # ramps down, frozen, while the host trains on
        (0, 2): grow(first, c),
        (1, 2): do(cull, first),  # in isolation, at once; the slot then cools down
        (2, 2): grow(second, d, BlendForm.VALVE, AlphaCurve.SIGMOID, tempo=1),
        (3, 2): do(advance, second),
        (5, 2): grow(first, e),  # has nothing to learn, and so stays in isolation
        (0, 3): grow(second, a),
        (1, 3): grow(first, d),
        (2, 3): do(advance, second),
        (3, 3): do(advance, first),  # two seeds at work, one behind the other
        (5, 3): do(cull, first),
    }


def kind_of(build: Callable[[], object], seeds: tuple[str, ...], **changes: object) -> Kind:
    """Return hosts of images whose builder and blueprints are given."""

    def parts() -> HostRunParts:
        return make_host_parts(build, blueprints=seeds)  # type: ignore[arg-type]

    return Kind(parts=parts, config=quick_config(**changes))


WORDS = Kind(parts=lambda: make_host_parts(words, word_data(), blueprints=WORD_SEEDS), task=word_task())
FAMILIES = {
    "cnn batch": (kind_of(cnn("batch"), IMAGE_SEEDS), make_episode("block1", "block2", IMAGE_SEEDS)),
    "cnn group": (kind_of(cnn("group"), IMAGE_SEEDS), make_episode("block2", "block3", IMAGE_SEEDS)),
    "cnn none": (kind_of(cnn("none"), IMAGE_SEEDS), make_episode("block1", "block3", IMAGE_SEEDS)),
    "mlp none": (kind_of(mlp("none"), FLAT_SEEDS), make_episode("hidden1", "hidden2", FLAT_SEEDS)),
    "mlp batch": (kind_of(mlp("batch"), FLAT_SEEDS), make_episode("hidden1", "hidden2", FLAT_SEEDS)),
    "mlp layer": (kind_of(mlp("layer"), FLAT_SEEDS), make_episode("hidden1", "hidden2", FLAT_SEEDS)),
    "transformer": (WORDS, make_episode("block1", "block2", WORD_SEEDS)),
}
SCRIPTED = [
    pytest.param(name, marks=() if name in ("cnn batch", "mlp layer", "transformer") else pytest.mark.slow)
    for name in FAMILIES
]


@pytest.mark.parametrize("family", SCRIPTED)
def test_four_different_lives_are_lived_as_one_after_another(family: str) -> None:
    kind, episode = FAMILIES[family]
    twins = Twins(kind, range(4))
    for _ in range(7):
        twins.step(episode)
    assert twins.fused.share.alone == 0
    assert twins.fused.share.fused == 28


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("family", FAMILIES)
def test_random_lives_with_every_blueprint_are_lived_as_one_after_another(family: str, seed: int) -> None:
    kind = FAMILIES[family][0]
    build = kind.parts().build_host
    data = word_data() if family == "transformer" else None
    optimizer = (OptimizerConfig(), OptimizerConfig(name="adam", learning_rate=0.003), CLIP)[seed]
    config = quick_config(snapshot_every=1, optimizer=optimizer)
    twins = Twins(replace(kind, parts=lambda: make_host_parts(build, data), config=config), range(5))
    start = draw_decisions(5, seed)
    choosers = start(), start()
    for _ in range(10):
        twins.step(choose=choosers)
    assert twins.fused.share.alone == 0
    assert len(twins.done) >= 10


@pytest.mark.slow
def test_every_blueprint_of_images_lives_in_one_slot_at_once() -> None:
    registry = builtin_registry()
    names = [
        name
        for name in registry.ids
        if Layout.MAP_2D in registry.get(name).layouts and not registry.get(name).spans_pair
    ]
    forms = tuple(BlendForm)
    twins = Twins(kind_of(cnn(), tuple(names)), range(len(names)))
    for epoch in range(3):
        advance = {
            (epoch, place): do(LifecycleOp.ADVANCE, "block1")
            for place, name in enumerate(names)
            if epoch == 1 and name != "noop"
        }
        plant = {
            (0, place): grow("block1", name, forms[place % len(forms)]) for place, name in enumerate(names)
        }
        twins.step({**plant, **advance})
    assert len({run.bench.model.slot("block1").state.blueprint for run in twins.fused.runs}) == len(names)


FLAT = kind_of(mlp("batch"), ("low_rank", "norm"), snapshot_every=1)
LIVES: Script = {
    (0, 0): grow("hidden1", "low_rank"),
    (1, 0): do(LifecycleOp.ADVANCE, "hidden1"),
    (1, 1): grow("hidden2", "norm", BlendForm.VALVE),
    (2, 1): do(LifecycleOp.ADVANCE, "hidden2"),
    (3, 0): grow("hidden2", "norm"),
}


def test_fresh_and_resumed_hosts_join_in_the_middle() -> None:
    twins = Twins(FLAT, range(3))
    saved = []
    for _ in range(4):
        twins.step(LIVES)
        saved.append(through_json(twins.serial.state()[0]))
    for fleet in (twins.serial, twins.fused):
        fleet.reset([True, False, True], [7, 1, 8], [saved[1], None, None])
    assert [run.epoch for run in twins.fused.runs] == [2, 4, 0]
    assert [run.instance for run in twins.fused.runs] == [7, 1, 8]
    for _ in range(3):
        twins.step({**LIVES, (1, 2): grow("hidden1", "norm")})
    assert twins.fused.share.alone == 0


def test_states_go_from_one_kind_of_fleet_to_the_other_and_back(tmp_path: Path) -> None:
    twins = Twins(FLAT, range(2))
    for epoch in range(5):
        twins.step(LIVES)
        if epoch in (1, 3):
            states = twins.serial.state(), twins.fused.state()
            twins.serial.restore(
                [through_file(state, tmp_path / f"s{epoch}{i}") for i, state in enumerate(states[1])]
            )
            twins.fused.restore(
                [through_file(state, tmp_path / f"f{epoch}{i}") for i, state in enumerate(states[0])]
            )
            twins.compare()


def through_file(record: StateRecord, root: Path) -> StateRecord:
    """Return a record as it comes back from a checkpoint."""
    store = CheckpointStore(root, kind="run", esper_version="0.1.0")
    store.save(checkpoint_name(1, 0), record, topology_hash="t")
    return store.load().record


def test_between_intervals_a_host_is_an_ordinary_one() -> None:
    twins = Twins(FLAT, range(2))
    for _ in range(3):
        twins.step(LIVES)
    for left, right in zip(twins.serial.runs, twins.fused.runs, strict=True):
        inputs = left.bench.validation[0]
        plain = [export_model(run.bench.model, inputs, allow_unfinished=True) for run in (left, right)]
        expect_same("export", plain[0](inputs), plain[1](inputs))
        expect_same("outputs", left.bench.model(inputs), right.bench.model(inputs))
        tested = [run.bench.evaluator.evaluate(run.bench.model, *run.bench.test) for run in (left, right)]
        expect_same("evaluation", tested[0], tested[1])
        # A run that is taken out of its fleet for one interval trains as any other.
        expect_same("outcome", left.train_epoch(), right.train_epoch())
    twins.step(LIVES)
    expect_same("end", twins.serial.conclude([True, False]), twins.fused.conclude([True, False]))
    expect_same("end", twins.serial.finish(), twins.fused.finish())
    twins.compare()
    twins.fused.close()
    twins.fused.close()
    assert twins.fused.num_hosts == 0


def test_a_single_host_can_be_a_program_and_a_few_need_not() -> None:
    one, few = Twins(FLAT, [3], min_rows=1), Twins(FLAT, range(2), min_rows=3)
    for _ in range(3):
        one.step(LIVES)
        few.step(LIVES)
    assert (one.fused.share.fused, one.fused.share.alone) == (3, 0)
    assert (few.fused.share.fused, few.fused.share.alone) == (0, 6)


def test_a_finished_host_is_left_alone() -> None:
    twins = Twins(replace(FLAT, others={2: replace(FLAT.config, epochs=2)}), range(3))
    for _ in range(2):
        twins.step(LIVES)
    before = twins.fused.runs[2].state()
    outcomes, verdicts = twins.fused.train_epoch()
    assert [outcome is None for outcome in outcomes] == [False, False, True]
    assert len(verdicts) == 3
    assert twins.fused.is_finished == (False, False, True)
    after = twins.fused.runs[2].state()
    assert before.state == after.state
    assert all(torch.equal(tensor, after.tensors[name]) for name, tensor in before.tensors.items())


def test_the_fused_fleet_has_every_method_of_the_protocol() -> None:
    wanted = {name for name in vars(Fleet) if not name.startswith("_")}
    assert wanted <= {name for name in vars(FusedFleet) if not name.startswith("_")}
    with pytest.raises(ValueError, match="need at least one"):
        FusedFleet(FLAT.builder()[0], [], encode=list)


def test_an_interval_that_was_begun_elsewhere_is_ended_alone() -> None:
    twins = Twins(FLAT, range(3))
    twins.step(LIVES)
    for run in (twins.serial.runs[1], twins.fused.runs[1]):
        assert run.train_epoch(StopAfter(2)) is None
    twins.train()
    assert (twins.fused.share.fused, twins.fused.share.alone) == (5, 1)
    twins.train()
    assert (twins.fused.share.fused, twins.fused.share.alone) == (8, 1)
