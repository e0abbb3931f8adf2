"""Stale memories: none while the weights stand still, else as stale as a repetition step by step says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from esper.simic.memory_drift import MemoryUse, measure_drift, measure_use
from esper.simic.rollout_buffer import RolloutBatch
from esper.tamiyo import Memory
from simic.tiny_networks import Bench, Script, build_bench

LONG = Script(lengths=(50,))


def collect() -> tuple[Bench, RolloutBatch]:
    bench = build_bench(script=LONG)
    return bench, bench.collect().batch


def measure(bench: Bench, batch: RolloutBatch, goes_on: Tensor) -> float | None:
    memory, autocast = bench.carry.memory, bench.learner.autocast
    return measure_drift(bench.network, batch, memory, goes_on, autocast).relative


def shake(bench: Bench) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in bench.network.parameters():
            parameter.add_(
                torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=0.1
            )


def test_a20_a_memory_is_not_stale_while_the_weights_stand_still() -> None:
    bench, batch = collect()
    assert measure(bench, batch, torch.ones(3, dtype=torch.bool)) == 0.0


def test_a20_drift_is_the_relative_distance_to_the_recomputed_memory() -> None:
    bench, batch = collect()
    shake(bench)
    memory = bench.network.initial_memory(3)
    for step in range(batch.actions.shape[1]):
        inputs = {name: tensor[:, step] for name, tensor in batch.inputs.items()}
        memory = bench.network.act(inputs, memory, batch.steps.episode_start[:, step], is_greedy=True).memory
    stored, rows = bench.carry.memory, [0, 2]
    old = torch.cat([part[:, rows].flatten() for part in stored])
    new = torch.cat([part[:, rows].flatten() for part in memory])
    expected = float(((old - new).norm() / old.norm()).detach())
    drift = measure(bench, batch, torch.tensor([True, False, True]))
    assert expected > 0.01
    assert drift == pytest.approx(expected, rel=1e-9)


def test_where_every_row_ended_there_is_nothing_to_report() -> None:
    bench, batch = collect()
    assert measure(bench, batch, torch.zeros(3, dtype=torch.bool)) is None


def test_measuring_changes_neither_memory_nor_rollout() -> None:
    bench, batch = collect()
    before = [bench.carry.memory.hidden.clone(), batch.memory.hidden.clone(), batch.actions.clone()]
    shake(bench)
    measure(bench, batch, torch.ones(3, dtype=torch.bool))
    after = [bench.carry.memory.hidden, batch.memory.hidden, batch.actions]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_use_of_a_memory_is_counted_over_its_units_and_adds_up_over_ranks() -> None:
    hidden = torch.tensor([[[0.5, -1.0], [0.96, 0.0]]])
    memory = Memory(hidden, 2 * hidden)
    found = measure_use(memory).describe()
    assert found["rollout/memory_saturation"] == 0.5
    assert found["rollout/memory_rms"] == pytest.approx(float(hidden.square().mean().sqrt()))
    assert found["rollout/cell_rms"] == pytest.approx(2 * found["rollout/memory_rms"])
    halves = [measure_use(memory.select(torch.tensor([row]))) for row in (0, 1)]
    joined = MemoryUse(*(sum(pair) for pair in zip(*halves, strict=True)))
    assert joined.describe() == pytest.approx(found)


def test_an_empty_or_broken_memory_reports_nothing() -> None:
    empty, broken = torch.zeros(1, 2, 0), torch.full((1, 2, 3), float("nan"))
    assert measure_use(Memory(empty, empty)).describe() == {}
    assert measure_use(Memory(broken, broken)).describe() == {}
