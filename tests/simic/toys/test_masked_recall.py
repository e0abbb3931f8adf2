"""MaskedRecall: a corridor of forced steps, and ceilings for policies without memory or mask."""

from __future__ import annotations

import pytest
import torch

from esper.leyline import ConfigError
from esper.simic.toys.masked_recall import MaskedRecall, RecallState, best_success, build_masked_recall


@pytest.mark.parametrize(
    ("has_memory", "has_mask", "ceiling"),
    [(True, True, 1.0), (True, False, 1 / 2), (False, True, 1 / 4), (False, False, 1 / 8)],
)
def test_ceilings_are_those_of_the_table(has_memory: bool, has_mask: bool, ceiling: float) -> None:
    assert best_success(has_memory=has_memory, has_mask=has_mask) == ceiling


@pytest.mark.parametrize("corridor", [1, 8, 40])
def test_memory_and_mask_together_always_win(corridor: int) -> None:
    env = build_masked_recall(tuple(range(16)), corridor=corridor)
    env.reset(torch.ones(16, dtype=torch.bool))
    cue = env.observe()["features"][:, :4].argmax(dim=-1)
    for t in range(corridor):
        inputs = env.observe()
        assert bool((inputs["features"][:, 4] == 0.0).all())
        assert bool((inputs["mask_op"].sum(dim=-1) == 1).all())
        assert t == 0 or not bool(inputs["features"].any())
        assert not bool(env.step(torch.zeros(16, 1, dtype=torch.int64)).ended.any())
    inputs = env.observe()
    assert inputs["features"].tolist() == [[0.0, 0.0, 0.0, 0.0, 1.0]] * 16
    first_legal = inputs["mask_op"].int().argmax(dim=-1)
    assert set(first_legal.tolist()) == {0, 4}
    step = env.step((first_legal + cue)[:, None])
    assert bool(step.terminated.all())
    assert step.reward.tolist() == [1.0] * 16


def test_the_mask_says_nothing_about_the_cue() -> None:
    task = MaskedRecall(corridor=1)
    worlds = {(state.cue, state.half) for state in map(task.begin, range(8))}
    assert len(worlds) == 8
    for half in (0, 1):
        assert len({task.masks(RecallState(cue, half, 1)) for cue in range(4)}) == 1


def test_an_illegal_action_moves_on_and_scores_nothing_at_the_junction() -> None:
    task = MaskedRecall(corridor=1)
    step = task.step(RecallState(cue=2, half=1), (5,))
    assert step.state.t == 1
    assert not step.is_last
    assert task.step(step.state, (2,)).reward == 0.0
    assert task.step(step.state, (6,)).reward == 1.0


def test_a_state_survives_packing() -> None:
    task = MaskedRecall(corridor=3)
    assert task.unpack(task.pack(RecallState(3, 1, 2))) == RecallState(3, 1, 2)
    assert task.rules()["corridor"] == 3


def test_a_corridor_without_a_step_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be >= 1"):
        MaskedRecall(corridor=0)
