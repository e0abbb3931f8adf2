"""The whole state of a host run as named tensors and plain data, and back: topology first, then tensors.

```
tensors  model.<name>  optimizer.<parameter>/<key>  pool.<slot>  rng.<device>  last_good.<all of the former>
state    epoch, progress, slots, optimiser, scaler, pool, tracker, governor, ledger, signals, counters, probe
```
Counters that must never run backwards (rollbacks, seeds ever germinated, FLOPs spent) are kept on a
rollback and restored on a resume.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Protocol

import torch

from esper.leyline import ForeignCheckpointError, JsonValue, TrainingSignals
from esper.tolaria.checkpoint import StateRecord
from esper.tolaria.epoch import EpochProgress
from esper.tolaria.parts import Workbench
from esper.tolaria.state_parts import naming_malformed, take_mapping, take_part

if TYPE_CHECKING:
    from torch import Tensor

_LAST_GOOD = "last_good."
_FEW_VALUES = 65_536


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
        "signals": signals_to_dict(run.signals),
        "event_count": run.event_count,
        "is_terminated": run.is_terminated,
    }
    remembered = bench.probe.state()
    if remembered:
        state["probe"] = remembered
    if with_last_good:
        tensors |= {_LAST_GOOD + name: tensor.clone() for name, tensor in run.last_good.tensors.items()}
        state["last_good"] = dict(run.last_good.state)
    return StateRecord(tensors=tensors, state=state)


def is_finite(record: StateRecord) -> bool:
    """Return whether every number of a record's tensors is finite; only then may it be the last good one."""
    small: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in record.tensors.values():
        if not tensor.is_floating_point():
            continue
        if tensor.numel() > _FEW_VALUES:
            if not bool(tensor.isfinite().all()):
                return False
        else:
            small.setdefault((tensor.dtype, tensor.device), []).append(tensor.reshape(-1))
    # Small tensors are looked at together: what they cost is the call.
    return all(bool(torch.cat(parts).isfinite().all()) for parts in small.values())


def restore_state(run: RunState, record: StateRecord, *, keep_counters: bool) -> None:
    """Put a captured state back.

    Args:
        run: A run of the same task, host and configuration.
        record: From `capture_state`.
        keep_counters: True for a rollback: what may never run backwards stays as it is.

    Raises:
        ForeignCheckpointError: If slots, tensor names or shapes do not fit, or any part is malformed.
    """
    with naming_malformed("the saved state is malformed"):
        _restore_parts(run, record, keep_counters=keep_counters)


def _restore_parts(run: RunState, record: StateRecord, *, keep_counters: bool) -> None:
    bench, state = run.bench, record.state
    missing = [name for name in ("epoch", "event_count", "is_terminated") if name not in state]
    if missing:
        raise ForeignCheckpointError(f"saved state lacks {', '.join(missing)}")
    own = {name: tensor for name, tensor in record.tensors.items() if not name.startswith(_LAST_GOOD)}
    try:
        bench.model.restore(take_part(own, "model."), take_mapping(state, "slots"))
    except (RuntimeError, ValueError) as error:
        raise ForeignCheckpointError(f"the saved network does not fit this run: {error}") from error
    bench.rebuild_optimizer_groups()
    bench.optimizer.load(take_part(own, "optimizer."), take_mapping(state, "optimizer"))
    bench.pool.restore(take_part(own, "pool."), take_mapping(state, "pool"))
    bench.rng.restore(take_part(own, "rng."))
    bench.scaler.load(take_mapping(state, "scaler"))
    bench.tracker.restore(take_mapping(state, "tracker"))
    bench.governor.restore(take_mapping(state, "governor"), keep_rollback_count=keep_counters)
    bench.probe.restore(take_mapping(state, "probe") if "probe" in state else {})
    run.epoch = _count(state, "epoch")
    run.progress = EpochProgress.from_dict(
        _numbers(take_mapping(state, "progress"), EpochProgress().to_dict())
    )
    run.signals = signals_from_dict(
        _numbers(take_mapping(state, "signals"), signals_to_dict(TrainingSignals()))
    )
    if keep_counters:
        return
    bench.ledger.restore(take_mapping(state, "ledger"))
    run.event_count = _count(state, "event_count")
    run.is_terminated = state["is_terminated"] is True
    if "last_good" in state:
        saved = {
            name.removeprefix(_LAST_GOOD): tensor
            for name, tensor in record.tensors.items()
            if name.startswith(_LAST_GOOD)
        }
        run.last_good = StateRecord(tensors=saved, state=take_mapping(state, "last_good"))


def _count(state: dict[str, JsonValue], name: str) -> int:
    value = state[name]
    if type(value) is not int or value < 0:
        raise ForeignCheckpointError(f"saved {name} is {value!r}: expected a whole number >= 0")
    return value


def _numbers(data: dict[str, JsonValue], pattern: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the data if each field is of the pattern's kind: truth value, number or None, container."""
    for name, like in pattern.items():
        value = data.get(name, like)
        if isinstance(like, bool):
            fits = isinstance(value, bool)
        elif isinstance(like, list | dict):
            fits = isinstance(value, type(like)) and all(map(_is_plain, _leaves(value)))
        else:
            fits = _is_number(value)
        if not fits:
            raise ForeignCheckpointError(
                f"saved {name} is {str(value)[:80]!r}: expected the kind of {like!r}"
            )
    return data


def _leaves(value: JsonValue) -> list[JsonValue]:
    """Return what a list or object holds, two levels deep."""
    items = list(value.values()) if isinstance(value, dict) else list(value)  # type: ignore[arg-type]
    return [leaf for item in items for leaf in (item if isinstance(item, list) else [item])]


def _is_number(value: JsonValue) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_plain(value: JsonValue) -> bool:
    return _is_number(value) or isinstance(value, str)


def signals_to_dict(signals: TrainingSignals) -> dict[str, JsonValue]:
    """Return plain data."""
    data = asdict(signals)
    data["loss_history"] = list(signals.loss_history)
    data["metric_history"] = list(signals.metric_history)
    return data


def signals_from_dict(data: dict[str, JsonValue]) -> TrainingSignals:
    """Rebuild from `signals_to_dict`."""
    plain = dict(data)
    for name in ("loss_history", "metric_history"):
        history = plain[name]
        assert isinstance(history, list)
        plain[name] = tuple(history)
    return TrainingSignals(**plain)  # type: ignore[arg-type]
