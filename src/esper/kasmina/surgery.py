"""A copy of host and slots, from which slots disappear: every fossil becomes a graft or goes into weights.

```
copy > run once as it is, watched > hooks off > graft or fold each fossil > run again, compare
```
Knows hosts and slots; writes no record of what it did but names.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from esper.kasmina.affine import NotLinearError
from esper.kasmina.arguments import Argument, read_arguments
from esper.kasmina.attachments import UserHook, detach, find_targets, has_hooks, take_later_hooks
from esper.kasmina.difference import MAX_DIFFERENCE, measure_largest
from esper.kasmina.folding import fold_seed
from esper.kasmina.graft_graph import BASE, SEED, build_graft, build_scion, trace_seed
from esper.kasmina.inputs import Inputs, call_host, map_tensors
from esper.kasmina.model import MorphogeneticModel
from esper.kasmina.plain_tracer import is_ours
from esper.kasmina.slot import NORMAL_PLAN, SeedSlot
from esper.kasmina.widening import find_layers, widen_pair
from esper.leyline import ExportError, SeedStage

_SCION = "scion"
_RUN_ERRORS = (RuntimeError, ValueError, IndexError, TypeError, KeyError, AttributeError)


class _Call(NamedTuple):
    """How a target was called in the pass that is compared with."""

    arguments: tuple[Argument, ...]
    output: object


@final
class Surgery:
    """One export under way; `host` is what leaves in the end."""

    def __init__(self, model: MorphogeneticModel, sample: Inputs) -> None:
        """Copy, silence what is no fossil, and run the copy once as it is.

        Args:
            model: Left as it is.
            sample: What its host is called with.

        Raises:
            ExportError: If the host cannot be copied.
        """
        self.host, slots = _copy_plain(model)
        self.fossils = [slot for slot in slots if slot.seed is not None]
        targets = find_targets(self.host)
        self._pairs = {s.slot_id: find_layers(self.host, s) for s in self.fossils if s.spec.pair is not None}
        self._targets = {slot.slot_id: targets[slot.slot_id] for slot in self.fossils}
        self.paths: Mapping[str, tuple[str, ...]] = {
            slot_id: tuple(
                path for path, module in self.host.named_modules(remove_duplicate=False) if module is target
            )
            for slot_id, target in self._targets.items()
        }
        self._sample = sample
        self._stand_ins: dict[nn.Module, nn.Module] = {}
        """Target -> what takes its place."""
        self._grafts: dict[nn.Module, str] = {}
        """Graft -> its slot."""
        self.codes: dict[str, str] = {}
        """Slot -> forward of its graft, as Python."""
        self._calls: dict[nn.Module, _Call] = {}
        self._num_calls: dict[nn.Module, int] = {}
        self._expected = self._run_watched()

    def replace_targets(self, *, merge: bool, inside: bool) -> tuple[tuple[str, ...], dict[str, str]]:
        """Put a graft in every target's place, or fold its seed.

        What spans two layers goes into them always: no graft around one module has the input of another.

        Args:
            merge: Fold what is linear.
            inside: Leave targets where they are and put the seed inside them, where that can be: for hosts
                that look into what they call, as torch's encoder does with its first layer.

        Returns:
            Slots that were folded; of those that were to be folded and could not, why.

        Raises:
            ExportError: If a seed's branch cannot leave without this package.
        """
        later = {target: take_later_hooks(target) for target in self._targets.values()}
        detach(self.host)
        merged: list[str] = list(self._pairs)
        kept: dict[str, str] = {}
        for slot in self.fossils:
            if slot.slot_id in self._pairs:
                widen_pair(self._pairs[slot.slot_id], slot)
        for slot in self.fossils:
            if slot.slot_id in self._pairs:
                continue
            seed, target = trace_seed(slot), self._targets[slot.slot_id]
            standing = self._stand_ins.get(target, target)
            if merge:
                try:
                    fold_seed(self.host, standing, slot, seed, self._num_calls)
                except NotLinearError as error:
                    kept[slot.slot_id] = str(error)
                else:
                    merged.append(slot.slot_id)
                    continue
            site = self._find_site(standing) if inside else None
            call = self._calls[target]
            if site is not None:
                graft = build_scion(slot, seed, call.output)
                _plant(site, graft)
            else:
                graft = build_graft(standing, call.arguments, slot, seed, call.output)
                self._install(standing, graft)
                self._stand_ins[target] = graft
            self._grafts[graft], self.codes[slot.slot_id] = slot.slot_id, graft.code.strip()
        self._put_hooks(later)
        return tuple(merged), kept

    def measure(self) -> float:
        """Return the largest difference on the sample between what was there and what leaves.

        Raises:
            ExportError: If it is above the limit, a class of ours would leave, or the host does not run.
        """
        _refuse_ours(self.host)
        places = ", ".join(path for paths in self.paths.values() for path in paths)
        try:
            got = _run(self.host, self._sample)
        except _RUN_ERRORS as error:
            raise ExportError(
                f"the export does not run: {_first_line(error)}; a host that looks into a grown module "
                f"({places}) instead of calling it needs its growth point inside that module, or around it"
            ) from error
        difference = measure_largest(self._expected, got)
        if not difference <= MAX_DIFFERENCE:
            raise ExportError(
                f"the export differs by {difference:.2e} on the sample, at most {MAX_DIFFERENCE:g} is "
                "allowed; the host must return the same for the same inputs, and call its grown modules as "
                f"{places}"
            )
        return difference

    def argument_names(self, slot_id: str) -> tuple[str, ...]:
        """Return the names of a target's arguments."""
        return tuple(argument.name for argument in self._calls[self._targets[slot_id]].arguments)

    def name_tensors(self) -> dict[str, str]:
        """Return what the host calls each tensor, and `grafts.SLOT.*` for those of seeds."""
        grafts = {
            path: self._grafts[module]
            for path, module in self.host.named_modules(remove_duplicate=False)
            if module in self._grafts
        }
        return {name: _rename(name, grafts) for name in self.host.state_dict()}

    # ------------------------------------------------------------------ passes

    def _run_watched(self) -> object:
        handles = [module.register_forward_hook(self._count) for module in self.host.modules()]
        for target in dict.fromkeys(self._targets.values()):
            given: list[tuple[tuple[object, ...], dict[str, object]]] = []
            handles.append(
                # First of all hooks: what the host says, before a hook of the user changes it.
                target.register_forward_pre_hook(_keep(given), with_kwargs=True, prepend=True)
            )
            handles.append(target.register_forward_hook(self._remember(given)))
        try:
            return _run(self.host, self._sample)
        except _RUN_ERRORS as error:
            raise ExportError(f"the grown network does not take the sample: {_first_line(error)}") from error
        finally:
            for handle in handles:
                handle.remove()

    def _count(self, module: nn.Module, args: tuple[object, ...], output: object) -> None:
        del args, output
        self._num_calls[module] = self._num_calls.get(module, 0) + 1

    def _remember(
        self, given: list[tuple[tuple[object, ...], dict[str, object]]]
    ) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def remember(module: nn.Module, args: tuple[object, ...], output: object) -> None:
            del args
            positional, named = given[-1]
            self._calls[module] = _Call(read_arguments(module, positional, named), output)

        return remember

    # ------------------------------------------------------------------ the exchange

    def _install(self, standing: nn.Module, graft: nn.Module) -> None:
        """Put a graft wherever the target, or what stood for it, is a child; inside the graft it stays."""
        for parent in list(self.host.modules()):
            for name, child in parent._modules.items():
                if child is standing:
                    parent._modules[name] = graft
        if self.host is standing:
            self.host = graft

    def _find_site(self, target: nn.Module) -> nn.Module | None:
        """Return the module whose output is the target's and which bears one child more; None if none does.

        A row of modules would run the child as its next step: its last module stands for it, if it runs once.
        """
        if not isinstance(target, nn.Sequential):
            return target
        if type(target) is not nn.Sequential or len(target) == 0 or has_hooks(target):
            return None
        last = target[-1]
        return self._find_site(last) if self._num_calls.get(last, 0) == 1 else None

    def _put_hooks(self, later: Mapping[nn.Module, list[UserHook]]) -> None:
        for target, hooks in later.items():
            for hook in hooks:
                hook.move_to(self._stand_ins.get(target, target))


def _copy_plain(model: MorphogeneticModel) -> tuple[nn.Module, list[SeedSlot]]:
    """Return host and slots, in eval mode, without records, gradients and seeds that are no fossils."""
    records = (
        record
        for slot in model.each_slot()
        for record in (slot.features, slot.feature_gradient, slot.captured, slot.watched, slot.recorded_input)
    )
    # What passes recorded cannot be copied while it is part of a graph, and nobody asks for it here.
    memo: dict[int, object] = {id(record): None for record in records if record is not None}
    try:
        host, slots = copy.deepcopy((model.host, list(model.each_slot())), memo)
    except (RuntimeError, TypeError, AttributeError, NotImplementedError) as error:
        raise ExportError(
            f"{type(model.host).__name__} cannot be copied: {_first_line(error)}; drop what it holds besides "
            "its weights (tensors of a graph, files, locks) before it is exported"
        ) from error
    for slot in slots:
        slot.plan, slot.teacher = NORMAL_PLAN, None
        if slot.state.stage is not SeedStage.FOSSILIZED or slot.state.alpha == 0.0:
            slot.seed = None
        slot.update_mode()
        slot.eval()
    for tensor in (*host.parameters(), *host.buffers()):
        tensor.grad = None
    return host.eval(), slots


def _run(host: nn.Module, sample: Inputs) -> object:
    """Run a host on a copy of the sample, which it may change in place."""
    copied = map_tensors(sample, Tensor.clone)
    assert isinstance(copied, Tensor | tuple | dict)
    with torch.no_grad():
        return call_host(host, copied)


def _keep(
    given: list[tuple[tuple[object, ...], dict[str, object]]],
) -> Callable[[nn.Module, tuple[object, ...], dict[str, object]], None]:
    def keep(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        del module
        given.append((args, kwargs))

    return keep


def _plant(site: nn.Module, scion: nn.Module) -> None:
    """Make a scion a child of a module and its hook: in that way its weights are found and copies keep it."""
    names, number = dict(site.named_children()), 1
    while f"{_SCION}{number}" in names:
        number += 1
    site.add_module(f"{_SCION}{number}", scion)
    site.register_forward_hook(scion)


def _refuse_ours(host: nn.Module) -> None:
    for path, module in host.named_modules():
        if is_ours(type(module)):
            raise ExportError(
                f"module {path!r} is a {type(module).__name__}, which cannot be loaded without this package: "
                "derive it from torch's modules, or write its forward so that it can be traced"
            )


def _rename(name: str, grafts: Mapping[str, str]) -> str:
    """Return a tensor's name without the steps into grafts: `stages.0.base.w` was `stages.0.w`."""
    kept: list[str] = []
    parts = name.split(".")
    for place, part in enumerate(parts):
        slot = grafts.get(".".join(parts[:place]))
        if slot is not None and part == SEED:
            return ".".join(("grafts", slot, *parts[place + 1 :]))
        if slot is None or part != BASE:
            kept.append(part)
    return ".".join(kept)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
