"""A grown network of any kind leaves as plain modules: the user's own classes, torch's, and none of this package.

```
copy of the host          without our hooks; the user's hooks and control flow stay
  target of a fossil  ->  a small graph: arguments -> base -> feature -> seed -> add -> output as it was
  folded fossil       ->  the target itself, with the seed in its weights (merge)
```
Only the target's surroundings are a graph, so that no tracer ever meets the host's forward. A host made of
our own classes is traced as a whole instead (`kasmina.export`). What leaves was compared with the grown network
on a sample. Writes no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from esper.kasmina.inputs import Inputs
from esper.kasmina.model import MorphogeneticModel


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
    """Names of the target's arguments, in order; keyword-only ones with "*" before the first."""
    num_params: int
    """Trainable parameters of the seed; they are gone where it is folded."""
    is_merged: bool


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
    """Slots whose seed lies in the weights of its target now."""
    kept: tuple[KeptSlot, ...]
    """Fossils that were to be folded and could not; () where folding was not asked for."""
    largest_difference: float
    """Between any output value of the grown network and of `module` on the sample."""
    grafts: tuple[GraftRecord, ...]
    """Every fossil, folded ones too, in forward order."""

    def tensors(self, keys: str = "module") -> Mapping[str, Tensor]:
        """Return the weights by name.

        Args:
            keys: "module" = as `module.state_dict()` names them, where a target's own tensors lie under
                `PATH.base.`; "host+extra" = the host's old keys, so that its class loads them, plus
                `grafts.SLOT.*` for the seeds.

        Raises:
            UnknownNameError: If `keys` is neither.
        """
        raise NotImplementedError


def export_grafted(
    model: MorphogeneticModel, sample: Inputs, *, allow_unfinished: bool = False, merge: bool = False
) -> Exported:
    """Return the grown network as plain modules, checked on a sample.

    Args:
        model: Any mode; left as it is.
        sample: What the host is called with, on its device: a tensor [B, ...], a tuple or a mapping.
        allow_unfinished: Leave out seeds that are still in flight instead of refusing.
        merge: Fold every seed that is linear into the weights of its target, where that is exact.

    Raises:
        ExportError: If a seed is in flight and may not be left out, the host cannot be copied, a seed's branch
            cannot leave without this package, or the export differs from the network by more than
            `MAX_DIFFERENCE`.
    """
    raise NotImplementedError
