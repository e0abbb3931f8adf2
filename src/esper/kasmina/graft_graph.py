"""One fossil and its target as a small graph of torch: readable, and loadable without this package.

```
arguments -> base -> take -> axes -> seed -> h + alpha * residual -> axes -> put -> output as it was
```
`base` is the target itself, never traced; the seed's branch is traced into torch's own layers, or stays the
user's own module where it cannot be. The output is put together from what the target returned on one call.
Knows one slot; no host.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping, Sequence

import torch
from torch import fx, nn

from esper.kasmina.arguments import Argument
from esper.kasmina.plain_tracer import PlainTracer, is_of_package
from esper.kasmina.slot import SeedSlot
from esper.kasmina.tap import Tap
from esper.leyline import ExportError

BASE = "base"
"""Name of the target inside a graft."""
SEED = "seed"
"""Name of the seed inside a graft."""
_ROUNDED = (torch.float16, torch.bfloat16)
_TRACE_ERRORS = (
    fx.proxy.TraceError,
    TypeError,
    RuntimeError,
    ValueError,
    AttributeError,
    IndexError,
    KeyError,
)
# Attributes under this key of a graph module's `meta` outlive a deep copy of it.
_PRESERVED = "_user_preserved_attributes"


def trace_seed(slot: SeedSlot) -> fx.Graph:
    """Return the residual of a slot's seed as a graph of one argument.

    Args:
        slot: With a seed in eval mode.

    Raises:
        ExportError: If the branch can neither be traced nor stay as it is.
    """
    assert slot.seed is not None
    problem = ""
    for keeps_strangers in (False, True):
        try:
            graph = PlainTracer(keeps_strangers=keeps_strangers).trace(slot.seed)
        except _TRACE_ERRORS as error:
            problem = (str(error).splitlines() or [type(error).__name__])[0]
            continue
        ours = [node for node in graph.nodes if node.op == "call_function" and _is_our_function(node.target)]
        if not ours:
            return graph
        problem = f"it calls {ours[0].target} of this package"
    raise ExportError(
        f"slot {slot.slot_id!r}: blueprint {slot.state.blueprint!r} cannot leave as plain torch: {problem}; "
        "put what depends on values into a module of your own inside the branch"
    )


def build_graft(
    base: nn.Module, arguments: Sequence[Argument], slot: SeedSlot, seed: fx.Graph, output: object
) -> fx.GraphModule:
    """Return what takes a target's place, in eval mode.

    Args:
        base: The target, without our hooks.
        arguments: Those it is called with.
        slot: Its fossil.
        seed: As `trace_seed` gives it.
        output: What the target returned on one call; only its structure matters.
    """
    assert slot.seed is not None
    graph = fx.Graph()
    places = {argument.name: _add_placeholder(graph, argument) for argument in arguments}
    positional = tuple(places[argument.name] for argument in arguments if argument.is_positional)
    named: dict[str, fx.node.Argument] = {
        argument.name: places[argument.name] for argument in arguments if not argument.is_positional
    }
    out = fx.Proxy(graph.call_module(BASE, positional, named))
    h = _expect_proxy(slot.tap.take(out))
    residual = _splice(graph, seed, h.contiguous())
    changed = _expect_proxy(slot.tap.arrangement.from_canonical(_add(h, residual, slot)))  # type: ignore[arg-type]
    graph.output(_put(slot.tap, out, changed, output))
    parts = nn.Module()
    parts.add_module(BASE, base)
    parts.add_module(SEED, slot.seed)
    graft = fx.GraphModule(parts, graph, class_name="Graft")
    _copy_plain_attributes(base, graft)
    return graft.eval()


def _add_placeholder(graph: fx.Graph, argument: Argument) -> fx.Node:
    if argument.default:
        return graph.placeholder(argument.name, default_value=argument.default[0])
    return graph.placeholder(argument.name)


def _splice(graph: fx.Graph, seed: fx.Graph, h: fx.Proxy) -> fx.Proxy:
    """Copy the seed's steps into a graph and return its residual."""
    values: dict[fx.Node, fx.Node] = {}
    for node in seed.nodes:
        if node.op == "placeholder":
            values[node] = h.node
        elif node.op == "output":
            (result,) = node.args
            assert isinstance(result, fx.Node)
            return fx.Proxy(values[result])
        else:
            values[node] = graph.node_copy(node, values.__getitem__)
            if node.op in ("call_module", "get_attr"):
                values[node].target = f"{SEED}.{node.target}"
    raise AssertionError("a traced graph ends in its output")


def _add(h: fx.Proxy, residual: fx.Proxy, slot: SeedSlot) -> fx.Proxy:
    """Return h + alpha * residual, in float32 where the feature's own precision would round alpha away."""
    alpha, dtype = slot.state.alpha, slot.spec.dtype
    if dtype in _ROUNDED:
        return _scaled_sum(h.float(), residual.float(), alpha).to(dtype)
    return _scaled_sum(h, residual, alpha)


def _scaled_sum(h: fx.Proxy, residual: fx.Proxy, alpha: float) -> fx.Proxy:
    graph = h.node.graph
    scaled = residual.node if alpha == 1.0 else graph.call_function(operator.mul, (alpha, residual.node))
    return fx.Proxy(graph.call_function(operator.add, (h.node, scaled)))


def _put(tap: Tap, out: fx.Proxy, changed: fx.Proxy, output: object) -> fx.Node:
    """Return the output with the feature replaced, of the kind that the target returned."""
    graph, select = out.node.graph, tap.select
    if select is None:
        return changed.node
    if isinstance(output, Mapping):
        if _is_kept_by_merging(output):
            return graph.call_function(operator.or_, (out.node, {str(select): changed.node}))
        replaced = graph.call_function(copy.copy, (out.node,))
        graph.call_function(operator.setitem, (replaced, select, changed.node))
        return replaced
    assert isinstance(output, tuple | list)
    assert isinstance(select, int)
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return graph.call_method("_replace", (out.node,), {output._fields[select]: changed.node})
    # Slices, so that a target that returns more than it did on the sample loses nothing.
    middle = (changed.node,) if isinstance(output, tuple) else [changed.node]
    before = graph.call_function(operator.getitem, (out.node, slice(None, select))) if select else None
    joined = middle if before is None else graph.call_function(operator.add, (before, middle))
    if select == -1:
        assert isinstance(joined, fx.Node)
        return joined
    after = graph.call_function(operator.getitem, (out.node, slice(select + 1, None)))
    return graph.call_function(operator.add, (joined, after))


def _is_kept_by_merging(output: Mapping[object, object]) -> bool:
    """Whether `output | {...}` is of the output's own class."""
    try:
        return type(output | {}) is type(output)  # type: ignore[operator]
    except TypeError:
        return False


def _copy_plain_attributes(base: nn.Module, graft: fx.GraphModule) -> None:
    """Let hosts that read a number or a word off their layers read it off the graft."""
    found = {
        name: value
        for name, value in vars(base).items()
        if not name.startswith("_") and isinstance(value, int | float | str) and not hasattr(graft, name)
    }
    for name, value in found.items():
        setattr(graft, name, value)
    graft.meta[_PRESERVED] = found


def _is_our_function(target: object) -> bool:
    return callable(target) and is_of_package(getattr(target, "__module__", None))


def _expect_proxy(value: object) -> fx.Proxy:
    """Return what a tap or an arrangement made of a proxy: another one."""
    assert isinstance(value, fx.Proxy)
    return value
