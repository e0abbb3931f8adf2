"""What a run says to a person: each event as one short line. Remembers just enough of the run to do so.

Pure text: knows no terminal. Names from outside are cleaned before they are shown.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar, final

from esper.leyline import (
    AlertFailed,
    AlphaRetargeted,
    AnomalyFound,
    BackendFailed,
    CheckpointFailed,
    DecisionMade,
    EpochCompleted,
    Event,
    EventsDropped,
    LifecycleOp,
    Notice,
    PolicyTrainingStarted,
    PolicyUpdated,
    RewardGranted,
    RolledBack,
    RunFinished,
    RunStarted,
    SeedCulled,
    SeedFossilized,
    SeedGerminated,
    SeedStage,
    SlotMeasured,
    StageChanged,
    UpdateSkipped,
)
from esper.nissa.analytics.summary import total_flops
from esper.nissa.line import Line, Tone
from esper.nissa.record import Record
from esper.nissa.text import (
    clean_text,
    format_count,
    format_estimate,
    format_flops,
    format_metric,
    format_number,
    format_seconds,
)
from esper.nissa.wording_learning import tell_anomaly, tell_training_start, tell_update

EventT = TypeVar("EventT", bound=Event)

ETA_EPOCHS = 8
"""Epochs whose mean length predicts the rest: few enough to follow growth, enough for one slow epoch."""

_TOLD_ELSEWHERE = frozenset({"GERMINATED", "FOSSILIZED", "CULLED", "EMBARGOED", "RESETTING", "DORMANT"})
_FOSSIL = SeedStage.FOSSILIZED.value
_CULL = LifecycleOp.CULL.value
_BY_POLICY = "policy"
"""Reason of a cull that a decision asked for; that decision says why."""
_LOSS = "loss"
_AT_THE_END = "horizon"
"""Reason of a run that went all its way."""
_LIVE = frozenset(stage.value for stage in SeedStage if stage.is_live)


@final
@dataclass(slots=True)
class _Host:
    """What is remembered of one host run."""

    horizon_epochs: int = 0
    host_params: int = 0
    epoch: int = 0
    last_time: float | None = None
    durations: deque[float] = field(default_factory=lambda: deque(maxlen=ETA_EPOCHS))
    stages: dict[str, str] = field(default_factory=dict)
    blueprints: dict[str, str] = field(default_factory=dict)
    cull_reasons: dict[str, str] = field(default_factory=dict)
    """Slot -> why the policy last asked for a cull there."""
    num_culled: int = 0
    is_resumed: bool = False

    @property
    def num_live(self) -> int:
        return sum(stage in _LIVE for stage in self.stages.values())

    @property
    def num_fossilized(self) -> int:
        return sum(stage == _FOSSIL for stage in self.stages.values())

    @property
    def eta_seconds(self) -> float | None:
        left = self.horizon_epochs - self.epoch
        if not self.durations or left <= 0:
            return None
        return left * sum(self.durations) / len(self.durations)


@final
class Narrator:
    """Turns records into lines, in order."""

    def __init__(self) -> None:
        self._hosts: dict[int, _Host] = {}

    def tell(self, record: Record) -> Line | None:
        """Return the line of one record, or None where there is nothing to say.

        The record is remembered either way.
        """
        event = record.event
        if isinstance(event, DecisionMade | RewardGranted) and event.round is not None:
            return None  # steps of a training come by the thousand; their host is told of when it has ended
        host = self._hosts.setdefault(event.instance, _Host())
        _remember(host, record)
        told = _describe(event, host)
        if told is None or not event.instance:
            return told
        return Line(text=f"[{event.instance}] {told.text}", tone=told.tone)

    def eta_seconds(self, instance: int = 0) -> float | None:
        """Predicted seconds to the horizon from recent epochs; None = not known, or done."""
        host = self._hosts.get(instance)
        return None if host is None else host.eta_seconds

    def progress(self, instance: int = 0) -> tuple[int, int]:
        """(epochs finished, horizon); (0, 0) before the run has started."""
        host = self._hosts.get(instance)
        return (0, 0) if host is None else (host.epoch, host.horizon_epochs)


def primary_metric(event: EpochCompleted) -> tuple[str, float]:
    """Return the name and value of the validation metric as a reader expects it."""
    names = [name for name in event.raw_metrics if not name.startswith("train_")]
    # The loss has its own place in a line; it is the metric only where there is no other.
    for name in sorted(names, key=lambda name: (name == _LOSS, name)):
        return clean_text(name), event.raw_metrics[name]
    return "metric", event.metric


def _remember(host: _Host, record: Record) -> None:
    event = record.event
    if isinstance(event, RunStarted):
        host.horizon_epochs, host.host_params, host.epoch = (
            event.horizon_epochs,
            event.host_params,
            event.epoch,
        )
        host.last_time, host.is_resumed = record.wall_time, event.is_resumed
        host.durations.clear()
    elif isinstance(event, EpochCompleted):
        if host.last_time is not None and record.wall_time >= host.last_time:
            host.durations.append(record.wall_time - host.last_time)
        host.epoch, host.last_time = event.epoch, record.wall_time
    elif isinstance(event, RolledBack):
        host.epoch = event.restored_epoch
    else:
        _remember_growth(host, event)


def _remember_growth(host: _Host, event: Event) -> None:
    if isinstance(event, StageChanged):
        host.stages[event.slot] = event.new
    elif isinstance(event, SlotMeasured):  # after a resume or a rollback the stages come from here
        host.stages[event.slot] = event.stage
    elif isinstance(event, SeedGerminated):
        host.blueprints[event.seed_id] = event.blueprint
    elif isinstance(event, SeedFossilized):
        host.stages[event.slot] = _FOSSIL
    elif isinstance(event, SeedCulled):
        host.num_culled += 1
    elif isinstance(event, DecisionMade) and event.op == _CULL and event.slot and event.refusal is None:
        host.cull_reasons[event.slot] = event.reason.partition(": ")[2] or event.reason


def _describe(event: Event, host: _Host) -> Line | None:
    teller = _TELLERS.get(type(event))
    return None if teller is None else teller(event, host)


def _seed(slot: str, seed_id: str | None, host: _Host) -> str:
    blueprint = host.blueprints.get(seed_id or "")
    kind = f" ({clean_text(blueprint)})" if blueprint else ""
    return f"{clean_text(slot)}: seed {clean_text(seed_id or '-')}{kind}"


def _tell_start(event: RunStarted, host: _Host) -> Line:
    del host
    verb = f"run resumed at epoch {event.epoch}" if event.is_resumed else "run started"
    slots = ", ".join(map(clean_text, event.slots))
    return Line(
        text=f"{verb}: task {clean_text(event.task)}, policy {clean_text(event.policy)}, seed {event.seed}, "
        f"{event.horizon_epochs} epochs, host {format_count(event.host_params)} params, "
        f"{len(event.slots)} slots ({slots})"
    )


def _tell_epoch(event: EpochCompleted, host: _Host) -> Line:
    name, value = primary_metric(event)
    grown = event.total_params - host.host_params if host.host_params else 0
    is_known = bool(host.stages) or not host.is_resumed
    parts = [
        f"epoch {event.epoch}/{host.horizon_epochs or '?'}",
        f"loss {format_number(event.validation_loss)}",
        "" if name == _LOSS else f"{name} {format_metric(name, value)}",
        f"({grown:+,} params, {host.num_live} live)" if is_known else f"({grown:+,} params)",
    ]
    eta = host.eta_seconds
    if eta is not None:
        parts.append(f"eta {format_seconds(eta)}")
    is_sound = math.isfinite(event.validation_loss)
    return Line(text="  ".join(filter(None, parts)), tone=Tone.PLAIN if is_sound else Tone.WARNING)


def _tell_finish(event: RunFinished, host: _Host) -> Line:
    """Say what the run came to; what is not known, such as seeds of an earlier attempt, is left out."""
    metrics = ", ".join(
        f"test {clean_text(name)} {format_metric(name, value)}"
        for name, value in sorted(event.test_metrics.items())
    )
    since = " since the resume" if host.is_resumed else ""
    parts = [
        metrics,
        f"{format_count(event.total_params)} params" if event.total_params else "",
        f"{host.num_fossilized} fossilized, {host.num_culled} culled{since}" if host.stages else "",
        format_flops(total_flops(event.flops)) if event.flops else "",
    ]
    head = "run finished"
    if event.reason != _AT_THE_END:
        head = f"run stopped at epoch {event.epoch}/{host.horizon_epochs or '?'} ({clean_text(event.reason)})"
    return Line(text=": ".join(filter(None, (head, "; ".join(filter(None, parts))))), tone=Tone.END)


def _tell_stage(event: StageChanged, host: _Host) -> Line | None:
    is_birth = event.old == SeedStage.GERMINATED.value  # told by the germination itself
    if is_birth or event.new in _TOLD_ELSEWHERE:
        return None
    text = f"{_seed(event.slot, event.seed_id, host)} {event.old} -> {event.new}: {clean_text(event.reason)}"
    return Line(text=text, tone=Tone.GROWTH)


def _tell_germination(event: SeedGerminated, host: _Host) -> Line:
    cost = f"+{format_count(event.num_params)} params, {format_flops(event.flops_per_item)} per item"
    return Line(text=f"{_seed(event.slot, event.seed_id, host)} GERMINATED: {cost}", tone=Tone.GROWTH)


def _tell_fossil(event: SeedFossilized, host: _Host) -> Line:
    gain = format_estimate(event.contribution, event.contribution_error)
    cost = f"{format_count(event.num_params)} params, age {event.age_epochs} epochs"
    text = f"{_seed(event.slot, event.seed_id, host)} FOSSILIZED: contribution {gain}, {cost}"
    return Line(text=text, tone=Tone.KEPT)


def _tell_cull(event: SeedCulled, host: _Host) -> Line:
    gain = format_estimate(event.contribution, None)
    why = host.cull_reasons.pop(event.slot, event.reason) if event.reason == _BY_POLICY else event.reason
    what = f"contribution {gain}, -{format_count(event.num_params)} params"
    text = f"{_seed(event.slot, event.seed_id, host)} CULLED: {clean_text(why)}; {what}"
    return Line(text=text, tone=Tone.LOST)


def _tell_refusal(event: DecisionMade, host: _Host) -> Line | None:
    del host
    if event.refusal is None:
        return None
    what = " ".join(clean_text(part) for part in (event.op, event.slot, event.blueprint) if part)
    return Line(text=f"refused: {what}: {clean_text(event.refusal)}", tone=Tone.WARNING)


def _tell_retarget(event: AlphaRetargeted, host: _Host) -> Line:
    tempo = f"{event.tempo_epochs} epoch{'' if event.tempo_epochs == 1 else 's'}"
    ramp = f"alpha {event.alpha:.2f} -> {event.target:.2f} over {tempo}"
    text = f"{_seed(event.slot, event.seed_id, host)} {ramp} ({clean_text(event.curve)})"
    return Line(text=text, tone=Tone.GROWTH)


def _tell_rollback(event: RolledBack, host: _Host) -> Line:
    del host
    blamed = f", {clean_text(event.blamed_slot)} is blamed" if event.blamed_slot else ""
    text = (
        f"rolled back to epoch {event.restored_epoch} (rollback {event.rollback_count}): "
        f"{clean_text(event.verdict)}: {clean_text(event.reason)}{blamed}"
        f"{'; the episode ends here' if event.is_terminal else ''}"
    )
    return Line(text=text, tone=Tone.WARNING)


def _tell_skip(event: UpdateSkipped, host: _Host) -> Line:
    del host
    found = (
        "" if event.place is None else f": {clean_text(event.place)} {clean_text(event.name or '')}".rstrip()
    )
    batch = "" if event.batch is None else f", first at batch {event.batch}"
    text = (
        f"{clean_text(event.group)}: update skipped in {event.num_batches} batches (not finite{found}{batch})"
    )
    return Line(text=text, tone=Tone.WARNING)


def _tell_save_failure(event: CheckpointFailed, host: _Host) -> Line:
    del host
    what = f"checkpoint {clean_text(event.name)} not saved ({event.num_failures} failures)"
    text = f"{what}: {clean_text(event.error)}"
    return Line(text=text, tone=Tone.WARNING)


def _tell_backend_failure(event: BackendFailed, host: _Host) -> Line:
    del host
    text = f"telemetry backend {clean_text(event.backend)} is off: {clean_text(event.error)}"
    return Line(text=text, tone=Tone.WARNING)


def _tell_alert_failure(event: AlertFailed, host: _Host) -> Line:
    del host
    what = f"alert command failed ({event.num_failures} in all), last for {clean_text(event.alert)}"
    return Line(text=f"{what}: {clean_text(event.error)}", tone=Tone.WARNING)


def _tell_drops(event: EventsDropped, host: _Host) -> Line:
    del host
    return Line(text=f"{event.num_dropped} samples not shown: output was too slow", tone=Tone.WARNING)


def _tell_notice(event: Notice, host: _Host) -> Line:
    del host
    return Line(text=f"note: {clean_text(event.text)}", tone=Tone.WARNING)


def _rule(
    kind: type[EventT], tell: Callable[[EventT, _Host], Line | None]
) -> Callable[[Event, _Host], Line | None]:
    def teller(event: Event, host: _Host) -> Line | None:
        assert isinstance(event, kind)
        return tell(event, host)

    return teller


_TELLERS: Mapping[type[Event], Callable[[Event, _Host], Line | None]] = MappingProxyType(
    {
        RunStarted: _rule(RunStarted, _tell_start),
        EpochCompleted: _rule(EpochCompleted, _tell_epoch),
        RunFinished: _rule(RunFinished, _tell_finish),
        StageChanged: _rule(StageChanged, _tell_stage),
        SeedGerminated: _rule(SeedGerminated, _tell_germination),
        SeedFossilized: _rule(SeedFossilized, _tell_fossil),
        SeedCulled: _rule(SeedCulled, _tell_cull),
        DecisionMade: _rule(DecisionMade, _tell_refusal),
        AlphaRetargeted: _rule(AlphaRetargeted, _tell_retarget),
        RolledBack: _rule(RolledBack, _tell_rollback),
        UpdateSkipped: _rule(UpdateSkipped, _tell_skip),
        CheckpointFailed: _rule(CheckpointFailed, _tell_save_failure),
        BackendFailed: _rule(BackendFailed, _tell_backend_failure),
        AlertFailed: _rule(AlertFailed, _tell_alert_failure),
        EventsDropped: _rule(EventsDropped, _tell_drops),
        Notice: _rule(Notice, _tell_notice),
        PolicyTrainingStarted: _rule(PolicyTrainingStarted, lambda event, _: tell_training_start(event)),
        PolicyUpdated: _rule(PolicyUpdated, lambda event, _: tell_update(event)),
        AnomalyFound: _rule(AnomalyFound, lambda event, _: tell_anomaly(event)),
    }
)
"""Event type -> its line; a type without an entry says nothing on a console."""
