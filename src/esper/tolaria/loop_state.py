"""The whole state of growth in somebody else's loop as named tensors and plain data, and back.

```
tensors  model.<name>  optimizer.<parameter>/<key>  pool.<slot>  rng.<stream>  inputs.<number>
state    counters, slots, optimiser and schedulers, pool, tracker, ledger, signals, totals, policy
```
Topology first, then tensors, then the optimiser. The loop's own order of data is the loop's to restore.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.kasmina import norms_with_statistics
from esper.leyline import EsperError, ForeignCheckpointError, JsonValue
from esper.tolaria.checkpoint import StateRecord, capture_rng, restore_rng
from esper.tolaria.snapshot import signals_from_dict, signals_to_dict

if TYPE_CHECKING:
    from torch import Tensor

    from esper.tolaria.loop_controller import LoopController

_PLACES = ("epoch", "interval_start", "interval_batches")
_COUNTERS = (*_PLACES, "event_count")
_EXTRA = "extra"


def capture_loop(controller: LoopController) -> StateRecord:
    """Copy the state of model, optimiser, schedulers, policy, clocks and random streams.

    Raises:
        ConfigError: If something of the loop cannot be saved as plain data; names it.
    """
    model_tensors, slots = controller.model.state()
    optimizer_tensors, optimizer_state = controller.guest.state()
    pool_tensors, pool_state = controller.measurer.state()
    rng = capture_rng()
    inputs_tensors, inputs_state = (
        controller.recorder.state() if norms_with_statistics(controller.model) else ({}, [0])
    )
    tensors: dict[str, Tensor] = {}
    for prefix, part in (
        ("model.", model_tensors),
        ("optimizer.", optimizer_tensors),
        ("pool.", pool_tensors),
        ("rng.", rng.tensors),
        ("inputs.", inputs_tensors),
    ):
        tensors |= {prefix + name: tensor.detach().clone() for name, tensor in part.items()}
    state: dict[str, JsonValue] = {name: getattr(controller, name) for name in _COUNTERS}
    state |= {
        "scale": controller.scale,
        "slots": slots,
        "optimizer": optimizer_state,
        "pool": pool_state,
        "rng": rng.state,
        "inputs": inputs_state,
        "tracker": controller.tracker.state(),
        "ledger": controller.ledger.state(),
        "signals": signals_to_dict(controller.signals),
        "totals": controller.totals.state(),
        "policy": dict(controller.policy.state()),  # type: ignore[arg-type]
    }
    return StateRecord(tensors=tensors, state=state)


def restore_loop(controller: LoopController, record: StateRecord, *, is_rollback: bool) -> None:
    """Put a captured state back into a controller of the same model, optimiser and settings.

    Args:
        controller: Made as the captured one was.
        record: From `capture_loop`.
        is_rollback: Whether what may never run backwards (FLOPs, decisions, random streams) stays as it is.

    Raises:
        ForeignCheckpointError: If slots, tensors, groups or schedulers do not fit, or a part is malformed.
    """
    try:
        _restore(controller, record, is_rollback=is_rollback)
    except EsperError:
        raise
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as e:
        raise ForeignCheckpointError(f"the saved state does not fit: {type(e).__name__}: {e}") from e


def _restore(controller: LoopController, record: StateRecord, *, is_rollback: bool) -> None:
    state = record.state
    model = controller.model
    model.restore(_part(record, "model."), _mapping(state, "slots"))
    for slot in tuple(controller.guest.seed_slots):
        controller.guest.remove_seed(slot)
    controller.follow_topology()
    controller.guest.load(_part(record, "optimizer."), _mapping(state, "optimizer"))
    controller.measurer.restore(_part(record, "pool."), _mapping(state, "pool"))
    controller.adopt_scale(float(str(state["scale"])))
    controller.tracker.restore(_mapping(state, "tracker"))
    controller.totals.restore(_mapping(state, "totals"))
    controller.signals = signals_from_dict(_mapping(state, "signals"))
    for name in _PLACES if is_rollback else _COUNTERS:
        setattr(controller, name, int(str(state[name])))
    inputs = state["inputs"]
    assert isinstance(inputs, list)
    controller.recorder.restore(_part(record, "inputs."), inputs, next(model.host.parameters()).device)
    controller.policy.restore(dict(_mapping(state, "policy")))
    if is_rollback:
        return
    controller.ledger.restore(_mapping(state, "ledger"))
    restore_rng(StateRecord(tensors=_part(record, "rng."), state=_mapping(state, "rng")))


def add_extra(record: StateRecord, extra: StateRecord | None) -> StateRecord:
    """Return a record that also holds what somebody else's loop must remember."""
    if extra is None:
        return record
    tensors = {f"{_EXTRA}.{name}": tensor for name, tensor in extra.tensors.items()}
    return StateRecord(tensors={**record.tensors, **tensors}, state=record.state | {_EXTRA: extra.state})


def split_extra(record: StateRecord) -> tuple[StateRecord, StateRecord]:
    """Return the loop's own record, and what `add_extra` added; empty if nothing was."""
    added = _part(record, f"{_EXTRA}.")
    own = {name: t for name, t in record.tensors.items() if not name.startswith(f"{_EXTRA}.")}
    extra = record.state.get(_EXTRA)
    state = {name: value for name, value in record.state.items() if name != _EXTRA}
    extra_state = dict(extra) if isinstance(extra, dict) else {}
    return StateRecord(tensors=own, state=state), StateRecord(tensors=added, state=extra_state)


def _part(record: StateRecord, prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in record.tensors.items()
        if name.startswith(prefix)
    }


def _mapping(state: dict[str, JsonValue], name: str) -> dict[str, JsonValue]:
    value = state.get(name)
    if not isinstance(value, dict):
        raise ForeignCheckpointError(f"saved state lacks the object {name!r}")
    return value
