from __future__ import annotations

import pytest

from esper.leyline import DecisionMade, EpochCompleted, SeedCulled, SeedGerminated
from esper.runtime.loop_events import LoopNarrator


def test_a_seed_is_told_by_its_blueprint_also_when_it_goes() -> None:
    narrator = LoopNarrator()
    born = SeedGerminated(
        epoch=0, slot="a", seed_id="a#1", blueprint="mlp", blend="add", num_params=9312, flops_per_item=2000
    )
    gone = SeedCulled(
        epoch=3, slot="a", seed_id="a#1", blueprint="mlp", num_params=9312, age_epochs=3, reason="by hand",
        contribution=None,
    )  # fmt: skip
    (first,) = narrator.tell([born])
    (second,) = narrator.tell([gone])
    assert str(first) == "a: seed a#1 (mlp) GERMINATED: +9,312 params, 2 kFLOPs per item"
    assert "a: seed a#1 (mlp) CULLED: by hand" in str(second)
    assert (first.kind, first.event) == (born.kind, born)


def test_an_event_for_programs_alone_is_its_kind() -> None:
    decision = DecisionMade(
        epoch=0, op="WAIT", slot=None, blueprint=None, reason="nothing to do", confidence=1.0
    )
    (told,) = LoopNarrator().tell([decision])
    assert told.text == ""
    assert str(told) == decision.kind


@pytest.mark.parametrize(
    ("metrics", "told"),
    [({"loss": 0.5}, "loss 0.500  (+280 params"), ({"loss": 0.5, "r2": 0.25}, "loss 0.500  r2 0.250  (+280")],
)
def test_an_interval_is_told_with_what_was_added_its_horizon_and_each_number_once(
    metrics: dict[str, float], told: str
) -> None:
    narrator = LoopNarrator(host_params=100, slots=("a",))
    narrator.begin(horizon=8)
    finished = EpochCompleted(
        epoch=2,
        train_loss=0.6,
        validation_loss=0.5,
        metric=-0.5,
        raw_metrics=metrics,
        learning_rate=0.1,
        host_gradient_norm=1.0,
        total_params=380,
        flops={},
    )
    (line,) = narrator.tell([finished])
    assert line.text.startswith("epoch 2/8  ")
    assert told in line.text


def test_a_seed_planted_before_the_loop_begins_keeps_its_blueprint() -> None:
    narrator = LoopNarrator(host_params=100, slots=("a",))
    born = SeedGerminated(
        epoch=0, slot="a", seed_id="a#1", blueprint="mlp", blend="add", num_params=8, flops_per_item=8
    )
    narrator.tell([born])
    narrator.begin(horizon=None)
    gone = SeedCulled(
        epoch=3, slot="a", seed_id="a#1", blueprint="mlp", num_params=8, age_epochs=3, reason="by hand",
        contribution=None,
    )  # fmt: skip
    assert "seed a#1 (mlp) CULLED" in str(narrator.tell([gone])[0])
