"""Claims about reports: what a slot's record says, and which scores belong to an empty slot or a seed."""

from __future__ import annotations

import pytest

from esper.kasmina import SlotScores
from esper.kasmina.slot_report import build_report
from esper.leyline import SeedStage
from kasmina.growing import grow, make_gates, make_model

SCORES = SlotScores(
    gradient_energy=0.5,
    linear_share=0.2,
    saturation=0.7,
    blueprint_gains={"conv_light": 0.1},
    alpha_slope=-0.3,
    alpha_best=0.5,
    alpha_gain=0.01,
)


@pytest.mark.parametrize(
    ("stage", "is_empty", "is_live"),
    [
        (SeedStage.DORMANT, True, False),
        (SeedStage.TRAINING, False, True),
        (SeedStage.PROBATIONARY, False, True),
        (SeedStage.FOSSILIZED, False, False),
    ],
)
def test_scores_are_shown_where_they_mean_something(stage: SeedStage, is_empty: bool, is_live: bool) -> None:
    model = make_model()
    slot = grow(model, "block2", stage)
    slot.state.scores, slot.state.scores_age_epochs = SCORES, 2
    report = build_report(slot, make_gates(), None)
    assert (report.gradient_energy, report.linear_share, report.saturation) == (0.5, 0.2, 0.7)
    assert report.scores_age_epochs == 2
    assert (report.blueprint_gains is not None) == is_empty
    shown = (report.alpha_slope, report.alpha_best, report.alpha_gain)
    assert shown == ((-0.3, 0.5, 0.01) if is_live else (None, None, None))


def test_a_slot_that_was_not_scored_shows_no_score() -> None:
    report = make_model().reports()[0]
    assert (report.blueprint_gains, report.gradient_energy, report.scores_age_epochs) == (None, None, None)


def test_the_family_is_that_of_the_seed() -> None:
    model = make_model()
    grow(model, "block2", SeedStage.TRAINING)
    assert [report.family for report in model.reports()].count(None) == len(model.slot_ids) - 1
