"""Telemetry as typed records: one frozen dataclass per event, plain data only.

Records hold numbers as fractions, stages and ids by name. The sink adds run id, attempt, rank, sequence
number and wall-clock time; an event never reads a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import final


@final
class EventClass(Enum):
    """How a backend may treat an event when it must choose."""

    SAMPLE = "sample"
    """A point of a curve; may be dropped oldest-first under pressure, and is counted then."""
    LIFECYCLE = "lifecycle"
    """Stage changes, decisions, rollbacks, checkpoints: written before the call returns, never dropped."""
    RUN = "run"
    """Start and end of a run; never dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events; `epoch` counts decision intervals finished when it happened."""

    epoch: int
    instance: int = 0
    """Which host run of a fleet."""

    @property
    def kind(self) -> str:
        """Stable name in files, e.g. "StageChanged"."""
        return type(self).__name__

    @property
    def event_class(self) -> EventClass:
        """LIFECYCLE unless the record is listed as a sample or a run event."""
        return _CLASSES.get(self.kind, EventClass.LIFECYCLE)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """First event of a run (or of a resumed attempt)."""

    task: str
    policy: str
    seed: int
    horizon_epochs: int
    host_params: int
    slots: tuple[str, ...]
    is_resumed: bool = False
    rewinds_to_seq: int | None = None
    """On resume: records with a greater sequence number of earlier attempts are superseded."""
    heads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Head of a policy ("op", "slot", "blueprint", ...) -> names of its options, in the order of
    `DecisionMade.probabilities` and `legal`."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    """Last event of a run."""

    reason: str
    """"horizon", "interrupted", "governor"."""
    test_metrics: Mapping[str, float] = field(default_factory=dict)
    total_params: int = 0
    flops: Mapping[str, int] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EpochCompleted(Event):
    """One decision interval in numbers."""

    train_loss: float
    validation_loss: float
    metric: float
    raw_metrics: Mapping[str, float]
    learning_rate: float
    host_gradient_norm: float
    total_params: int
    flops: Mapping[str, int]
    """Cumulative by kind."""
    num_skipped_batches: int = 0
    seconds: float = 0.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SlotMeasured(Event):
    """One live slot at the end of an interval."""

    slot: str
    seed_id: str
    stage: str
    alpha: float
    contribution: float | None
    contribution_error: float | None
    shadow_gain: float | None
    credit: float | None
    gradient_ratio: float | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionMade(Event):
    """A policy's decision, what it was made from, and its fate.

    Of a policy in training it is a sample; `epoch` still counts the intervals of the host, and value,
    confidence and probabilities are rounded as `observation` is.
    """

    op: str
    slot: str | None
    blueprint: str | None
    reason: str
    confidence: float
    refusal: str | None = None
    value: float | None = None
    probabilities: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    blend: str | None = None
    """With the next three the rest of the `Action`, so that an episode can be repeated from its log; None: an
    older file, which does not say."""
    curve: str | None = None
    tempo_epochs: int | None = None
    alpha_target: float | None = None
    observation: Mapping[str, float] = field(default_factory=dict)
    """The encoded, bounded features by name: "feature" of the host, "slot/feature" of each slot, a wide one
    as "feature/0", ...; rounded to 4 significant digits: for reading, not for computing. What is left out is
    0; all empty: not kept."""
    legal: Mapping[str, tuple[bool, ...]] = field(default_factory=dict)
    """Head -> which of its options could be chosen, given the operation and slot that were; the heads that
    the operation uses, in the order of `probabilities`. Empty: not known."""
    round: int | None = None
    """Of a policy in training, from 1; None: a run that trains none."""
    env_id: int | None = None
    """Its environment; with the round it tells hosts of the same instance apart."""

    @property
    def event_class(self) -> EventClass:
        """LIFECYCLE; of a policy in training, of which there are very many, SAMPLE."""
        return EventClass.LIFECYCLE if self.round is None else EventClass.SAMPLE


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RewardGranted(Event):
    """What the step came to that the last decision of the same instance (and `env_id`) caused.

    `epoch` is that decision's plus 1: the interval that it caused is counted, also where the governor went
    back afterwards. A run that trains no policy pays nobody and knows no host that never grows: there
    "metric_lead" is replaced by "metric_change", of which the host's own learning is a part.
    """

    total: float
    """Sum of the parts."""
    parts: Mapping[str, float]
    """Term of the reward -> its share; see docs/rewards.md."""
    return_so_far: float
    """Undiscounted sum of the totals of this episode, this one included."""
    round: int | None = None
    """See `DecisionMade`."""
    env_id: int | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StageChanged(Event):
    """A slot moved along the transition table."""

    slot: str
    seed_id: str | None
    old: str
    new: str
    reason: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SeedGerminated(Event):
    """A seed was built in a slot."""

    slot: str
    seed_id: str
    blueprint: str
    blend: str
    num_params: int
    flops_per_item: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SeedFossilized(Event):
    """A seed was kept for good."""

    slot: str
    seed_id: str
    blueprint: str
    num_params: int
    age_epochs: int
    contribution: float | None
    contribution_error: float | None
    credit: float | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SeedCulled(Event):
    """A seed was removed."""

    slot: str
    seed_id: str
    blueprint: str
    num_params: int
    age_epochs: int
    reason: str
    """"policy", "horizon", "rollback", ..."""
    contribution: float | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GateEvaluated(Event):
    """A gate was asked by a real transition attempt."""

    slot: str
    seed_id: str
    gate: str
    """"G0" ... "G5"."""
    is_passed: bool
    passed: tuple[str, ...]
    failed: tuple[str, ...]
    measured: Mapping[str, float] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AlphaRetargeted(Event):
    """A seed's alpha got a new target."""

    slot: str
    seed_id: str
    alpha: float
    target: float
    tempo_epochs: int
    curve: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RolledBack(Event):
    """The governor put the last known good state back."""

    verdict: str
    reason: str
    restored_epoch: int
    blamed_slot: str | None
    rollback_count: int
    is_terminal: bool = False
    """The episode ends here: nothing is trained from the restored state."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSkipped(Event):
    """Numbers that are not finite, or too large to be squared, kept a group from being updated."""

    group: str
    """"host" or a slot id."""
    num_batches: int
    batch: int | None = None
    """Batch of the epoch where that was first seen, from 0; None if it was found after the last one."""
    place: str | None = None
    """What was bad first: moment, weight, statistic, input, activation, loss or gradient; None if the host's
    fault explains the seed's."""
    name: str | None = None
    """Qualified name of that tensor or module."""
    slot: str | None = None
    """Slot whose seed it belongs to; None = the host."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSaved(Event):
    """A checkpoint is durable."""

    name: str
    """"e<epoch>-b<batch>"."""
    num_bytes: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFailed(Event):
    """Saving failed; the earlier checkpoint stays and training goes on."""

    name: str
    error: str
    num_failures: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BackendFailed(Event):
    """A telemetry backend raised; it is switched off and its losses are counted."""

    backend: str
    error: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AlertFailed(Event):
    """The command that calls a person failed; later alerts still run it."""

    alert: str
    """Kind of the last alert that it failed for."""
    error: str
    num_failures: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EventsDropped(Event):
    """Samples that are missing from this place backwards: a queue, or the room for event files, was full."""

    num_dropped: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(Event):
    """A warning for a person: a setting without effect, a fallback that was taken."""

    text: str
    is_about_process: bool = False
    """Whether it is about the process that ran; another one that came to the same has others."""


_CLASSES: Mapping[str, EventClass] = MappingProxyType(
    {
        "EpochCompleted": EventClass.SAMPLE,
        "SlotMeasured": EventClass.SAMPLE,
        "RewardGranted": EventClass.SAMPLE,
        "PolicyUpdated": EventClass.SAMPLE,
        "RunStarted": EventClass.RUN,
        "PolicyTrainingStarted": EventClass.RUN,
        "RunFinished": EventClass.RUN,
    }
)

SAMPLE_KINDS = frozenset(kind for kind, found in _CLASSES.items() if found is EventClass.SAMPLE)
"""Kinds of events that are always points of curves; beside decisions in trainings the only ones that may be
dropped."""
