"""What only a critic sees: the lead over the never-grown host, bounded; 0 where there is nothing to see."""

from __future__ import annotations

import pytest
import torch

from esper.leyline import FEATURE_BOUND, WAIT
from esper.simic.never_runs import NeverRun, NeverRuns
from esper.simic.privileged import build_privileged
from esper.tamiyo import NUM_PRIVILEGED, PRIVILEGED
from simic.growing import HORIZON, all_rows, as_rows, make_env
from tolaria.small_run import germinate


def test_a_critic_sees_the_lead_and_what_the_never_grown_host_has_still_to_gain() -> None:
    env, rewards = make_env()
    env.reset(all_rows(env))
    assert env.observe()[PRIVILEGED].tolist() == [[0.0, 0.0]] * 2
    for _ in range(HORIZON - 1):
        step = env.step(as_rows(env, germinate("block1") if env.episodes[0].num_steps == 0 else WAIT, WAIT))
        for row, observation in enumerate(env.observations):
            facts = rewards[row].facts[-1]
            lead = (observation.signals.metric - facts.never_metric_after) / observation.metric.scale
            assert float(step.inputs[PRIVILEGED][row, 0]) == pytest.approx(lead, abs=1e-6)
        assert float(step.inputs[PRIVILEGED][1, 0]) == 0.0


def test_at_the_horizon_and_before_an_episode_there_is_nothing_to_see() -> None:
    env, _ = make_env()
    assert not env.observe()[PRIVILEGED].any()
    env.reset(all_rows(env))
    for _ in range(HORIZON):
        step = env.step(as_rows(env, WAIT, WAIT))
    assert not step.inputs[PRIVILEGED].any()


def test_a_row_that_is_cut_off_at_its_horizon_is_still_judged_by_its_lead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its last observation is bootstrapped from: told nothing, the critic would take a lead of 0."""
    env, _ = make_env(1, horizon_semantics="truncate")
    env.reset(all_rows(env))
    behind = NeverRun(metrics=(0.0, *[0.8] * HORIZON), states={})
    monkeypatch.setattr(NeverRuns, "get", lambda self, instance: behind)
    for _ in range(HORIZON):
        step = env.step(as_rows(env, WAIT))
    assert step.truncated.tolist() == [True]
    (observation,) = env.observations
    lead = (observation.signals.metric - 0.8) / observation.metric.scale
    assert 0.0 < lead < FEATURE_BOUND
    assert float(step.inputs[PRIVILEGED][0, 0]) == pytest.approx(lead, abs=1e-6)
    assert not env.observe()[PRIVILEGED].any()


def test_a_lead_beyond_the_bound_is_clipped_on_both_sides() -> None:
    env, _ = make_env()
    env.reset(all_rows(env))
    env.step(as_rows(env, WAIT, WAIT))
    far = [NeverRun(metrics=(0.0, level, -level), states={}) for level in (1e6, -1e6)]
    seen = build_privileged(env.observations, far)
    assert seen.shape == (2, NUM_PRIVILEGED)
    assert torch.equal(seen, FEATURE_BOUND * torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
