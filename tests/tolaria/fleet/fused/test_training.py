"""An interval of a group under every optimiser, data order and precision equals that of each host alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch.overrides import TorchFunctionMode

from esper.data import AugmentConfig, load_dataset
from esper.kasmina import CNNHost, CNNHostConfig
from esper.leyline import Action, BlendForm, Decision, LifecycleOp
from esper.tamiyo import HeuristicConfig, HeuristicTamiyo
from esper.tolaria import HostRunParts, OptimizerConfig, SerialFleet
from esper.tolaria.fleet.fused import FusedFleet
from esper.tolaria.fleet.fused.stack import HostStack
from esper.tolaria.fleet.fused.training import GroupTraining
from tolaria.fleet.fused.double_hosts import (
    CLIP,
    Kind,
    cnn,
    do,
    grow,
    image_data,
    make_host_parts,
    mlp,
    quick_config,
)
from tolaria.fleet.fused.twins import Script, Twins, expect_same
from tolaria.small_run import make_task

BLUEPRINTS = ("conv_light", "attention", "norm")
EPISODE: Script = {
    (0, 0): grow("block1", "conv_light"),
    (0, 1): grow("block1", "attention", BlendForm.GATE, tempo=3),
    (1, 0): do(LifecycleOp.ADVANCE, "block1"),
    (1, 1): do(LifecycleOp.ADVANCE, "block1"),
    (1, 2): grow("block2", "norm", BlendForm.VALVE),
    (3, 0): do(LifecycleOp.CULL, "block1", tempo=3),
}


def image_parts() -> HostRunParts:
    return make_host_parts(cnn(), blueprints=BLUEPRINTS)


def decision_of(epoch: int, instance: int) -> Decision:
    """Return what the episode says for a host, wherever it stands in its fleet."""
    return Decision(action=EPISODE.get((epoch, instance), Action()))


def live(kind: Kind, num_intervals: int = 5, script: Script | None = None) -> Twins:
    """Run an episode of three hosts, compared in every interval."""
    twins = Twins(kind, range(3))
    for _ in range(num_intervals):
        twins.step(EPISODE if script is None else script)
    assert twins.fused.share.alone == 0
    return twins


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("clip", [0.5, pytest.param(100.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_every_optimiser_moves_the_rows_as_it_moves_each_host(name: str, clip: float) -> None:
    rate = 0.05 if name == "sgd" else 0.003
    optimizer = OptimizerConfig(
        name=name, learning_rate=rate, weight_decay=0.1, clip_norm=clip, newborn_multiplier=2.0
    )
    twins = live(Kind(parts=image_parts, config=quick_config(optimizer=optimizer)))
    norms = [run.signals.host_gradient_norm for run in twins.fused.runs]
    assert (max(norms) > clip) is (clip < 1.0)  # it bites, or it does not


@pytest.mark.usefixtures("in_double")
def test_each_row_keeps_its_own_rate_and_schedule() -> None:
    config = quick_config()
    others = {
        1: replace(config, optimizer=replace(CLIP, learning_rate=0.2, warmup_fraction=0.3)),
        2: replace(config, epochs=5),
    }
    live(Kind(parts=image_parts, config=config, others=others))


@pytest.mark.usefixtures("in_double")
@pytest.mark.slow
def test_an_interval_need_not_be_a_pass_over_the_data() -> None:
    live(Kind(parts=image_parts, config=quick_config(interval_batches=2)))


@pytest.mark.usefixtures("in_double")
def test_each_row_is_augmented_as_its_host_is() -> None:
    def parts() -> HostRunParts:
        return replace(image_parts(), augment=AugmentConfig(padding=1))

    live(Kind(parts=parts), num_intervals=3)


@pytest.mark.usefixtures("in_double")
def test_a_last_batch_of_two_items_is_a_batch() -> None:
    data = image_data(34)
    parts = Kind(parts=lambda: make_host_parts(cnn("group"), data, blueprints=BLUEPRINTS))
    live(parts, num_intervals=3)


@pytest.mark.usefixtures("in_double")
def test_rows_that_trade_places_trade_results() -> None:
    kind = Kind(parts=image_parts)
    orders = ((0, 1, 2), (2, 0, 1))
    fleets = [FusedFleet(kind.builder()[0], order, encode=list) for order in orders]
    for epoch in range(3):
        for fleet, order in zip(fleets, orders, strict=True):
            fleet.apply([decision_of(epoch, instance) for instance in order])
            fleet.train_epoch()
    of_instance = [{run.instance: run.state() for run in fleet.runs} for fleet in fleets]
    expect_same("state", of_instance[0], of_instance[1])


@pytest.fixture
def in_single() -> None:
    """Leave the default type as it is, and say so."""
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.usefixtures("in_single")
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_in_single_precision_a_step_agrees_to_five_digits(norm: str) -> None:
    config = quick_config(interval_batches=1)
    kind = Kind(parts=lambda: make_host_parts(cnn(norm), blueprints=BLUEPRINTS), config=config)
    serial = SerialFleet(kind.builder()[0], range(3), encode=list)
    fused = FusedFleet(kind.builder()[0], range(3), encode=list)
    for epoch in range(2):
        before = serial.state()
        fused.restore(before)
        for fleet in (serial, fused):
            fleet.apply([decision_of(epoch, instance) for instance in range(3)])
            fleet.train_epoch()
        for left, right in zip(serial.state(), fused.state(), strict=True):
            own = {name: tensor for name, tensor in left.tensors.items() if name.startswith("model.")}
            expect_same("model", own, {name: right.tensors[name] for name in own}, relative=1e-5)


def test_half_precision_of_the_cpu_is_fused_too_and_stays_close() -> None:
    kind = Kind(parts=lambda: make_host_parts(mlp(), blueprints=("norm",)), config=quick_config(amp="bf16"))
    serial = SerialFleet(kind.builder()[0], range(2), encode=list)
    fused = FusedFleet(kind.builder()[0], range(2), encode=list)
    wanted, found = serial.train_epoch()[0], fused.train_epoch()[0]
    assert fused.share.alone == 0
    for left, right in zip(wanted, found, strict=True):
        assert left is not None
        assert right is not None
        assert left.train_loss == pytest.approx(right.train_loss, rel=0.02)


@pytest.mark.usefixtures("in_single")
def test_scores_are_made_by_each_host_of_what_it_has_become() -> None:
    config = quick_config()
    config = replace(config, measuring=replace(config.measuring, score_every=1, score_items=16))
    kind = Kind(parts=lambda: make_host_parts(mlp(), blueprints=("norm",)), config=config)
    serial = SerialFleet(kind.builder()[0], range(2), encode=list)
    fused = FusedFleet(kind.builder()[0], range(2), encode=list)
    for fleet in (serial, fused):
        fleet.apply([Decision(action=grow("hidden1", "norm")), Decision()])
        fleet.train_epoch()
    for left, right in zip(serial.runs, fused.runs, strict=True):
        assert left.bench.ledger.state() == right.bench.ledger.state()
        for slot_id in left.bench.model.slot_ids:
            wanted, found = (run.bench.model.slot(slot_id).state for run in (left, right))
            assert wanted.scores is not None
            assert found.scores_age_epochs == 0
            expect_same("scores", wanted.scores, found.scores, relative=1e-3)


@pytest.mark.usefixtures("in_single")
@pytest.mark.slow
def test_the_heuristic_decides_the_same_on_the_digits_in_single_precision() -> None:
    heuristic = HeuristicConfig(
        first_germination_epoch=1, germination_interval_epochs=2, is_stability_required=False
    )
    config = replace(quick_config(epochs=8), batch_size=128, snapshot_every=3)
    task, host = make_task(10), CNNHostConfig(in_channels=1, num_classes=10, base_channels=4)
    data = load_dataset("digits")
    kind = Kind(parts=lambda: make_host_parts(lambda: CNNHost(host), data), config=config, task=task)
    lives, ends = [], []
    for fleet_of in (SerialFleet, FusedFleet):
        fleet = fleet_of(kind.builder()[0], range(3), encode=list)
        policies = [HeuristicTamiyo(heuristic) for _ in range(3)]
        life = []
        while not all(fleet.is_finished):
            decisions = [
                policy.decide(seen) for policy, seen in zip(policies, fleet.observations(), strict=True)
            ]
            fleet.apply(decisions)
            outcomes, _ = fleet.train_epoch()
            stages = [[slot.state.stage for slot in run.bench.model.each_slot()] for run in fleet.runs]
            life.append(([decision.action for decision in decisions], stages))
        lives.append(life)
        ends.append([outcome.metric for outcome in outcomes if outcome is not None])
    assert lives[0] == lives[1]
    assert sum(action.slot is not None for actions, _ in lives[0] for action in actions) >= 6
    assert ends[0] == pytest.approx(ends[1], abs=0.02)


class Reads(TorchFunctionMode):
    """Counts what would make an accelerator's host wait: every look at a number of a tensor."""

    NAMES = frozenset(
        {
            "tolist",
            "item",
            "__bool__",
            "__float__",
            "__int__",
            "__index__",
            "cpu",
            "numpy",
            "nonzero",
            "equal",
        }
    )

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        name = getattr(func, "__name__", "")
        if name in self.NAMES:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def count_reads(batch_size: int, *, is_watched: bool) -> tuple[int, int]:
    """Return batches of an interval with a ramp and an isolated seed, and how often numbers were read."""
    config = quick_config(batch_size=batch_size)
    build, _ = Kind(parts=image_parts, config=config).builder()
    runs = [build(instance) for instance in range(3)]
    for epoch in range(3):
        for instance, run in enumerate(runs):
            run.apply(decision_of(epoch, instance))
            if epoch < 2:
                run.train_epoch()
    epochs = [run.begin_interval() for run in runs]
    training = GroupTraining(runs, HostStack(runs[0].bench.model), is_watched=is_watched)
    with Reads() as reads:
        training.train(epochs)
    return runs[0].bench.batches.num_batches, len(reads.seen)


def test_numbers_are_read_once_an_interval_however_many_batches_it_has() -> None:
    few, many = (count_reads(size, is_watched=False) for size in (40, 10))
    assert many[0] > 2 * few[0]
    assert many[1] == few[1]
    watched = count_reads(10, is_watched=True)
    assert watched[1] >= few[1] + watched[0] - 1  # so the count sees what it should
