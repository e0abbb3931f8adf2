"""A grown network leaves as a plain graph module: torch operators and torch layers, nothing of this package.

The host and its fossils are traced together (`torch.fx`), so the result holds no class of ours, no hook and
no slot; its code is readable, and it can be handed to `torch.export`. Dormant and cooling slots leave no
trace. A seed that is still in flight is refused, or left out when the caller says so.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from esper.kasmina.difference import MAX_DIFFERENCE, measure_largest
from esper.kasmina.model import MorphogeneticModel
from esper.kasmina.plain_tracer import PlainTracer
from esper.kasmina.slot import ForwardPlan
from esper.leyline import ExportError, SeedStage


def export_model(
    model: MorphogeneticModel, sample: Tensor, *, allow_unfinished: bool = False
) -> fx.GraphModule:
    """Return the grown network as a plain graph module in eval mode, checked on a sample.

    Args:
        model: Any mode; left as it is.
        sample: A batch [B, ...] on the model's device, B >= 1.
        allow_unfinished: Leave out seeds that are still in flight instead of refusing.

    Raises:
        ExportError: If a seed is in flight and may not be left out, the forward cannot be traced, or the
            export differs from the network by more than `MAX_DIFFERENCE`.

    Example:
        >>> export_model(model, torch.zeros(2, 16))(torch.zeros(2, 16)).shape
        torch.Size([2, 4])
    """
    if not allow_unfinished:
        refuse_unfinished(model)
    return trace_checked(model, sample)[0]


def trace_checked(model: MorphogeneticModel, sample: Tensor) -> tuple[fx.GraphModule, float]:
    """Return the network with its fossils alone as a graph, and its largest difference on a sample.

    Raises:
        ExportError: If the forward cannot be traced, or the graph differs by more than `MAX_DIFFERENCE`.
    """
    plain = copy.deepcopy(model).eval()
    for slot in plain.each_slot():
        slot.forget_records()
        if slot.state.stage is not SeedStage.FOSSILIZED:
            slot.seed = None
    with plain.planned(ForwardPlan(is_exporting=True)):
        exported = _trace(plain)
    return exported, _check_equal(plain, exported, sample)


def refuse_unfinished(model: MorphogeneticModel) -> None:
    """Refuse a network with seeds that are still in flight.

    Raises:
        ExportError: Naming slots and stages.
    """
    live = [slot.state for slot in model.each_slot() if slot.state.stage.is_live]
    if live:
        names = ", ".join(f"{state.slot} ({state.stage.value})" for state in live)
        raise ExportError(
            f"seeds are still in flight: {names}; train on until they are kept or culled, or leave them out "
            "(allow_unfinished=True, --allow-unfinished)"
        )


def _trace(model: MorphogeneticModel) -> fx.GraphModule:
    root = _Root(model)
    try:
        graph = PlainTracer().trace(root)
    except (fx.proxy.TraceError, TypeError) as error:
        raise ExportError(
            f"the host's forward cannot be traced: {error}; declare segments without data-dependent branches"
        ) from error
    traced = fx.GraphModule(root, graph, class_name="GrownNetwork")
    for parameter in traced.parameters():
        parameter.grad = None
    return traced.eval()


class _Root(nn.Module):
    """Host and slots under their own names, with one argument: a tracer cannot look into `*args`."""

    def __init__(self, model: MorphogeneticModel) -> None:
        super().__init__()
        self.host, self.slots = model.host, model.slots

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.host(inputs)
        return outputs


def _check_equal(model: MorphogeneticModel, exported: fx.GraphModule, sample: Tensor) -> float:
    with torch.no_grad():
        difference = measure_largest(model(sample), exported(sample))
    if not difference <= MAX_DIFFERENCE:
        raise ExportError(
            f"the export differs by {difference:.2e} on the sample, at most {MAX_DIFFERENCE:g} is allowed"
        )
    return difference
