"""What a diagnosis remembers: flags are told once, forced idleness is nobody's fault, births are kept."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from esper.leyline import EpochOutcome, SlotOutcome
from esper.nissa.diagnostics.gradients import GradientFacts
from esper.runtime.diagnosis_memory import FlagHistory, NewFlag, WeightBirths

OUTCOME = EpochOutcome(epoch=1, train_loss=1.0, train_metric=0.5, validation_loss=1.0, metric=0.5)


def facts(**norms: float) -> GradientFacts:
    """Norms of seeds by slot."""
    named = {f"seed:{slot}": norm for slot, norm in norms.items()}
    return GradientFacts(norms=named, vanishing=(), exploding=(), quantiles={}, num_batches=1)


def step(
    history: FlagHistory,
    outcome: EpochOutcome = OUTCOME,
    *,
    learners: tuple[str, ...] = (),
    norms: GradientFacts | None = None,
    sharpness: float | None = None,
    spread: float | None = None,
) -> list[str]:
    """One epoch; the names of its new flags, but for the plateau that equal losses are."""
    history.note_learners(learners)
    history.add(outcome, [], facts() if norms is None else norms, length=10)
    found = history.find_new(outcome, gradients=None, class_spread=spread, sharpness=sharpness)
    return [new.flag.key for new in found if new.flag.name != "plateau"]


def test_a_flag_is_told_when_it_begins_and_again_only_after_it_was_gone() -> None:
    history = FlagHistory()
    far, near = replace(OUTCOME, validation_loss=2.0), OUTCOME
    told = [step(history, outcome) for outcome in (far, far, near, far)]
    assert told == [["validation_gap"], [], [], ["validation_gap"]]


def test_a_flag_whose_measurement_is_not_due_goes_on_showing() -> None:
    history = FlagHistory()
    told = [step(history, sharpness=value) for value in (2.0, None, 2.0, 0.5, 2.0)]
    assert told == [["sharp_loss"], [], [], [], ["sharp_loss"]]
    told = [step(history, spread=value) for value in (0.4, None, 0.4)]
    assert told == [["uneven_classes"], [], []]


def test_a_seed_is_idle_after_three_epochs_in_which_it_could_learn() -> None:
    history = FlagHistory()
    silent = facts(block1=0.0, block2=0.5)
    told = [step(history, learners=("block1", "block2", "block3"), norms=silent) for _ in range(3)]
    assert told == [[], [], ["idle_seed:block1", "idle_seed:block3"]]


def test_what_a_seed_was_kept_from_is_not_held_against_it() -> None:
    skipped = replace(OUTCOME, slots={"block1": SlotOutcome(num_skipped_batches=1)})
    for learners, outcome in (((), OUTCOME), (("block1",), skipped)):
        history = FlagHistory()
        for _ in range(6):
            assert step(history, outcome, learners=learners, norms=facts(block1=0.0)) == []


def test_the_history_survives_saving() -> None:
    history = FlagHistory()
    step(history, replace(OUTCOME, validation_loss=math.inf), learners=("block1",))
    history.note_learners(["block1"])
    again = FlagHistory()
    again.restore(history.state())
    assert again.state() == history.state()
    assert step(again, learners=("block1",)) == step(history, learners=("block1",))
    with pytest.raises(ValueError, match="parts"):
        again.restore({"losses": []})


def test_a_flag_becomes_an_event_that_says_what_it_raised() -> None:
    history = FlagHistory()
    history.add(replace(OUTCOME, validation_loss=2.0), [], facts(), length=10)
    (new,) = history.find_new(
        replace(OUTCOME, validation_loss=2.0), gradients=None, class_spread=None, sharpness=None
    )
    assert isinstance(new, NewFlag)
    assert new.describe(3, "diagnostic", 5).raised_to == "diagnostic"
    assert new.describe(3, "standard", 0).raised_to == ""


def test_births_are_kept_until_another_seed_is_born_or_the_group_is_gone() -> None:
    births, weight = WeightBirths(), nn.Parameter(torch.ones(2))
    births.note({"seed:a": [weight], "host": [weight]}, epoch=0, ids={"seed:a": "a#1"})
    with torch.no_grad():
        weight.fill_(5.0)
    births.note({"seed:a": [weight], "host": [weight]}, epoch=1, ids={"seed:a": "a#1"})
    copies, since = births.select({"seed:a": [weight], "host": [weight]})
    assert since == {"seed:a": 0, "host": 0}
    assert copies["host"][0].tolist() == [1.0, 1.0]
    births.note({"seed:a": [weight]}, epoch=2, ids={"seed:a": "a#2"})
    assert births.select({"seed:a": [weight]})[1] == {"seed:a": 2}
    births.clear()
    assert births.select({"seed:a": [weight]}) == ({}, {})
