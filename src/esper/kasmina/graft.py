"""A grown network of any kind leaves as plain modules: the user's classes and torch's, none of this package.

```
copy of the host          without our hooks; the user's hooks and control flow stay
  target of a fossil  ->  a small graph: arguments -> base -> feature -> seed -> add -> output as it was
                          or, where the host looks into the target, the same graph inside it, as its hook
  folded fossil       ->  the target itself, with the seed in its weights (merge)
```
Only the target's surroundings are a graph, so that no tracer ever meets the host's forward. A host with
classes of ours is traced as a whole instead (`kasmina.export`). What leaves was compared with the grown
network on a sample. Writes no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from esper.kasmina.attachments import find_targets
from esper.kasmina.cost import count_trainable
from esper.kasmina.export import refuse_unfinished, trace_checked
from esper.kasmina.inputs import Inputs
from esper.kasmina.model import MorphogeneticModel
from esper.kasmina.plain_tracer import is_ours
from esper.kasmina.slot import SeedSlot
from esper.kasmina.surgery import Surgery
from esper.leyline import ExportError, SeedStage, UnknownNameError


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSlot:
    """A fossil that could not be folded into its target."""

    slot: str
    reason: str
    """What stands in the way, such as "GroupNorm inside (branch.1)"."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GraftRecord:
    """A fossil as it left: where it stands, and what would build it again."""

    slot: str
    paths: tuple[str, ...]
    """Every path in the host at which the target stood, the slot's own first."""
    blueprint: str
    blend: str
    """"add", "gate" or "valve"."""
    alpha: float
    arrangement: str
    """Order of the feature's axes in the model: "nchw", "nhwc", "ncl", "nld", "lnd" or "flat"."""
    select: int | str | None
    """Where in the target's output the feature is; None = the output is the feature."""
    shape: tuple[int, ...]
    """One item's feature as the seed sees it: (C, H, W), (T, C) or (C,)."""
    num_channels: int
    arguments: tuple[str, ...]
    """Names of the target's arguments, in order; () in a host that was traced as a whole."""
    num_params: int
    """Trainable parameters of the seed; they are gone where it is folded."""
    is_merged: bool
    widened: tuple[str, ...]
    """Layers and norms of the host that have become larger by the seed's units; () without any."""
    code: str
    """The graft's forward, as Python; "" where there is none: folded, or in a host traced as a whole."""
    layers: Mapping[str, str]
    """Layer of the seed, by its name after `grafts.SLOT.` -> what builds it: "Linear(in_features=8, ...)"."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A grown network without anything of this package, and how it came about.

    Example:
        exported = export_grafted(model, images)
        torch.save(exported.tensors("host+extra"), "weights.pt")
        logits = exported.module(images)
    """

    module: nn.Module
    """In eval mode, called as the host is; shares nothing with the grown network."""
    merged: tuple[str, ...]
    """Slots whose seed lies in the weights of the host now; one that spans two layers always does."""
    kept: tuple[KeptSlot, ...]
    """Fossils that were to be folded and could not; () where folding was not asked for."""
    largest_difference: float
    """Between any output value of the grown network and of `module` on the sample."""
    grafts: tuple[GraftRecord, ...]
    """Every fossil, folded ones too, in forward order."""
    host_names: Mapping[str, str]
    """Name of a tensor in `module` -> its name in the host, or `grafts.SLOT.*` for one of a seed."""

    def tensors(self, keys: str = "module") -> Mapping[str, Tensor]:
        """Return the weights by name, detached, sharing memory with `module`.

        Args:
            keys: "module" = as `module.state_dict()` names them, where a target's own tensors lie under
                `PATH.base.`; "host+extra" = the host's old keys, so that its class loads them, plus
                `grafts.SLOT.*` for the seeds.

        Raises:
            UnknownNameError: If `keys` is neither.
        """
        if keys not in _KEYS:
            raise UnknownNameError("keys", keys, _KEYS)
        state: Mapping[str, object] = self.module.state_dict()
        found = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        if keys == "module":
            return found
        return {self.host_names[name]: value for name, value in found.items()}


_KEYS = ("module", "host+extra")


def export_grafted(
    model: MorphogeneticModel, sample: Inputs, *, allow_unfinished: bool = False, merge: bool = False
) -> Exported:
    """Return the grown network as plain modules, checked on a sample.

    A target that is replaced keeps its hooks; forward hooks of the user that were registered after the slots
    move to the graft, which a deep copy of a graph module does not take along. A target returns the kind of
    output that it returned on the sample: tuples, lists, named tuples and mappings stay what they are. A host
    that reads layers or weights off a target, instead of only calling it, gets the seed inside the target.

    Args:
        model: Any mode; left as it is.
        sample: What the host is called with, on its device: a tensor [B, ...], a tuple or a mapping.
        allow_unfinished: Leave out seeds that are still in flight instead of refusing.
        merge: Fold every seed that is linear into the weights of its target, where that is exact.

    Raises:
        ExportError: If a seed is in flight and may not be left out, the host cannot be copied, the branch of
            a seed cannot leave without this package, or the export differs from the network by more than
            `MAX_DIFFERENCE`.

    Example:
        >>> export_grafted(model, torch.zeros(2, 16)).module(torch.zeros(2, 16)).shape
        torch.Size([2, 4])
    """
    if not allow_unfinished:
        refuse_unfinished(model)
    if any(is_ours(type(module)) for module in model.host.modules()):
        return _export_traced(model, sample, merge=merge)
    return _export_grafts(model, sample, merge=merge)


def _export_grafts(model: MorphogeneticModel, sample: Inputs, *, merge: bool) -> Exported:
    surgery, difference, merged, kept = _operate(model, sample, merge=merge)
    return Exported(
        module=surgery.host,
        merged=merged,
        kept=tuple(KeptSlot(slot=slot, reason=reason) for slot, reason in kept.items()),
        largest_difference=difference,
        grafts=tuple(
            _record(
                slot,
                surgery.paths[slot.slot_id],
                surgery.argument_names(slot.slot_id),
                code=surgery.codes.get(slot.slot_id, ""),
                is_merged=slot.slot_id in merged,
            )
            for slot in surgery.fossils
        ),
        host_names=surgery.name_tensors(),
    )


def _operate(
    model: MorphogeneticModel, sample: Inputs, *, merge: bool
) -> tuple[Surgery, float, tuple[str, ...], dict[str, str]]:
    """Try the ways to leave, the plainest first; returns the surgery, its difference, folded and kept slots.

    A host that looks into what it calls takes no graft in its place, but one inside. A fold that shows on the
    sample is taken back: the weights are read elsewhere, too, or too coarse to hold the sum.
    """
    refused: ExportError | None = None
    foldable: tuple[str, ...] = ()
    for merges in (True, False) if merge else (False,):
        for inside in (False, True):
            surgery = Surgery(model, sample)
            merged, reasons = surgery.replace_targets(merge=merges, inside=inside)
            if merges:
                foldable, kept = merged, reasons
            elif merge:
                kept = kept | dict.fromkeys(foldable, "folded, the network would differ on the sample")
            else:
                kept = {}
            try:
                return surgery, surgery.measure(), merged, kept
            except ExportError as error:
                refused = refused or error
    assert refused is not None
    raise refused


def _export_traced(model: MorphogeneticModel, sample: Inputs, *, merge: bool) -> Exported:
    """Return a host with classes of ours as one graph, in which every layer keeps its weights."""
    if not isinstance(sample, Tensor):
        raise ExportError(
            f"{type(model.host).__name__} has modules of this package, so it is traced as a whole and needs "
            f"one tensor as its sample, got {type(sample).__name__}"
        )
    spanning = [slot.slot_id for slot in model.each_slot() if slot.spec.pair is not None and slot.seed]
    if spanning:
        raise ExportError(
            f"slot {spanning[0]!r} spans two layers, and {type(model.host).__name__} has modules of this "
            "package, so it would be traced as a whole: cull that seed before it is exported"
        )
    module, difference = trace_checked(model, sample)
    fossils = [slot for slot in model.each_slot() if slot.state.stage is SeedStage.FOSSILIZED]
    paths = {part: path for path, part in model.host.named_modules()}
    targets = find_targets(model.host)
    reason = "the host was traced as a whole, its layers stay as they are"
    return Exported(
        module=module,
        merged=(),
        kept=tuple(KeptSlot(slot=slot.slot_id, reason=reason) for slot in fossils if merge),
        largest_difference=difference,
        grafts=tuple(
            _record(slot, (paths[targets[slot.slot_id]],), (), code="", is_merged=False) for slot in fossils
        ),
        host_names={name: _name_traced(name, fossils) for name in module.state_dict()},
    )


def _record(
    slot: SeedSlot, paths: tuple[str, ...], arguments: tuple[str, ...], *, code: str, is_merged: bool
) -> GraftRecord:
    assert slot.seed is not None
    pair = slot.spec.pair
    return GraftRecord(
        slot=slot.slot_id,
        paths=paths,
        blueprint=str(slot.state.blueprint),
        blend=slot.state.blend.value,
        alpha=slot.state.alpha,
        arrangement=slot.tap.arrangement.value,
        select=slot.tap.select,
        shape=slot.spec.shape,
        num_channels=slot.spec.num_channels,
        arguments=arguments,
        num_params=count_trainable(slot.seed),
        is_merged=is_merged,
        widened=() if pair is None else (pair.first.path, *(n.path for n in pair.norms), pair.second.path),
        code=code,
        layers={
            name: repr(layer)
            for name, layer in slot.seed.named_modules()
            if layer.__module__.startswith("torch.nn") and not isinstance(layer, nn.Sequential)
        },
    )


def _name_traced(name: str, fossils: list[SeedSlot]) -> str:
    """Return the host's name of a tensor in a graph that was traced from host and slots."""
    for slot in fossils:
        prefix = f"slots.{slot.slot_id.replace('.', '/')}.seed."
        if name.startswith(prefix):
            return f"grafts.{slot.slot_id}.{name.removeprefix(prefix)}"
    return name.removeprefix("host.")
