"""What a step tells: simic/rewards/facts.py."""

from __future__ import annotations

from simic.rewards.scripted_host import grow, never, play


def test_only_a_step_that_the_governor_found_unhealthy_is_a_failure() -> None:
    assert not any(facts.is_failure for facts in play(never))
    episode = play(grow("bomb"))
    assert [facts.is_failure for facts in episode] == [False] * (len(episode) - 1) + [True]
    assert episode[-1].is_last
