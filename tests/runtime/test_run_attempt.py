"""An experiment is settled before it runs: its policy has its own name and gets what it reads."""

from __future__ import annotations

from dataclasses import replace

from esper.runtime.experiment import ExperimentConfig
from esper.runtime.policies import SCORES_NOTICE
from esper.runtime.presets import build_preset
from esper.runtime.run_attempt import settle_policy


def settings(policy: str) -> ExperimentConfig:
    return replace(build_preset("digits"), policy=policy)


def test_a_policy_that_reads_scores_gets_them_and_the_reader_is_told() -> None:
    settled = settle_policy(settings("greedy"), {"seed": "flag"})
    assert settled.config.host.measuring.score_every > 0
    assert settled.notices == (SCORES_NOTICE,)
    assert settled.provenance == {"seed": "flag", "host.measuring.score_every": "policy"}


def test_any_other_policy_is_left_as_it_is() -> None:
    assert settle_policy(settings("never"), {}) == (settings("never"), {}, ())


def test_auto_becomes_the_name_of_what_it_stands_for() -> None:
    assert settle_policy(settings("auto"), {}).config.policy != "auto"
