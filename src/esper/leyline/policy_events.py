"""Events of a policy in training, and the table of all events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from esper.leyline import events
from esper.leyline.events import Event


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTrainingStarted(Event):
    """First event of a run (or of a resumed attempt) that trains a policy; `epoch` counts rounds."""

    task: str
    seed: int
    num_envs: int
    num_rounds: int
    horizon_epochs: int
    num_parameters: int
    """Of the policy."""
    is_resumed: bool = False
    rewinds_to_seq: int | None = None
    """See `RunStarted`."""
    heads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """See `RunStarted`; of the host with the most slots, whose names those of the others begin with."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeFinished(Event):
    """One host that a policy in training grew; `epoch` is the round, `instance` the host's id."""

    env_id: int
    reason: str
    """"horizon", or what the governor found."""
    total_reward: float
    num_steps: int
    metric: float
    """Validation metric of the network that leaves, higher is better."""
    never_metric: float
    """Of the same host that never grew."""
    added_params: int
    host_params: int
    flops_spent: int
    never_grow_flops: int
    num_fossils: int
    num_refused: int
    ops: Mapping[str, int]
    """Operations carried out, by name."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyUpdated(Event):
    """One round of policy training in numbers; `epoch` is the round, from 1."""

    num_env_steps: int
    """Environment steps since the run began."""
    metrics: Mapping[str, float]
    """By the names that Stable-Baselines3 writes: "rollout/ep_rew_mean", "train/approx_kl", ..."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AnomalyFound(Event):
    """Policy training shows a known sign of trouble; `epoch` is the round."""

    name: str
    value: float
    threshold: float
    advice: str


EVENT_TYPES: tuple[type[Event], ...] = (
    events.RunStarted,
    events.RunFinished,
    events.EpochCompleted,
    events.SlotMeasured,
    events.DecisionMade,
    events.RewardGranted,
    events.StageChanged,
    events.SeedGerminated,
    events.SeedFossilized,
    events.SeedCulled,
    events.GateEvaluated,
    events.AlphaRetargeted,
    events.RolledBack,
    events.UpdateSkipped,
    events.CheckpointSaved,
    events.CheckpointFailed,
    events.BackendFailed,
    events.AlertFailed,
    events.EventsDropped,
    PolicyTrainingStarted,
    EpisodeFinished,
    PolicyUpdated,
    AnomalyFound,
    events.Notice,
)
"""Every event type; the codec and the documentation are generated from it."""
