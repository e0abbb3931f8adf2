"""Rows of several rollouts as one: nothing of them changes, and what is added counts for nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from esper.simic.advantages import RowSteps
from esper.simic.batch_rows import join_batches, pack_batch, unpack_batch
from esper.simic.interfaces import Bootstrap
from esper.simic.rollout_buffer import RolloutBatch
from simic.growing import HORIZON
from simic.test_imitation import play


def shorten(batch: RolloutBatch, num_steps: int) -> RolloutBatch:
    """The first steps of a rollout, as if it had ended there."""
    return replace(
        batch,
        inputs={name: x[:, :num_steps] for name, x in batch.inputs.items()},
        **{
            name: getattr(batch, name)[:, :num_steps]
            for name in ("actions", "log_probs", "value", "num_valid", "mask_hash")
        },
        steps=RowSteps(*(x[:, :num_steps] for x in batch.steps)),
        bootstrap=Bootstrap(batch.bootstrap.next_value[:, :num_steps], batch.bootstrap.last_value),
    )


def test_a_rollout_taken_apart_and_put_together_is_the_same() -> None:
    (batch,), *_ = play(1)
    again = unpack_batch(pack_batch(batch))
    named, back = pack_batch(batch), pack_batch(again)
    assert list(named) == list(back)
    assert all(torch.equal(named[name], back[name]) for name in named)


def test_a_shorter_rollout_idles_to_the_end_of_the_longest() -> None:
    (batch,), *_ = play(1)
    short = shorten(batch, HORIZON - 2)
    joined = join_batches([short, batch])
    assert joined.actions.shape[:2] == (4, HORIZON)
    assert not joined.steps.valid[:2, -2:].any()
    assert not joined.learn[:2, -2:].any()
    assert joined.steps.reward[:2, -2:].abs().sum() == 0
    assert not joined.find_changed_masks().any()
    assert torch.equal(joined.memory.hidden[:, 2:], batch.memory.hidden)
    assert torch.equal(joined.actions[:2, : HORIZON - 2], short.actions)
    assert torch.equal(joined.steps.reward[2:], batch.steps.reward)


def test_joining_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        join_batches([])
