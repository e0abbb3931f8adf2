"""What copies of one host run on several ranks must have in common, read off the run. Compares nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.leyline import JsonValue
from esper.tolaria.host_ranks import SharedState
from esper.tolaria.reducer import hash_layout
from esper.tolaria.snapshot import RunState

if TYPE_CHECKING:
    from torch import nn


def describe_shared(run: RunState) -> SharedState:
    """Return a run's topology, optimiser, clocks and tensors; nothing is copied.

    Streams of random numbers are left out: each rank has its own.
    """
    bench, model = run.bench, run.bench.model
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    moments, optimizer = bench.optimizer.state()
    slots: dict[str, JsonValue] = {slot.slot_id: slot.state.to_dict() for slot in model.each_slot()}
    isolated = {slot.slot_id for slot in model.each_slot() if slot.state.stage.is_isolated}
    facts: dict[str, JsonValue] = {
        "event_no": run.event_count,
        "epoch": run.epoch,
        "batch": run.progress.batch,
        "slots": slots,
        "parameters": {name: _describe_parameter(parameter) for name, parameter in parameters.items()},
        "buffers": {name: [list(buffer.shape), str(buffer.dtype)] for name, buffer in buffers.items()},
        "optimizer": optimizer,
        "scaler": bench.scaler.state(),
        "governor": bench.governor.state(),
        "plan": hash_layout(bench.optimizer.plan(isolated)),
    }
    tensors = {f"model.{name}": tensor.detach() for name, tensor in (parameters | buffers).items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in moments.items()}
    return SharedState(facts=facts, tensors=tensors, buffers=buffers, parameters=parameters)


def _describe_parameter(parameter: nn.Parameter) -> JsonValue:
    return [list(parameter.shape), str(parameter.dtype), parameter.requires_grad]
