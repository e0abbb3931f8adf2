"""The whole state of a host run as named tensors and plain data, and back: topology first, then tensors.

```
tensors  model.<name>  optimizer.<parameter>/<key>  pool.<slot>  rng.<device>  last_good.<all of the former>
state    epoch, progress, slots, optimiser, scaler, pool, tracker, governor, ledger, signals, counters
```
Counters that must never run backwards (rollbacks, seeds ever germinated, FLOPs spent) are kept on a
rollback and restored on a resume.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Protocol

from esper.leyline import ForeignCheckpointError, JsonValue, TrainingSignals
from esper.tolaria.checkpoint import StateRecord
from esper.tolaria.epoch import EpochProgress
from esper.tolaria.parts import Workbench

if TYPE_CHECKING:
    from torch import Tensor

_LAST_GOOD = "last_good."


class RunState(Protocol):
    """What of a host run is saved; `HostRun` is its implementation."""

    bench: Workbench
    epoch: int
    progress: EpochProgress
    signals: TrainingSignals
    event_count: int
    is_terminated: bool
    last_good: StateRecord


def capture_state(run: RunState, *, with_last_good: bool) -> StateRecord:
    """Copy a run's state; tensors are cloned, so that training on changes nothing in the record."""
    bench = run.bench
    model_tensors, slots = bench.model.state()
    optimizer_tensors, optimizer_state = bench.optimizer.state()
    pool_tensors, pool_state = bench.pool.state()
    tensors: dict[str, Tensor] = {}
    for prefix, part in (
        ("model.", model_tensors),
        ("optimizer.", optimizer_tensors),
        ("pool.", pool_tensors),
        ("rng.", bench.rng.state()),
    ):
        tensors |= {prefix + name: tensor.detach().clone() for name, tensor in part.items()}
    state: dict[str, JsonValue] = {
        "epoch": run.epoch,
        "progress": run.progress.to_dict(),
        "slots": slots,
        "optimizer": optimizer_state,
        "pool": pool_state,
        "scaler": bench.scaler.state(),
        "tracker": bench.tracker.state(),
        "governor": bench.governor.state(),
        "ledger": bench.ledger.state(),
        "signals": _signals_to_dict(run.signals),
        "event_count": run.event_count,
        "is_terminated": run.is_terminated,
    }
    if with_last_good:
        tensors |= {_LAST_GOOD + name: tensor.clone() for name, tensor in run.last_good.tensors.items()}
        state["last_good"] = dict(run.last_good.state)
    return StateRecord(tensors=tensors, state=state)


def is_finite(record: StateRecord) -> bool:
    """Return whether every number of a record's tensors is finite; only then may it be the last good one."""
    return all(bool(tensor.isfinite().all()) for tensor in record.tensors.values())


def restore_state(run: RunState, record: StateRecord, *, keep_counters: bool) -> None:
    """Put a captured state back.

    Args:
        run: A run of the same task, host and configuration.
        record: From `capture_state`.
        keep_counters: True for a rollback: what may never run backwards stays as it is.

    Raises:
        ForeignCheckpointError: If slots, tensor names or shapes do not fit.
    """
    bench, state = run.bench, record.state
    missing = [name for name in ("epoch", "event_count", "is_terminated") if name not in state]
    if missing:
        raise ForeignCheckpointError(f"saved state lacks {', '.join(missing)}")
    own = {name: tensor for name, tensor in record.tensors.items() if not name.startswith(_LAST_GOOD)}
    try:
        bench.model.restore(_part(own, "model."), _mapping(state, "slots"))
    except (RuntimeError, ValueError) as error:
        raise ForeignCheckpointError(f"the saved network does not fit this run: {error}") from error
    bench.rebuild_optimizer_groups()
    bench.optimizer.load(_part(own, "optimizer."), _mapping(state, "optimizer"))
    bench.pool.restore(_part(own, "pool."), _mapping(state, "pool"))
    bench.rng.restore(_part(own, "rng."))
    bench.scaler.load(_mapping(state, "scaler"))
    bench.tracker.restore(_mapping(state, "tracker"))
    bench.governor.restore(_mapping(state, "governor"), keep_rollback_count=keep_counters)
    run.epoch = int(str(state["epoch"]))
    run.progress = EpochProgress.from_dict(_mapping(state, "progress"))
    run.signals = _signals_from_dict(_mapping(state, "signals"))
    if keep_counters:
        return
    bench.ledger.restore(_mapping(state, "ledger"))
    run.event_count = int(str(state["event_count"]))
    run.is_terminated = bool(state["is_terminated"])
    if "last_good" in state:
        saved = {
            name.removeprefix(_LAST_GOOD): tensor
            for name, tensor in record.tensors.items()
            if name.startswith(_LAST_GOOD)
        }
        run.last_good = StateRecord(tensors=saved, state=_mapping(state, "last_good"))


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _mapping(state: dict[str, JsonValue], name: str) -> dict[str, JsonValue]:
    value = state.get(name)
    if not isinstance(value, dict):
        raise ForeignCheckpointError(f"saved state lacks the object {name!r}")
    return value


def _signals_to_dict(signals: TrainingSignals) -> dict[str, JsonValue]:
    data = asdict(signals)
    data["loss_history"] = list(signals.loss_history)
    data["metric_history"] = list(signals.metric_history)
    return data


def _signals_from_dict(data: dict[str, JsonValue]) -> TrainingSignals:
    plain = dict(data)
    for name in ("loss_history", "metric_history"):
        history = plain[name]
        assert isinstance(history, list)
        plain[name] = tuple(history)
    return TrainingSignals(**plain)  # type: ignore[arg-type]
