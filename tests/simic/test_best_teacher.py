"""The best of several teachers: per host the life that came to most, whole, and failed lives last."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from esper.simic.best_teacher import choose_best
from esper.simic.rollout_buffer import RolloutBatch
from simic.growing import HORIZON
from simic.test_imitation import play


def make_alternatives() -> list[RolloutBatch]:
    """Three lives of the same two hosts: worth (.3, -.1), (.2, .4) and (.3, .4)."""
    (batch,), *_ = play(1)
    worth = ((0.3, -0.1), (0.2, 0.4), (0.3, 0.4))
    alternatives: list[RolloutBatch] = []
    for totals in worth:
        reward = torch.zeros(2, HORIZON)
        reward[:, 1] = torch.tensor(totals)
        alternatives.append(
            replace(
                batch,
                steps=batch.steps._replace(reward=reward),
                actions=torch.full_like(batch.actions, len(alternatives)),
            )
        )
    return alternatives


def test_each_host_is_taken_from_the_life_that_came_to_most_and_the_first_of_equals() -> None:
    alternatives = make_alternatives()
    best, chosen = choose_best(alternatives)
    assert chosen == (0, 1)
    for row, which in enumerate(chosen):
        assert torch.equal(best.actions[row], alternatives[which].actions[row])
        assert torch.equal(best.steps.reward[row], alternatives[which].steps.reward[row])
        assert torch.equal(best.memory.hidden[:, row], alternatives[which].memory.hidden[:, row])
    assert best.actions.shape == alternatives[0].actions.shape
    assert not best.find_changed_masks().any()


def test_a_single_teacher_is_taken_as_it_is() -> None:
    alone = make_alternatives()[1]
    best, chosen = choose_best([alone])
    assert chosen == (0, 0)
    assert torch.equal(best.steps.reward, alone.steps.reward)
    assert all(torch.equal(best.inputs[name], alone.inputs[name]) for name in alone.inputs)


def test_a_life_that_did_not_end_loses_whatever_it_had_earned() -> None:
    alternatives = make_alternatives()
    steps = alternatives[0].steps
    cut = steps.valid.clone()
    cut[0, 3:] = False
    alternatives[0] = replace(alternatives[0], steps=steps._replace(valid=cut, reward=steps.reward * 10))
    assert choose_best(alternatives[:2])[1] == (1, 1)


def test_no_alternative_and_other_hosts_are_refused() -> None:
    with pytest.raises(ValueError, match="one or more of the same hosts"):
        choose_best([])
    first, second, _ = make_alternatives()
    with pytest.raises(ValueError, match=r"\[2, 1\] rows"):
        choose_best([first, second.select(torch.tensor([0]))])
