from __future__ import annotations

from esper.leyline import DecisionMade, SeedCulled, SeedGerminated
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
