"""Events of a host run say what they were made from."""

from __future__ import annotations

from esper.leyline import Decision, Evidence, Verdict, VerdictKind
from esper.tolaria.host_events import describe_decision, describe_rollback

from .small_run import germinate


def test_a_decision_is_told_with_its_evidence_and_its_refusal() -> None:
    evidence = Evidence(value=0.5, probabilities={"op": (0.25, 0.75)})
    decision = Decision(action=germinate("block1"), reason="why", confidence=0.5, evidence=evidence)
    event = describe_decision(decision, "no room", 3)
    assert (event.epoch, event.op, event.slot, event.blueprint) == (3, "GERMINATE", "block1", "conv_light")
    assert (event.reason, event.refusal, event.confidence, event.value) == ("why", "no room", 0.5, 0.5)
    assert event.probabilities == {"op": (0.25, 0.75)}


def test_a_decision_without_evidence_claims_none() -> None:
    event = describe_decision(Decision(), None, 0)
    assert (event.value, event.probabilities, event.refusal) == (None, {}, None)


def test_a_rollback_names_verdict_epoch_and_blame() -> None:
    verdict = Verdict(kind=VerdictKind.COLLAPSED, reason="guessing", blamed_slot="block2")
    event = describe_rollback(verdict, 4, count=2, is_terminal=True)
    assert (event.epoch, event.restored_epoch, event.rollback_count) == (4, 4, 2)
    assert (event.verdict, event.reason, event.blamed_slot) == (verdict.kind, "guessing", "block2")
    assert event.is_terminal
