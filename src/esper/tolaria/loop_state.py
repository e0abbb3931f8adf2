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
from esper.leyline import ForeignCheckpointError, JsonValue
from esper.tolaria.checkpoint import StateRecord, capture_rng, restore_rng
from esper.tolaria.snapshot import signals_from_dict, signals_to_dict
from esper.tolaria.state_parts import naming_malformed, take_mapping, take_part
from esper.tolaria.steps import charge_training

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
        "metric": _describe_metric(controller),
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
    with naming_malformed("the saved state does not fit"):
        _restore(controller, record, is_rollback=is_rollback)


def _restore(controller: LoopController, record: StateRecord, *, is_rollback: bool) -> None:
    state = record.state
    model = controller.model
    if is_rollback:
        # What the interval that is given up has spent stays spent.
        charge_training(controller.ledger, model, controller.recorder.take_trained())
    if state.get("metric") != _describe_metric(controller):
        raise ForeignCheckpointError(
            f"saved contributions are of the metric {state.get('metric')!r}, this controller's is "
            f"{_describe_metric(controller)!r}: make it with the same metric="
        )
    model.restore(take_part(record.tensors, "model."), take_mapping(state, "slots"))
    for slot in tuple(controller.guest.seed_slots):
        controller.guest.remove_seed(slot)
    controller.follow_topology()
    controller.guest.load(take_part(record.tensors, "optimizer."), take_mapping(state, "optimizer"))
    controller.measurer.restore(take_part(record.tensors, "pool."), take_mapping(state, "pool"))
    controller.adopt_scale(float(str(state["scale"])))
    controller.tracker.restore(take_mapping(state, "tracker"))
    controller.totals.restore(take_mapping(state, "totals"))
    controller.signals = signals_from_dict(take_mapping(state, "signals"))
    for name in _PLACES if is_rollback else _COUNTERS:
        setattr(controller, name, int(str(state[name])))
    inputs = state["inputs"]
    assert isinstance(inputs, list)
    controller.recorder.restore(
        take_part(record.tensors, "inputs."), inputs, next(model.host.parameters()).device
    )
    controller.policy.restore(dict(take_mapping(state, "policy")))
    if is_rollback:
        controller.recorder.take_trained()
        return
    controller.ledger.restore(take_mapping(state, "ledger"))
    restore_rng(StateRecord(tensors=take_part(record.tensors, "rng."), state=take_mapping(state, "rng")))


def _describe_metric(controller: LoopController) -> str:
    metric = controller.config.metric
    return f"{metric.name}, {'higher' if metric.is_higher_better else 'lower'} is better"


def add_extra(record: StateRecord, extra: StateRecord | None) -> StateRecord:
    """Return a record that also holds what somebody else's loop must remember.

    Example:
        >>> record = StateRecord(tensors={}, state={"step": 3})
        >>> add_extra(record, StateRecord(tensors={}, state={"lr": 0.1})).state
        {'step': 3, 'extra': {'lr': 0.1}}
    """
    if extra is None:
        return record
    tensors = {f"{_EXTRA}.{name}": tensor for name, tensor in extra.tensors.items()}
    return StateRecord(tensors={**record.tensors, **tensors}, state=record.state | {_EXTRA: extra.state})


def split_extra(record: StateRecord) -> tuple[StateRecord, StateRecord]:
    """Return the loop's own record, and what `add_extra` added; empty if nothing was.

    Example:
        >>> record = StateRecord(tensors={}, state={"step": 3})
        >>> own, extra = split_extra(add_extra(record, StateRecord(tensors={}, state={"lr": 0.1})))
        >>> own.state, extra.state
        ({'step': 3}, {'lr': 0.1})
    """
    added = take_part(record.tensors, f"{_EXTRA}.")
    own = {name: t for name, t in record.tensors.items() if not name.startswith(f"{_EXTRA}.")}
    extra = record.state.get(_EXTRA)
    state = {name: value for name, value in record.state.items() if name != _EXTRA}
    extra_state = dict(extra) if isinstance(extra, dict) else {}
    return StateRecord(tensors=own, state=state), StateRecord(tensors=added, state=extra_state)
