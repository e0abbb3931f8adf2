"""Settings of policy training: what is refused, and why."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from esper.leyline import ConfigError
from esper.simic.config import (
    AnomalyConfig,
    EntropyConfig,
    HeadNumbers,
    NormalizationConfig,
    PPOConfig,
    RolloutConfig,
    ScheduleConfig,
    TrainingConfig,
)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RolloutConfig(num_steps=0), r"rollout.num_steps=0: must be finite and >= 1"),
        (lambda: RolloutConfig(horizon_semantics="truncated"), r"did you mean 'truncate'"),
        (lambda: RolloutConfig(max_abs_value=0.0), r"rollout.max_abs_value=0.0: must be finite and > 0"),
        (lambda: PPOConfig(learning_rate=math.nan), r"ppo.learning_rate=nan"),
        (lambda: PPOConfig(epochs=0), r"ppo.epochs=0"),
        (lambda: PPOConfig(clip_range=1.0), r"ppo.clip_range=1.0: must be in \(0, 1\)"),
        (lambda: PPOConfig(value_clip=0.0), r"ppo.value_clip=0.0"),
        (lambda: PPOConfig(clip_mode="per-head"), r"did you mean 'per_head'"),
        (lambda: PPOConfig(forced_value_weight=1.5), r"must be finite and >= 0 and <= 1"),
        (lambda: PPOConfig(advantage_norm="batch"), r"ppo.advantage_norm='batch'"),
        (lambda: EntropyConfig(start=-0.1), r"entropy.start=-0.1"),
        (lambda: EntropyConfig(head_starts=HeadNumbers(op=-1.0)), r"entropy.head_starts\['op'\]=-1.0"),
        (
            lambda: EntropyConfig(floors=HeadNumbers(op=1.0)),
            r"entropy.floors\['op'\]=1.0: must be in \(0, 1\)",
        ),
        (lambda: EntropyConfig(floor_end_fraction=0.0), r"entropy.floor_end_fraction=0.0"),
        (lambda: ScheduleConfig(kind="cosin"), r"did you mean 'cosine'"),
        (lambda: ScheduleConfig(warmup_fraction=1.0), r"schedule.warmup_fraction=1.0"),
        (lambda: NormalizationConfig(value_norm="pop"), r"did you mean 'popart'"),
        (lambda: NormalizationConfig(value_beta=1.0), r"normalization.value_beta=1.0"),
        (lambda: AnomalyConfig(patience_rounds=0), r"anomalies.patience_rounds=0"),
        (lambda: AnomalyConfig(min_explained_variance=math.inf), r"must be finite and <= 1"),
        (lambda: TrainingConfig(gamma=1.01), r"training.gamma=1.01"),
        (lambda: TrainingConfig(amp="fp61"), r"did you mean 'fp16'"),
        (lambda: TrainingConfig(compile="reduce"), r"training.compile='reduce'"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_name(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.battery("T36")
def test_a_target_divergence_is_refused_only_where_it_cannot_act() -> None:
    with pytest.raises(ConfigError, match="cannot act with epochs=1 and num_minibatches=1"):
        PPOConfig(epochs=1, num_minibatches=1)
    assert PPOConfig(epochs=1, num_minibatches=2).target_kl == 0.015
    assert PPOConfig(epochs=2).target_kl == 0.015
    assert PPOConfig(epochs=1, num_minibatches=1, target_kl=0.0).is_single_step


def test_one_step_per_update_is_told_to_a_person() -> None:
    single = TrainingConfig(ppo=PPOConfig(epochs=1, num_minibatches=1, target_kl=0.0))
    assert len(single.notices) == 1
    assert "clip_range" in single.notices[0]
    assert TrainingConfig().notices == ()


def test_optional_settings_can_be_switched_off() -> None:
    config = PPOConfig(value_clip=None, target_kl=0.0, is_fused_optimizer=False)
    assert (config.value_clip, config.target_kl) == (None, 0.0)
    assert RolloutConfig(num_steps=5).num_steps == 5


def test_numbers_of_heads_leave_the_others_to_the_rule() -> None:
    assert HeadNumbers(op=0.3, tempo=0.0).given == {"op": 0.3, "tempo": 0.0}
    assert HeadNumbers().given == {}
