"""One process answers as if it were alone, and parts of a batch add up to the whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from esper.leyline import Verdict, VerdictKind
from esper.tolaria import BatchShare, EpochProgress, HostRun, NoReduce, OneRank, StepFlags
from esper.tolaria.shared_state import describe_shared

from .small_run import decide, drive, germinate, make_config, make_parts, make_run, tensors_of


def test_one_rank_takes_whole_batches_and_lets_every_decision_stand() -> None:
    ranks, run = OneRank(), make_run()
    batch = run.bench.batches.row(0, 0, 0)
    decision = decide(0)
    verdict = Verdict(kind=VerdictKind.DIVERGED, reason="why")
    assert ranks.take_share(batch) == BatchShare(batch, 1.0)
    assert ranks.announce(decision, run.bench.space, (0, 1, 2)) is decision
    assert ranks.agree(verdict) is verdict
    assert isinstance(ranks.build_reducer(), NoReduce)
    assert ranks.build_reducer() is not ranks.build_reducer()


def test_one_rank_tries_only_what_is_not_refused() -> None:
    ranks = OneRank()
    tried: list[str] = []

    def attempt() -> str | None:
        tried.append("tried")
        return "no room" if len(tried) > 1 else None

    assert ranks.vote("illegal", attempt) == "illegal"
    assert tried == []
    assert ranks.vote(None, attempt) is None
    assert ranks.vote(None, attempt) == "no room"


def gradients_of(run: HostRun) -> dict[str, Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in run.bench.model.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("incubation", ["shadow", "straight_through"])
def test_weighted_parts_of_a_batch_add_up_to_the_gradient_of_the_whole(incubation: str) -> None:
    run = make_run(make_config(incubation=incubation), make_parts(norm="group"))
    drive(run, 1)
    run.apply(decide(1, ((1, germinate("block2")),)))
    runner, batch = run.bench.runner, run.bench.batches.row(1, 0, 0)
    runner.begin()
    losses, sums = [], []
    for first, last in ((0, 32), (0, 5), (5, 32)):
        run.bench.optimizer.zero_grad()
        part = type(batch)(*(column[first:last] for column in batch))
        flags = runner._learn(BatchShare(part, (last - first) / 32), EpochProgress())
        assert flags.loss is not None
        losses.append(float(flags.loss))
        sums.append(gradients_of(run))
    whole, one, two = sums
    assert losses[1] + losses[2] == pytest.approx(losses[0], rel=1e-6)
    assert any(name.startswith("slots.") for name in whole)
    for name, gradient in whole.items():
        torch.testing.assert_close(one[name] + two[name], gradient, rtol=1e-4, atol=1e-6)


def test_a_rank_without_rows_learns_nothing_and_says_nothing() -> None:
    run = make_run()
    run.bench.runner.begin()
    assert run.bench.runner._learn(BatchShare(None, 0.0), EpochProgress()) == StepFlags()
    assert gradients_of(run) == {}


def test_settling_alone_changes_nothing() -> None:
    run = make_run()
    run.train_epoch()
    before = tensors_of(run)
    run.settle()
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors_of(run).items())
    assert describe_shared(run).facts["epoch"] == 1
