"""One pass through somebody's model, watched: which modules are called, how often, and what they return.

From what the layers before a module say about their channels follows how its output's axes are ordered. The
pass is in eval mode without gradients; modes are put back, so statistics stay untouched. Decides nothing:
what is grown where is `kasmina.growth_points`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from esper.kasmina.inputs import (
    Inputs,
    call_host,
    count_items,
    describe_inputs,
    each_tensor,
    run_on_copies,
)
from esper.kasmina.tap import Arrangement, find_selections
from esper.leyline import HostError

_REFUSALS = (RuntimeError, ValueError, IndexError, TypeError, KeyError, AttributeError, AssertionError)
"""What a forward pass raises when it does not take its arguments."""
_CHANNELS_FIRST = (
    nn.Conv1d,
    nn.Conv2d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.GroupNorm,
)
_COUNT_NAMES = ("out_channels", "num_features", "num_channels", "out_features", "embedding_dim", "nf")
_MAX_EVIDENCE = 12
NESTED = "nested tensor"
"""Kind of output in which every item has a length of its own: it has no shape, and no seed can read it."""


class Feature(NamedTuple):
    """One tensor in a module's output."""

    select: int | str | None
    shape: tuple[int, ...]
    is_floating: bool
    identity: int
    """The same number for the same tensor, wherever in the model it comes out."""


class ChannelHint(NamedTuple):
    """What a layer says about channels: how many, and at which end of the axes."""

    num_channels: int
    is_first: bool


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleCall:
    """What the pass showed of one module."""

    path: str
    kind: str
    """Name of its class."""
    parent_kind: str
    num_calls: int
    order: int
    """Place among all modules, by when its last call returned."""
    output_kind: str
    features: tuple[Feature, ...]
    is_composite: bool
    """Whether it has layers inside that have parameters."""
    has_parameters: bool
    evidence: tuple[ChannelHint, ...]
    """Of the layers that ran before it returned, the latest first; at most twelve."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What one pass showed."""

    calls: Mapping[str, ModuleCall]
    """Path -> what was seen, in the order in which they returned; what was never called is absent."""
    uncalled: tuple[str, ...]
    num_items: int
    final_tensors: frozenset[int]
    """Identities of the tensors that the model returns."""
    returns_one_tensor: bool
    """Whether the model returns one tensor and nothing else."""

    def is_last(self, call: ModuleCall, feature: Feature) -> bool:
        """Whether a feature is returned by the model and no layer with parameters returns after it."""
        if feature.identity not in self.final_tensors:
            return False
        return not any(later.order > call.order and later.has_parameters for later in self._others(feature))

    def _others(self, feature: Feature) -> Iterator[ModuleCall]:
        """Yield the calls that return something else: a container returns what its last child returned."""
        for call in self.calls.values():
            if all(mine.identity != feature.identity for mine in call.features):
                yield call


def survey_host(host: nn.Module, inputs: Inputs) -> Survey:
    """Run a host once and return what was seen.

    Args:
        host: Any module that is called with `inputs`.
        inputs: A batch on the host's device; only shapes matter.

    Raises:
        HostError: If the host does not take the inputs, or is wrapped or compiled already.
    """
    refuse_wrapped(host)
    watcher = _Watcher(host)
    with watcher.watching():
        outputs = run_quietly(host, inputs)
    return watcher.report(outputs, count_items(inputs))


def run_quietly(host: nn.Module, inputs: Inputs) -> object:
    """Run a host in eval mode without gradients, on copies of its buffers, and put every mode back.

    Raises:
        HostError: If it does not take the inputs; says why.
    """
    modes = [(module, module.training) for module in host.modules()]
    host.eval()
    try:
        with torch.no_grad():
            return run_on_copies(host, lambda: call_host(host, inputs))
    except _REFUSALS as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise HostError(
            f"{type(host).__name__} does not take inputs of shape {_describe_items(inputs)}: {why}"
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode


def refuse_wrapped(host: nn.Module) -> None:
    """Refuse a host in which hooks would be ignored, or to which parameters may not be added.

    Raises:
        HostError: Saying what it is, and the order that works.
    """
    if hasattr(host, "_orig_mod") or getattr(host, "_compiled_call_impl", None) is not None:
        raise HostError(
            "host is already compiled, and hooks that come later are ignored there: attach the slots to the "
            "plain module first, then compile the grown model"
        )
    name = type(host).__name__
    if isinstance(host, torch.jit.ScriptModule):
        raise HostError(f"host is a {name}, which keeps no hooks of Python: grow the module it was made from")
    wrappers = ("DistributedDataParallel", "DataParallel", "FullyShardedDataParallel")
    if any(base.__name__ in wrappers for base in type(host).__mro__):
        raise HostError(
            f"host is wrapped in {name}, which never sees parameters that come later: grow host.module, "
            "unwrapped"
        )


def find_arrangements(call: ModuleCall, feature: Feature, num_items: int) -> tuple[Arrangement, ...]:
    """Return the arrangements that a feature may have: several where nothing decides, none of other ranks."""
    shape = feature.shape
    if len(shape) == 2:
        return (Arrangement.FLAT,) if shape[0] == num_items else ()
    if len(shape) not in (3, 4):
        return ()
    first = [Arrangement.NCHW if len(shape) == 4 else Arrangement.NCL] if shape[0] == num_items else []
    last = [Arrangement.NHWC if len(shape) == 4 else Arrangement.NLD] if shape[0] == num_items else []
    if len(shape) == 3 and shape[1] == num_items:
        last.append(Arrangement.LND)
    for num_channels, is_first in call.evidence:
        if is_first and first and shape[1] == num_channels:
            return tuple(first)
        if not is_first and last and shape[-1] == num_channels:
            return tuple(last)
    return (*first, *last)


@final
class _Watcher:
    """Hooks on every module of a host, for one pass."""

    def __init__(self, host: nn.Module) -> None:
        self._modules = dict(host.named_modules())
        self._counts: dict[str, int] = {}
        self._outputs: dict[str, object] = {}
        """Path -> last output, in order; held until the report, so that an identity stands for one tensor."""
        self._evidence: dict[str, tuple[ChannelHint, ...]] = {}
        self._latest: list[ChannelHint] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the context lasts."""
        handles = [
            module.register_forward_hook(self._watch(path)) for path, module in self._modules.items() if path
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def report(self, outputs: object, num_items: int) -> Survey:
        """Return what was seen; `outputs` is what the host returned."""
        calls = {path: self._describe(path, place) for place, path in enumerate(self._outputs)}
        return Survey(
            calls=calls,
            uncalled=tuple(path for path in self._modules if path and path not in calls),
            num_items=num_items,
            final_tensors=frozenset(id(tensor) for tensor in each_tensor(outputs)),
            returns_one_tensor=isinstance(outputs, Tensor),
        )

    def _watch(self, path: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def watch(module: nn.Module, args: tuple[object, ...], output: object) -> None:
            del args
            self._counts[path] = self._counts.get(path, 0) + 1
            self._outputs.pop(path, None)
            self._outputs[path] = output
            found = _find_evidence(module, output)
            if found is not None:
                self._latest = [found, *self._latest][:_MAX_EVIDENCE]
            self._evidence[path] = tuple(self._latest)

        return watch

    def _describe(self, path: str, order: int) -> ModuleCall:
        module, output = self._modules[path], self._outputs[path]
        inside = [part for part in module.modules() if part is not module]
        parent = self._modules[path.rpartition(".")[0]]
        return ModuleCall(
            path=path,
            kind=type(module).__name__,
            parent_kind=type(parent).__name__,
            num_calls=self._counts[path],
            order=order,
            output_kind=NESTED if _is_nested(output) else type(output).__name__,
            features=_list_features(output),
            is_composite=any(True for part in inside for _ in part.parameters(recurse=False)),
            has_parameters=any(True for _ in module.parameters()),
            evidence=self._evidence[path],
        )


def _is_nested(output: object) -> bool:
    return isinstance(output, Tensor) and output.is_nested


def _list_features(output: object) -> tuple[Feature, ...]:
    if isinstance(output, Tensor) and output.is_nested:
        return ()
    if isinstance(output, Tensor):
        return (Feature(None, tuple(output.shape), output.is_floating_point(), id(output)),)
    found = []
    for select in find_selections(output):
        tensor = output[select]  # type: ignore[index]
        found.append(Feature(select, tuple(tensor.shape), True, id(tensor)))
    return tuple(found)


def _find_evidence(module: nn.Module, output: object) -> ChannelHint | None:
    """Return what a layer says about channels, checked against its own output; None if it says nothing."""
    if not isinstance(output, Tensor) or output.is_nested or output.dim() < 2:
        return None
    if any(True for _ in module.children()):
        return None
    count = next((value for name in _COUNT_NAMES if isinstance(value := getattr(module, name, None), int)), 0)
    weight = getattr(module, "weight", None)
    if not count and isinstance(weight, Tensor) and weight.dim() == 1:
        count = len(weight)
    is_first, is_last = output.shape[1] == count, output.shape[-1] == count
    if not count or not (is_first or is_last):
        return None
    # A layer whose count fits both ends goes by its kind: what convolves has its channels first.
    return ChannelHint(count, is_first and (not is_last or isinstance(module, _CHANNELS_FIRST)))


def _describe_items(inputs: Inputs) -> str:
    """Return shapes without the batch's axis, as the message about a plain tensor has always given them."""
    if isinstance(inputs, Tensor):
        return str(tuple(inputs.shape[1:]))
    return describe_inputs(inputs)
