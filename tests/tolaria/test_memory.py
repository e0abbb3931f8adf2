"""Claims about memory: needs are worked out by hand and held against real tensors; a shortage is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from esper.leyline import (
    MEMORY_REFUSAL,
    ConfigError,
    Decision,
    DecisionMade,
    LifecycleOp,
    SeedStage,
    legal_blueprints,
    legal_ops,
)
from esper.tolaria import (
    HostRun,
    HostRunConfig,
    MeasuringConfig,
    MemoryNeed,
    OptimizerConfig,
    estimate_need,
    refuse_shortage,
)

from .small_run import ListSink, drive, germinate, make_config, make_parts, make_run

MIB = 2**20


def make_settings(name: str = "sgd", momentum: float = 0.9, *, chunk_items: int = 1) -> HostRunConfig:
    return HostRunConfig(
        batch_size=10,
        optimizer=OptimizerConfig(name=name, momentum=momentum),
        measuring=MeasuringConfig(chunk_items=chunk_items),
    )


def make_net() -> nn.Module:
    """28 trained numbers, 12 frozen ones, a buffer of 5; for the way back it keeps one map of 4 numbers."""
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3, bias=False))
    net[2].weight.requires_grad_(False)
    net.register_buffer("extra", torch.zeros(5))
    return net


@pytest.mark.parametrize(
    ("name", "momentum", "moments"), [("sgd", 0.9, 1), ("sgd", 0.0, 0), ("adam", 0.9, 2), ("adamw", 0.9, 2)]
)
def test_a_need_is_the_sum_worked_out_by_hand(name: str, momentum: float, moments: int) -> None:
    need = estimate_need(make_net(), (6,), make_settings(name, momentum))
    weights, trained, kept = 4 * (28 + 12 + 5), 4 * 28, 10 * 4 * 4
    assert need == MemoryNeed(
        weights=weights,
        gradients=trained,
        optimizer=moments * trained,
        activations=3 * kept,
        copies=3 * (weights + moments * trained),
    )
    assert need.total == 4 * (weights + moments * trained) + trained + 3 * kept
    assert need.unallocated == 2 * (weights + moments * trained) + 3 * kept


def test_a_large_evaluation_pass_counts_where_it_takes_more_than_training() -> None:
    assert estimate_need(make_net(), (6,), make_settings(chunk_items=1000)).activations == 3 * 1000 * 4 * 4


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_what_a_run_holds_after_an_epoch_is_what_was_estimated(name: str) -> None:
    """Weights, gradients and moments of a real run, and the bytes of its last good state."""
    run = make_run(replace(make_config(), optimizer=OptimizerConfig(name=name), snapshot_every=1))
    need = estimate_need(run.bench.model.host, (1, 8, 8), run.config)
    run.train_epoch()
    model, optimizer = run.bench.model, run.bench.optimizer
    assert need.weights == sum(tensor.nbytes for tensor in model.host.state_dict().values())
    gradients = [p.grad for p in model.host.parameters() if p.grad is not None]
    assert need.gradients == sum(gradient.nbytes for gradient in gradients)
    moments = sum(tensor.nbytes for tensor in optimizer.state()[0].values() if tensor.dim() > 0)
    assert need.optimizer == moments
    held = sum(
        tensor.nbytes
        for key, tensor in run.last_good.tensors.items()
        if key.startswith(("model.", "optimizer.")) and not key.endswith("/step")
    )
    assert need.copies == 3 * held


# ---------------------------------------------------------------------- a run that cannot fit

NEED = MemoryNeed(weights=MIB, gradients=MIB, optimizer=2 * MIB, activations=10 * MIB, copies=9 * MIB)


@pytest.mark.parametrize(("num_hosts", "total"), [(1, 23.0), (4, 62.0)])
def test_a_run_is_refused_one_byte_below_its_need_and_not_at_it(num_hosts: int, total: float) -> None:
    enough = int(total * MIB)
    refuse_shortage(NEED, HostRunConfig(), enough, num_hosts=num_hosts, device="cpu")
    with pytest.raises(ConfigError) as caught:
        refuse_shortage(NEED, HostRunConfig(), enough - 1, num_hosts=num_hosts, device="cpu")
    text = str(caught.value)
    assert f"{total:.1f} MiB" in text
    assert "host.batch_size=128" in text
    assert "\n" not in text
    assert "cpu has free" in text
    assert ("4 hosts" in text) == (num_hosts == 4)


def test_a_budget_goes_before_what_is_free_and_nothing_known_refuses_nothing() -> None:
    with pytest.raises(ConfigError, match=r"host\.max_memory_mb allows 22\.0 MiB"):
        refuse_shortage(NEED, HostRunConfig(max_memory_mb=22.0), 2**60, device="cpu")
    refuse_shortage(NEED, HostRunConfig(max_memory_mb=24.0), 0, device="cpu")
    refuse_shortage(NEED, HostRunConfig(), None, device="cpu")


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_out_of_range_is_refused(budget: float) -> None:
    with pytest.raises(ConfigError, match=r"host\.max_memory_mb"):
        HostRunConfig(max_memory_mb=budget)


# ---------------------------------------------------------------------- a seed that does not fit


def make_tight(extra_bytes: int, sink: ListSink | None = None) -> HostRun:
    """Return a run whose budget leaves so many bytes beside its host."""
    host = estimate_need(make_run().bench.model.host, (1, 8, 8), make_config())
    config = replace(make_config(), max_memory_mb=(host.total + extra_bytes) / MIB)
    return make_run(config, make_parts(sink=sink))


def test_a_seed_that_does_not_fit_is_refused_with_both_numbers_and_masked() -> None:
    sink = ListSink()
    run = make_tight(60_000, sink)
    observation = run.observe()
    by_id = observation.space.descriptors["block1"]
    left = observation.budgets.memory_bytes_left
    assert left is not None
    assert abs(left - 60_000) <= 1
    report = observation.slot("block1")
    offered = legal_blueprints(report, observation)
    assert set(offered) == {name for name, item in by_id.items() if item.memory_bytes <= left}
    assert "noop" in offered
    assert "conv_heavy" not in offered
    result = run.apply(Decision(action=germinate("block1", "conv_heavy")))
    need = by_id["conv_heavy"].memory_bytes
    assert result.refusal == f"{MEMORY_REFUSAL}: 'conv_heavy' in 'block1' needs {need} bytes, {left} are left"
    (made,) = sink.events
    assert isinstance(made, DecisionMade)
    assert made.refusal == result.refusal
    waiting = make_tight(60_000)
    waiting.apply(Decision())
    assert run.state().state == waiting.state().state


def test_where_nothing_fits_germination_itself_is_masked() -> None:
    observation = make_tight(-1).observe()
    assert LifecycleOp.GERMINATE not in legal_ops(observation.slot("block1"), observation)


def test_seeds_that_live_take_what_was_estimated_from_the_budget() -> None:
    run = make_tight(2**20)
    before = run.observe()
    drive(run, 1, ((0, germinate("block1", "conv_heavy")),))
    left = [observation.budgets.memory_bytes_left for observation in (before, run.observe())]
    assert left[0] is not None
    assert left[1] is not None
    # The price is that of the dearest form; this seed was added, which takes a little less.
    price = before.space.descriptors["block1"]["conv_heavy"].memory_bytes
    assert 0.6 * price < left[0] - left[1] <= price


def test_recomputed_seeds_take_turns_with_their_activations() -> None:
    left, activations = [], []
    for mode in ("off", "on"):
        run = make_run(replace(make_config(), seed_checkpointing=mode, max_memory_mb=64.0))
        drive(run, 2, ((0, germinate("block1", "conv_heavy")), (1, germinate("block2", "conv_heavy"))))
        left.append(run.observe().budgets.memory_bytes_left)
        for slot in (run.bench.model.slot("block1"), run.bench.model.slot("block2")):
            assert slot.seed is not None
            activations.append(estimate_need(slot.seed, slot.spec.shape, run.config).activations)
    assert left[0] is not None
    assert left[1] is not None
    assert left[1] - left[0] == min(activations[:2]) > 0


def test_free_memory_counts_where_there_is_no_budget_and_is_asked_each_time() -> None:
    host = estimate_need(make_run().bench.model.host, (1, 8, 8), make_config())
    free = [1000 * host.total]
    run = make_run(parts=replace(make_parts(), read_memory=lambda: free[0]))
    assert run.observe().budgets.memory_bytes_left is None
    assert not any(item.memory_bytes for item in run.observe().space.descriptors["block1"].values())
    free[0] = host.unallocated + 5_000
    observation = run.observe()
    assert observation.budgets.memory_bytes_left == 5_000
    assert observation.space.descriptors["block1"]["conv_heavy"].memory_bytes > 5_000
    assert run.apply(Decision(action=germinate("block1", "conv_heavy"))).is_refused
    free[0] = 1000 * host.total
    assert not run.apply(Decision(action=germinate("block1", "conv_heavy"))).is_refused


def test_free_memory_is_not_asked_while_no_slot_is_free() -> None:
    looks: list[int] = []

    def look() -> int:
        looks.append(1)
        return 2**40

    run = make_run(parts=replace(make_parts(), read_memory=look))
    drive(run, 1, ((0, germinate("block1")),))
    for slot in run.bench.model.each_slot():
        slot.state.stage = SeedStage.CULLED
    looks.clear()
    assert run.observe().budgets.memory_bytes_left is None
    assert not looks


def test_looking_at_memory_moves_no_stream_and_changes_no_bit_of_a_life() -> None:
    sinks = ListSink(), ListSink()
    plain = make_run(parts=make_parts(sink=sinks[0], dropout=0.1))
    watched = make_run(replace(make_config(), max_memory_mb=64.0), make_parts(sink=sinks[1], dropout=0.1))
    for run in (plain, watched):
        drive(run, 4)
    assert sinks[0].events == sinks[1].events
