"""The scoreboard counts what became of every blueprint."""

from __future__ import annotations

import math

from esper.nissa import BlueprintScore, SeedFate, compute_fates, compute_scoreboard
from nissa.sample_run import run_events


def fate(blueprint: str, outcome: str, contribution: float | None = None) -> SeedFate:
    return SeedFate(
        seed_id="a#1",
        slot="a",
        blueprint=blueprint,
        num_params=1,
        flops_per_item=1,
        start_epoch=0,
        outcome=outcome,
        contribution=contribution,
    )


def test_counts_rate_and_mean_are_right() -> None:
    fates = [
        fate("conv", "fossilized", 0.75),
        fate("conv", "culled", -0.25),
        fate("conv", "culled"),
        fate("conv", "live", math.nan),
    ]
    assert compute_scoreboard(fates) == (
        BlueprintScore(
            blueprint="conv",
            num_germinated=4,
            num_fossilized=1,
            num_culled=2,
            keep_rate=1 / 3,
            mean_contribution=0.25,
            churn=0.5,
            params_added=1,
        ),
    )


def test_nothing_decided_has_no_rate() -> None:
    (row,) = compute_scoreboard([fate("conv", "live")])
    assert (row.keep_rate, row.mean_contribution) == (None, None)


def test_the_most_often_kept_come_first() -> None:
    fates = [
        fate("b", "culled", -0.5),
        fate("a", "culled"),
        fate("c", "culled", 0.1),
        fate("d", "fossilized"),
    ]
    assert [row.blueprint for row in compute_scoreboard(fates)] == ["d", "c", "b", "a"]


def test_the_sample_run_keeps_one_of_three() -> None:
    rows = compute_scoreboard(compute_fates(run_events()))
    assert [(row.blueprint, row.num_fossilized) for row in rows] == [
        ("conv_light", 1),
        ("norm", 0),
        ("depthwise", 0),
    ]
