"""The trainer of fused hosts by itself: whoever holds the runs, a worker as well as a fleet."""

from __future__ import annotations

import pytest

from esper.leyline import Decision
from esper.tolaria.fleet.fused import FusedShare, FusedTrainer
from tolaria.small_run import germinate, make_config, make_parts, make_run


def test_runs_of_one_architecture_train_together_and_are_counted() -> None:
    parts = make_parts()
    runs = [make_run(make_config(), parts, seed=seed) for seed in (1, 2, 3)]
    trainer = FusedTrainer()
    outcomes = trainer.train(runs)
    assert all(outcome is not None and outcome.epoch == 1 for outcome in outcomes)
    assert (trainer.share.fused, trainer.share.alone, trainer.share.fused_with_seeds) == (3, 0, 0)
    plain = [make_run(make_config(), parts, seed=seed) for seed in (1, 2, 3)]
    for run, outcome in zip(plain, outcomes, strict=True):
        alone = run.train_epoch()
        assert alone is not None
        assert outcome is not None
        assert outcome.train_loss == pytest.approx(alone.train_loss, rel=1e-5)


def test_a_finished_run_gives_none_and_too_few_hosts_train_alone() -> None:
    parts = make_parts()
    runs = [make_run(make_config(), parts, seed=seed) for seed in (1, 2)]
    runs[0].is_terminated = True
    trainer = FusedTrainer()
    assert trainer.train(runs)[0] is None
    assert (trainer.share.fused, trainer.share.alone) == (0, 1)


def test_the_share_with_seeds_is_that_of_intervals_in_which_a_seed_lived() -> None:
    assert FusedShare().with_seeds == 1.0
    assert FusedShare(fused_with_seeds=9, alone_with_seeds=1).with_seeds == 0.9
    run = make_run()
    assert not run.apply(Decision(action=germinate("block1"))).is_refused
    trainer = FusedTrainer(min_rows=2)
    trainer.train([run])
    assert trainer.share == FusedShare(alone=1, alone_with_seeds=1)
