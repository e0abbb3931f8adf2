"""Sentences of diagnostics: the numbers of the event, in words of a person."""

from __future__ import annotations

import pytest

from esper.leyline import (
    ClassesMeasured,
    Event,
    GradientsMeasured,
    Notice,
    RedFlagRaised,
    SharpnessMeasured,
    WeightsMeasured,
)
from esper.nissa import Narrator, narrate
from esper.nissa.diagnostics.flags import find_flags
from esper.nissa.line import Tone
from esper.nissa.wording_diagnostics import narrate_flag, tell_red_flag
from nissa.diagnostics.test_flags import SIGNS
from nissa.sample_run import numbered

GRADIENTS = GradientsMeasured(
    epoch=3,
    profile="diagnostic",
    num_batches=4,
    health=0.6,
    layers={"conv1": 0.5, "head": 1e-9},
    seeds={"block1": 0.25},
    vanishing=("head",),
    leaks={"block1": 0.0, "block2": 0.125},
)


@pytest.mark.parametrize(
    ("event", "parts"),
    [
        (
            GRADIENTS,
            ["health is 0.60: 2 host layers", "4 batches", "vanishing in head", "seed in block1 0.250"],
        ),
        (GRADIENTS, ["block2 is not isolated (0.125)"]),
        (
            WeightsMeasured(
                epoch=1, norms={"a": 2.0}, drift={"a": 0.5}, since_epoch={"a": 0}, effective_ranks={"w": 1.5}
            ),
            ["norms are from 2.000 to 2.000", "0.500", "lowest effective rank is 1.5 (w)"],
        ),
        (
            ClassesMeasured(
                epoch=1,
                num_items=(4, 2, 0),
                accuracy=(0.75, 0.5, None),
                loss=(0.1, 0.2, None),
                confusion=((3, 1, 0), (1, 1, 0), (0, 0, 0)),
            ),
            ["lowest for class 1 (50.0 % of 2 items)", "highest for class 0", "class 0 is taken for 1"],
        ),
        (ClassesMeasured(epoch=1, num_items=(0,), accuracy=(None,), loss=(None,)), ["No class has"]),
        (
            SharpnessMeasured(epoch=5, sharpness=2.5, loss=0.5, sigma=0.01, num_draws=3, num_items=128),
            ["Sharpness is 2.500", "3 draws", "128 items"],
        ),
        (RedFlagRaised(epoch=2, name="sharp_loss", value=2.0, threshold=1.0), ["Red flag", "2.00"]),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_measurement_is_told_with_its_numbers(event: Event, parts: list[str]) -> None:
    told = narrate(event)
    assert told is not None
    assert [part for part in parts if part not in told] == [], told


def test_other_events_have_no_sentence() -> None:
    assert narrate(Notice(epoch=0, text="hello")) is None


def test_every_flag_has_words_of_its_own() -> None:
    for facts, name, _ in SIGNS:
        flag = find_flags(facts)[0]
        event = RedFlagRaised(epoch=7, **flag._asdict())
        told = narrate_flag(event)
        assert told.startswith("epoch 7: ")
        assert name not in told
        assert flag.advice in told


def test_a_console_warns_of_a_flag_and_says_what_is_measured_because_of_it() -> None:
    event = RedFlagRaised(
        epoch=4, name="unheard_of", value=2.0, threshold=1.0, where="block1\x1b[2J",
        raised_to="diagnostic", raised_epochs=1,
    )  # fmt: skip
    line = tell_red_flag(event)
    assert line.tone is Tone.WARNING
    assert (
        "unheard_of 2.000 (threshold 1.000) (block1); telemetry is diagnostic for the next 1 epoch"
        in line.text
    )
    records = list(numbered([event, GRADIENTS]))
    narrator = Narrator()
    assert narrator.tell(records[0]) == line
    assert narrator.tell(records[1]) is None
