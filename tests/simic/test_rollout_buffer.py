"""Rows of experience: bounded, whole, with the masks that they were sampled with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from esper.leyline import ForeignCheckpointError
from esper.simic.config import RolloutConfig
from esper.simic.rollout_buffer import (
    RolloutBatch,
    StoredStep,
    TamiyoRolloutBuffer,
    build_buffer,
    compute_mask_hash,
)
from esper.tamiyo import Memory

E, T, H = 3, 5, 2
CPU = torch.device("cpu")


def build() -> TamiyoRolloutBuffer:
    return TamiyoRolloutBuffer(num_envs=E, num_steps=T, device=CPU)


def memory() -> Memory:
    return Memory(torch.full((1, E, 4), 2.0, requires_grad=True), torch.full((1, E, 4), 3.0))


def step_of(t: int) -> StoredStep:
    draw = torch.Generator().manual_seed(t)
    flags = torch.rand(5, E, generator=draw) < 0.5
    return StoredStep(
        inputs={
            "features": torch.randn(E, 3, generator=draw),
            "mask_op": torch.rand(E, 4, generator=draw) < 0.5,
            "mask_slot": torch.rand(E, 4, 2, generator=draw) < 0.5,
            "slot_families": torch.randint(0, 5, (E, 2), generator=draw),
        },
        actions=torch.randint(0, 4, (E, H), generator=draw),
        log_probs=torch.randn(E, H, generator=draw, requires_grad=True),
        value=torch.randn(E, generator=draw),
        num_valid=torch.randint(1, 4, (E,), generator=draw),
        reward=torch.randn(E, generator=draw),
        terminated=flags[0],
        truncated=flags[1] & ~flags[0],
        valid=flags[2],
        episode_start=flags[3],
    )


def filled(num_steps: int = T) -> TamiyoRolloutBuffer:
    buffer = build()
    buffer.begin(memory())
    for t in range(num_steps):
        buffer.add(step_of(t))
    return buffer


def columns_of(batch: RolloutBatch) -> dict[str, Tensor]:
    columns = {f"inputs.{name}": x for name, x in batch.inputs.items()} | batch.steps._asdict()
    columns |= {
        name: getattr(batch, name) for name in ("actions", "log_probs", "value", "num_valid", "mask_hash")
    }
    return columns | batch.bootstrap._asdict() | batch.memory._asdict()


def assert_equal(first: RolloutBatch, second: RolloutBatch) -> None:
    ours, theirs = columns_of(first), columns_of(second)
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_is_added_comes_back_in_its_place_and_outside_any_graph() -> None:
    buffer = filled()
    batch = buffer.finish(torch.arange(E) * 1.0)
    for t in range(T):
        step = step_of(t)
        assert torch.equal(batch.actions[:, t], step.actions)
        assert torch.equal(batch.inputs["mask_slot"][:, t], step.inputs["mask_slot"])
        assert torch.equal(batch.steps.episode_start[:, t], step.episode_start)
        assert torch.equal(batch.log_probs[:, t], step.log_probs.detach())
    assert batch.num_rows == E
    assert not batch.log_probs.requires_grad
    assert torch.equal(batch.learn, batch.steps.valid & (batch.num_valid > 1))
    assert torch.equal(batch.bootstrap.last_value, torch.arange(E) * 1.0)


def test_a20_rows_start_from_the_detached_memory_that_was_handed_in() -> None:
    start = memory()
    buffer = build()
    buffer.begin(start)
    buffer.add(step_of(0))
    batch = buffer.finish(torch.zeros(E))
    assert not batch.memory.hidden.requires_grad
    assert torch.equal(batch.memory.hidden, start.hidden)
    with torch.no_grad():
        start.hidden.zero_()
    assert bool((batch.memory.hidden == 2.0).all())


def test_a20_a_selection_holds_whole_rows() -> None:
    batch = filled().finish(torch.zeros(E))
    rows = torch.tensor([2, 0])
    chosen = batch.select(rows)
    for name, tensor in columns_of(batch).items():
        dim = 1 if name in ("hidden", "cell") else 0
        assert torch.equal(columns_of(chosen)[name], tensor.index_select(dim, rows))


def test_overflow_is_refused() -> None:
    buffer = filled()
    assert buffer.is_full
    with pytest.raises(RuntimeError, match="cannot add step 6: capacity 5"):
        buffer.add(step_of(0))


def test_calls_out_of_order_are_refused() -> None:
    buffer = build()
    with pytest.raises(RuntimeError, match="begin"):
        buffer.add(step_of(0))
    with pytest.raises(RuntimeError, match="empty rollout"):
        buffer.finish(torch.zeros(E))
    buffer.begin(memory())
    with pytest.raises(RuntimeError, match="still holds a rollout"):
        buffer.begin(memory())
    buffer.add(step_of(0))
    buffer.finish(torch.zeros(E))
    assert buffer.is_finished
    with pytest.raises(RuntimeError, match="finished=True"):
        buffer.add(step_of(1))


def test_a_step_of_another_shape_is_refused() -> None:
    buffer = filled(1)
    step = step_of(1)
    with pytest.raises(ValueError, match=r"reward: shape \(2,\), expected \(3,\)"):
        buffer.add(step._replace(reward=step.reward[:2]))
    with pytest.raises(ValueError, match="slot_families"):
        buffer.add(step._replace(inputs={k: x for k, x in step.inputs.items() if k != "slot_families"}))


@pytest.mark.parametrize(("num_envs", "num_steps"), [(0, 1), (1, 0)])
def test_a_size_below_1_is_refused(num_envs: int, num_steps: int) -> None:
    with pytest.raises(ValueError, match="both must be >= 1"):
        TamiyoRolloutBuffer(num_envs=num_envs, num_steps=num_steps, device=CPU)


def test_memory_is_bounded_and_reused() -> None:
    buffer = filled(1)
    size = buffer.num_bytes
    for t in range(1, T):
        buffer.add(step_of(t))
    assert buffer.num_bytes == size
    first = buffer.finish(torch.zeros(E)).actions.data_ptr()
    for _ in range(3):
        buffer.clear()
        buffer.begin(memory())
        for t in range(T):
            buffer.add(step_of(t))
        assert buffer.num_bytes == size
    assert buffer.finish(torch.zeros(E)).actions.data_ptr() == first


def test_a_rollout_that_was_cut_short_shows_only_its_steps_and_nothing_of_the_one_before() -> None:
    buffer = filled(1)
    buffer.bootstrap(torch.ones(E), where=torch.ones(E, dtype=torch.bool))
    for t in range(1, T):
        buffer.add(step_of(t))
    buffer.clear()
    buffer.begin(memory())
    for t in range(2):
        buffer.add(step_of(t))
    batch = buffer.finish(torch.zeros(E))
    assert batch.actions.shape == (E, 2, H)
    assert not bool(batch.bootstrap.next_value.any())


def test_a_bootstrap_belongs_to_the_step_just_added_and_to_the_rows_that_were_cut() -> None:
    buffer = filled(2)
    buffer.bootstrap(torch.tensor([7.0, 8.0, 9.0]), where=torch.tensor([True, False, True]))
    buffer.add(step_of(2))
    expected = torch.tensor([[0.0, 7.0, 0.0], [0.0, 0.0, 0.0], [0.0, 9.0, 0.0]])
    assert torch.equal(buffer.finish(torch.zeros(E)).bootstrap.next_value, expected)


def test_a28_masks_are_hashed_when_sampled_and_one_flipped_entry_is_found() -> None:
    batch = filled().finish(torch.zeros(E))
    assert not bool(batch.find_changed_masks().any())
    for name, place in (("mask_op", (1, 3, 2)), ("mask_slot", (2, 0, 1, 1))):
        batch.inputs[name][place] ^= True
        found = batch.find_changed_masks()
        assert found.nonzero().tolist() == [list(place[:2])]
        assert batch.select(torch.tensor([place[0]])).find_changed_masks().nonzero().tolist() == [
            [0, place[1]]
        ]
        batch.inputs[name][place] ^= True


def test_a28_every_mask_of_a_small_size_has_its_own_hash() -> None:
    masks = torch.tensor([[bool(k >> bit & 1) for bit in range(12)] for k in range(4096)])
    split = {"mask_op": masks[:, :4], "mask_slot": masks[:, 4:].reshape(-1, 4, 2), "features": masks.float()}
    hashes = compute_mask_hash(split, num_leading=1)
    assert len(set(hashes.tolist())) == 4096
    assert torch.equal(compute_mask_hash({k: x[None] for k, x in split.items()}, num_leading=2)[0], hashes)


def test_a21_a_restored_buffer_goes_on_as_the_first() -> None:
    first, second = filled(2), build()
    first.bootstrap(torch.ones(E), where=torch.ones(E, dtype=torch.bool))
    second.restore(first.state())
    assert (second.num_steps, second.is_begun, second.is_finished) == (2, True, False)
    batches = []
    for buffer in (first, second):
        for t in range(2, T):
            buffer.add(step_of(t))
        batches.append(buffer.finish(torch.arange(E) * 1.0))
    assert_equal(*batches)
    assert first.num_bytes == second.num_bytes


def test_a21_an_empty_and_a_finished_buffer_are_restored() -> None:
    empty = build()
    empty.restore(build().state())
    assert (empty.num_steps, empty.is_begun) == (0, False)
    finished, twin = filled(), build()
    finished.finish(torch.ones(E))
    twin.restore(finished.state())
    assert twin.is_finished
    assert twin.is_full


def test_a_state_of_another_size_or_without_its_memory_is_refused() -> None:
    record = filled(2).state()
    other = TamiyoRolloutBuffer(num_envs=E, num_steps=T + 1, device=CPU)
    with pytest.raises(ForeignCheckpointError, match=r"\(3, 5\), this run \(3, 6\)"):
        other.restore(record)
    tensors = {name: x for name, x in record.tensors.items() if not name.startswith("memory")}
    with pytest.raises(ForeignCheckpointError, match="lacks"):
        build().restore(replace(record, tensors=tensors))


def test_the_length_comes_from_the_settings_or_the_horizon() -> None:
    sizes = [
        build_buffer(config, num_envs=2, horizon=9, device=CPU).capacity
        for config in (RolloutConfig(), RolloutConfig(num_steps=4))
    ]
    assert sizes == [9, 4]
