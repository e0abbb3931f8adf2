"""The reward of a run that trains no policy: the mode's own terms, the metric's change for the lead."""

from __future__ import annotations

import pytest

from esper.simic import REWARD_MODES, RewardConfig, StepFacts, build_lone_reward, build_rubric
from simic.rewards.scripted_host import grow, play

EPISODE = play(grow("conv_light"))


def strip(facts: StepFacts) -> StepFacts:
    """The same step where nothing is known of the host that never grows."""
    return StepFacts(
        before=facts.before,
        after=facts.after,
        result=facts.result,
        verdict=facts.verdict,
        is_last=facts.is_last,
        never_metric_before=0.0,
        never_metric_after=0.0,
    )


@pytest.mark.parametrize("mode", REWARD_MODES)
def test_the_terms_are_those_of_the_mode_but_for_the_lead(mode: str) -> None:
    config = RewardConfig(mode=mode)
    names = build_lone_reward(config, discount=0.99).rubric.names
    expected = build_rubric(config, discount=0.99).names
    assert names == tuple(name.replace("metric_lead", "metric_change") for name in expected)


@pytest.mark.parametrize("mode", REWARD_MODES)
def test_parts_that_need_no_other_host_are_what_a_training_pays(mode: str) -> None:
    config = RewardConfig(mode=mode)
    lone = build_lone_reward(config, discount=0.99)
    rubric = build_rubric(config, discount=0.99)
    memories: dict[str, dict[str, object]] = {name: {} for name in rubric.names}
    for facts in EPISODE:
        paid = lone.compute(strip(facts))
        trained = rubric.compute(facts, memories)  # type: ignore[arg-type]
        assert paid.total == sum(paid.terms.values())
        for name, share in trained.terms.items():
            if "metric_lead" not in name:
                assert paid.terms[name] == share


def test_the_changes_of_the_metric_add_up_to_the_metric_that_was_reached() -> None:
    config = RewardConfig()
    reward = build_lone_reward(config, discount=0.99)
    total = sum(reward.compute(strip(facts)).terms["metric_change"] for facts in EPISODE)
    last = EPISODE[-1].after
    assert total == pytest.approx(config.scale * last.signals.metric / last.metric.scale)
