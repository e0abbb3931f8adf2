"""Settings of policy training: rollouts, PPO, entropy, schedules, normalisation, alarms. Numbers only.

Gamma stands here once: advantages and shaping both take it from `TrainingConfig`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import final

from esper.leyline import ConfigError
from esper.simic.imitation_config import ImitationConfig
from esper.simic.ranges import require, require_name
from esper.tolaria import AMP_MODES, COMPILE_MODES

CLIP_MODES = ("joint", "per_head")
ADVANTAGE_NORMS = ("rollout", "minibatch", "returns", "none")
VALUE_NORMS = ("popart", "welford", "none")
SCHEDULE_KINDS = ("linear", "cosine", "constant")
HORIZON_SEMANTICS = ("terminate", "truncate")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutConfig:
    """How experience is collected."""

    num_steps: int | None = None
    """Steps per environment and update, >= 1; None = the environment's horizon, so that a row is one whole
    episode and starts from an empty memory."""
    resets_within_rows: bool = False
    """Whether a row that ended begins another episode in the same rollout; off, because rows of whole
    episodes have no stale memory and stay comparable."""
    horizon_semantics: str = "terminate"
    """"terminate" or "truncate" at the horizon; terminate, because remaining time is observed and the horizon
    is part of the task."""
    max_abs_value: float = 1e6
    """Largest absolute reward or input that is believed, > 0; beyond it, as when not finite, the environment
    is quarantined. Encoded inputs are within 10, so this only meets faults."""

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        if self.num_steps is not None:
            require("rollout.num_steps", self.num_steps, 1)
        require_name("rollout.horizon_semantics", self.horizon_semantics, HORIZON_SEMANTICS)
        require("rollout.max_abs_value", self.max_abs_value, 0, is_low_open=True)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PPOConfig:
    """The clipped objective and its optimiser (Schulman et al. 2017)."""

    learning_rate: float = 3e-4
    """Peak rate of Adam, > 0; the usual one for recurrent policies."""
    adam_eps: float = 1e-5
    """Adam's denominator offset, > 0; larger than torch's 1e-8, so that rarely used heads do not jump."""
    is_fused_optimizer: bool | None = None
    """Fused update kernels; None = on CUDA, where one launch replaces many."""
    epochs: int = 4
    """Passes over a rollout, >= 1; host trainings are dear, and with one pass the trust region cannot act."""
    num_minibatches: int | None = None
    """Minibatches per pass, in whole rows, >= 1 and at most the number of environments of a process; None =
    one per environment, at most eight: episodes are few, and each should move the policy."""
    clip_range: float = 0.2
    """Largest change of a probability ratio that still pays, in (0, 1); 0.2 as in Schulman et al. 2017."""
    clip_mode: str = "joint"
    """"joint" clips the ratio of the whole action once, "per_head" the ratio of each part; joint, because it
    is the importance ratio."""
    value_clip: float | None = None
    """Largest step of a value away from its anchor, in units of the normalised return, > 0; None = not
    clipped, because clipping depends on the scale of rewards."""
    vf_coef: float = 0.5
    """Weight of the value loss, >= 0; returns are normalised, so that it need not follow the reward's
    scale."""
    forced_value_weight: float = 1.0
    """Weight in the value loss of steps with one legal action, in [0, 1]; their returns are as real as
    others."""
    max_grad_norm: float = 0.5
    """Largest global norm of the gradient, > 0; long sequences have rare, huge gradients."""
    target_kl: float = 0.015
    """KL divergence (k3) whose 1.5 fold ends an update before the step that would follow, >= 0; 0 = off."""
    advantage_norm: str = "rollout"
    """Advantages to mean 0 and deviation 1 over the "rollout" or each "minibatch", divided by the deviation
    of "returns" that the value normaliser keeps, or "none"; rollout, because a small minibatch's own mean
    would hide which of its rows went well. "returns" lets a round without stakes teach little."""

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states, or the target cannot act.
        """
        for name in ("learning_rate", "adam_eps", "max_grad_norm"):
            require(f"ppo.{name}", getattr(self, name), 0, is_low_open=True)
        require("ppo.epochs", self.epochs, 1)
        if self.num_minibatches is not None:
            require("ppo.num_minibatches", self.num_minibatches, 1)
        for name in ("vf_coef", "target_kl"):
            require(f"ppo.{name}", getattr(self, name), 0)
        require("ppo.forced_value_weight", self.forced_value_weight, 0, 1)
        if not 0 < self.clip_range < 1:
            raise ConfigError(f"ppo.clip_range={self.clip_range}: must be in (0, 1), e.g. 0.2")
        if self.value_clip is not None:
            require("ppo.value_clip", self.value_clip, 0, is_low_open=True)
        require_name("ppo.clip_mode", self.clip_mode, CLIP_MODES)
        require_name("ppo.advantage_norm", self.advantage_norm, ADVANTAGE_NORMS)
        if self.target_kl > 0 and self.is_single_step:
            raise ConfigError(
                f"ppo.target_kl={self.target_kl} cannot act with epochs=1 and num_minibatches=1: the only "
                "step is taken at the weights that collected, where the divergence is 0; use epochs >= 2, "
                "or target_kl=0"
            )

    @property
    def is_single_step(self) -> bool:
        """Whether an update is certainly one optimiser step, at a ratio of exactly 1."""
        return self.epochs == 1 and self.num_minibatches == 1


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HeadNumbers:
    """A number for some heads of the action; None leaves a head to the common rule.

    Example:
        HeadNumbers(op=0.3).given  # {"op": 0.3}
    """

    op: float | None = None
    """Of the operation; None: the common rule."""
    slot: float | None = None
    """Of the slot; None: the common rule."""
    blueprint: float | None = None
    """Of the blueprint; None: the common rule."""
    blend: float | None = None
    """Of the form of the blend; None: the common rule."""
    curve: float | None = None
    """Of the shape of the ramp; None: the common rule."""
    tempo: float | None = None
    """Of the length of the ramp; None: the common rule."""
    alpha_target: float | None = None
    """Of the end of the ramp; None: the common rule."""

    @property
    def given(self) -> dict[str, float]:
        """Head -> number, for the heads that have one."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {head: value for head, value in values.items() if value is not None}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyConfig:
    """What keeps a policy exploring."""

    start: float = 0.05
    """Coefficient per nat in the first update, >= 0; 0.05 is one metric scale in reward."""
    end: float = 0.01
    """Coefficient in the last update, >= 0; smaller, so that the policy may decide in the end."""
    head_starts: HeadNumbers = field(default_factory=HeadNumbers)
    """Head -> first coefficient, where it differs from `start`; empty: all heads count alike."""
    head_ends: HeadNumbers = field(default_factory=HeadNumbers)
    """Head -> last coefficient, where it differs from `end`; empty: all heads count alike."""
    floors: HeadNumbers = field(default_factory=HeadNumbers)
    """Head -> share of the largest possible entropy, in (0, 1), below which a step is penalised by the
    squared shortfall; empty, because a floor forbids decided policies: it is the remedy for a measured
    collapse."""
    floor_coef: float = 0.3
    """Weight of that penalty in the first update, >= 0."""
    floor_end_fraction: float = 0.75
    """Share of the updates over which that weight falls to 0, in (0, 1]; the last quarter is free to
    decide."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        for name in ("start", "end", "floor_coef"):
            require(f"entropy.{name}", getattr(self, name), 0)
        require("entropy.floor_end_fraction", self.floor_end_fraction, 0, 1, is_low_open=True)
        for name in ("head_starts", "head_ends"):
            for head, value in getattr(self, name).given.items():
                require(f"entropy.{name}[{head!r}]", value, 0)
        for head, value in self.floors.given.items():
            if not 0 < value < 1:
                raise ConfigError(
                    f"entropy.floors[{head!r}]={value}: must be in (0, 1); leave the head out for 0"
                )

    @property
    def named_heads(self) -> frozenset[str]:
        """Heads that some setting singles out."""
        return frozenset({**self.head_starts.given, **self.head_ends.given, **self.floors.given})


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """Learning rate over the updates."""

    kind: str = "linear"
    """"linear" or "cosine" decay after the warm-up, or "constant"; linear is what published baselines use."""
    warmup_fraction: float = 0.05
    """Share of the updates over which the rate rises, in [0, 1); the first advantages rest on an untrained
    critic."""
    final_fraction: float = 0.0
    """Rate after the last update over the peak, in [0, 1]; 0: the last updates only settle."""

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        require_name("schedule.kind", self.kind, SCHEDULE_KINDS)
        require("schedule.final_fraction", self.final_fraction, 0, 1)
        if not 0 <= self.warmup_fraction < 1:
            raise ConfigError(f"schedule.warmup_fraction={self.warmup_fraction}: must be in [0, 1)")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NormalizationConfig:
    """Which statistics are kept of returns and inputs; each moves once per rollout."""

    value_norm: str = "popart"
    """Returns by a debiased moving average ("popart"), over everything so far ("welford"), or "none"; popart,
    because the scale of returns drifts as the policy changes its hosts. Both rescale the critic's last
    layer."""
    value_beta: float = 0.99
    """Weight of the past in the moving average, per rollout, in [0, 1); it then spans about 100 rollouts."""
    inputs: tuple[str, ...] = ()
    """Names of inputs that are normalised per feature; none, because encoded observations are bounded
    already."""
    input_bound: float = 10.0
    """Largest absolute normalised input, > 0, in standard deviations; ten leave ordinary values alone
    and stop broken ones."""

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        require_name("normalization.value_norm", self.value_norm, VALUE_NORMS)
        if not 0 <= self.value_beta < 1:
            raise ConfigError(f"normalization.value_beta={self.value_beta}: must be in [0, 1)")
        require("normalization.input_bound", self.input_bound, 0, is_low_open=True)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AnomalyConfig:
    """When a round of training is called sick."""

    min_entropy: float = 0.02
    """Share of the largest possible entropy below which a head counts as collapsed, in [0, 1]."""
    max_op_share: float = 0.99
    """Share of unforced steps above which one operation counts as the only one, in (0, 1]."""
    max_ratio: float = 10.0
    """Probability ratio above which an update left its trust region, > 1."""
    min_explained_variance: float = 0.05
    """Explained variance below which the critic knows nothing of the returns, <= 1."""
    min_value_spread: float = 0.02
    """Deviation of values over that of returns below which the critic is a constant, in [0, 1]."""
    patience_rounds: int = 5
    """Rounds in a row before entropy, operation or critic is reported, >= 1; one bad round comes by
    chance."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        require("anomalies.min_entropy", self.min_entropy, 0, 1)
        require("anomalies.max_op_share", self.max_op_share, 0, 1, is_low_open=True)
        require("anomalies.max_ratio", self.max_ratio, 1, is_low_open=True)
        require("anomalies.min_explained_variance", self.min_explained_variance, -math.inf, 1)
        require("anomalies.min_value_spread", self.min_value_spread, 0, 1)
        require("anomalies.patience_rounds", self.patience_rounds, 1)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How a policy is trained.

    Example:
        TrainingConfig(num_updates=200, ppo=PPOConfig(num_minibatches=4))
    """

    num_updates: int = 100
    """Rollouts, each followed by an update, >= 1; schedules run over them."""
    gamma: float = 0.995
    """Discount per step, in [0, 1]; its horizon of 200 steps is longer than any preset's episode."""
    gae_lambda: float = 0.95
    """Weight of longer estimates of an advantage, in [0, 1]; 0.95 as in Schulman et al. 2016: a seed
    pays off epochs after it was planted."""
    amp: str = "off"
    """Autocast of the network: "off", "bf16" or "fp16"; off, because the policy is small beside its hosts."""
    compile: str = "none"
    """`torch.compile` of scoring stored rows: "none", "default" or "reduce-overhead"; none, because every
    length of rollout compiles anew."""
    is_sum_ordered: bool = False
    """Whether statistics over ranks are summed exactly, per row, so that the number of ranks changes no bit
    of them; off, because it sends a number per row instead of one per rank."""
    imitation: ImitationConfig = field(default_factory=ImitationConfig)
    """The start, before the first round."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """How experience is collected."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """Objective and optimiser."""
    entropy: EntropyConfig = field(default_factory=EntropyConfig)
    """What keeps the policy exploring."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning rate over the updates."""
    normalization: NormalizationConfig = field(default_factory=NormalizationConfig)
    """Statistics of returns and inputs."""
    anomalies: AnomalyConfig = field(default_factory=AnomalyConfig)
    """When a round is called sick."""

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        require("training.num_updates", self.num_updates, 1)
        require("training.gamma", self.gamma, 0, 1)
        require("training.gae_lambda", self.gae_lambda, 0, 1)
        require_name("training.amp", self.amp, AMP_MODES)
        require_name("training.compile", self.compile, COMPILE_MODES)

    @property
    def notices(self) -> tuple[str, ...]:
        """What a person should be told about settings that are legal and do less than they say."""
        if not self.ppo.is_single_step:
            return ()
        return (
            "ppo.epochs=1 with ppo.num_minibatches=1: the ratio is 1 in the only step, so that clip_range "
            "and the KL divergence cannot act; use epochs >= 2 for a trust region",
        )
