from __future__ import annotations

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


def test_an_interval_is_told_against_host_and_horizon_and_a_loss_once() -> None:
    narrator = LoopNarrator()
    narrator.begin(("a",), host_params=100, horizon=8)
    done = EpochCompleted(
        epoch=2,
        train_loss=0.5,
        validation_loss=0.25,
        metric=-0.25,
        raw_metrics={"loss": 0.25},
        learning_rate=0.1,
        host_gradient_norm=1.0,
        total_params=172,
        flops={},
        num_skipped_batches=0,
        seconds=0.0,
    )
    (told,) = narrator.tell([done])
    assert str(told).startswith("epoch 2/8  loss 0.250  (+72 params, 0 live)")


def test_an_event_for_programs_alone_is_its_kind() -> None:
    decision = DecisionMade(
        epoch=0, op="WAIT", slot=None, blueprint=None, reason="nothing to do", confidence=1.0
    )
    (told,) = LoopNarrator().tell([decision])
    assert told.text == ""
    assert str(told) == decision.kind
