"""What the hosts of a round came to, by hand-computed means."""

from __future__ import annotations

import pytest

from esper.leyline import JsonValue
from esper.runtime.round_facts import average_rounds, describe_growth
from esper.simic import FinishedEpisode


def test_growth_of_a_round_is_described_by_hand_computed_means() -> None:
    facts: dict[str, JsonValue] = {
        "metric": 0.9,
        "never_metric": 0.8,
        "num_fossils": 1,
        "flops_spent": 300,
        "never_grow_flops": 100,
        "added_params": 50,
        "host_params": 100,
        "reason": "horizon",
    }
    other = facts | {"metric": 0.7, "num_fossils": 0, "reason": "diverged", "added_params": 0}
    episodes = [FinishedEpisode("a", 0.1, 7, facts), FinishedEpisode("b", 0.1, 7, other)]
    described = describe_growth(episodes)
    assert described["rollout/gain_mean"] == pytest.approx(0.0)
    assert described["rollout/fossils_mean"] == 0.5
    assert described["rollout/fossilize_rate"] == 0.5
    assert described["rollout/flops_ratio_mean"] == 3.0
    assert described["rollout/growth_mean"] == 0.25
    assert described["rollout/failure_rate"] == 0.5
    assert describe_growth([FinishedEpisode("a", 0.1, 7, {})]) == {}


def test_a_metric_that_was_unknown_in_a_round_is_averaged_over_the_others() -> None:
    assert average_rounds([{"a": 1.0, "b": 4.0}, {"a": 3.0}]) == {"a": 2.0, "b": 4.0}
