"""What is said of one decision: what was asked for, and what it was paid."""

from __future__ import annotations

from esper.leyline import DecisionMade, RewardGranted
from esper.nissa import word_decision, word_reward


def test_a_decision_is_its_operation_and_what_it_addresses() -> None:
    event = DecisionMade(epoch=1, op="GERMINATE", slot="b1", blueprint="norm", reason="", confidence=1.0)
    assert word_decision(event) == "GERMINATE b1 norm"


def test_a_name_cannot_steer_a_terminal() -> None:
    event = DecisionMade(epoch=1, op="CULL", slot="b\x1b[2J", blueprint=None, reason="", confidence=1.0)
    assert "\x1b" not in word_decision(event)


def test_a_reward_tells_its_parts_and_the_return() -> None:
    event = RewardGranted(
        epoch=1, total=0.5, parts={"gain": 0.7, "none": 0.0, "rent": -0.2}, return_so_far=1.25
    )
    assert word_reward(event) == "+0.5 (gain +0.7, rent -0.2), +1.25 so far"
    nothing = RewardGranted(epoch=1, total=0.0, parts={"gain": 0.0}, return_so_far=-1.0)
    assert word_reward(nothing) == "+0, -1 so far"
