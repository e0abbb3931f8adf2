"""A seed's activations: kept until its backward pass, or thrown away and computed again in it.

```
kept        forward keeps every layer's activations until backward
recomputed  forward keeps the seed's input; backward runs the seed once more, then goes through it
```
The second pass must be the first one over again: the random stream is put where it stood (torch does that),
buffers and modes stand as they stood then, and what the pass writes into buffers is thrown away, so that no
running statistics move twice. Saves memory for one forward pass of the seed per batch; numbers are the same.
Knows modules and shapes; no slot, no stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from esper.kasmina.cost import count_saved_bytes
from esper.kasmina.incubation import NormWithStatistics

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RecomputeRule:
    """Which seeds recompute their activations.

    Example:
        RecomputeRule(mode="auto", batch_size=128, threshold_bytes=64 * 2**20)
    """

    mode: str = "off"
    """"off" = none, "on" = all, "auto" = those that would keep at least the threshold."""
    batch_size: int = 1
    """Items per training batch."""
    threshold_bytes: int = 0
    """Mode "auto": bytes of activations of one batch."""

    def applies_to(self, seed: nn.Module, shape: Sequence[int]) -> bool:
        """Whether a seed recomputes.

        Args:
            seed: The module.
            shape: One item's feature, without the batch dimension.

        Raises:
            HostError: Mode "auto", if the seed's forward pass looks at values.
        """
        if self.mode == "auto":
            saved = count_saved_bytes(seed, shape, batch_size=self.batch_size)
            return saved.total >= self.threshold_bytes
        return self.mode == "on"


@final
@dataclass(frozen=True, slots=True)
class _Standing:
    """How one part of a module stood when its first pass began."""

    part: nn.Module
    is_training: bool
    buffers: dict[str, Tensor | None]

    def put(self) -> None:
        """Make the part stand so again, on buffers of its own."""
        self.part.training = self.is_training
        for name, buffer in self.buffers.items():
            setattr(self.part, name, None if buffer is None else buffer.clone())
        if isinstance(self.part, NormWithStatistics):
            self.part.track_running_stats = self.buffers.get("running_mean") is not None


def recompute_in_backward(module: nn.Module, function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Return `function(inputs)`, keeping for the backward pass nothing but the inputs.

    Args:
        module: Whose parameters, buffers and modes the function reads and writes.
        function: One forward pass of the module, [B, ...] to any shape.
        inputs: [B, ...].
    """
    standings = [_look_at(part) for part in module.modules()]

    def make_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _standing_again(standings)

    outputs: Tensor = checkpoint(function, inputs, use_reentrant=False, context_fn=make_contexts)
    return outputs


def _look_at(part: nn.Module) -> _Standing:
    buffers: dict[str, Tensor | None] = {
        name: buffer.detach().clone() for name, buffer in part.named_buffers(recurse=False)
    }
    if isinstance(part, NormWithStatistics):
        # Where statistics are held still a norm has none, and a second pass must find none either.
        buffers |= dict.fromkeys(name for name in _STATISTICS if name not in buffers)
    return _Standing(part, part.training, buffers)


@contextmanager
def _standing_again(standings: Sequence[_Standing]) -> Iterator[None]:
    now = [(standing, _references(standing)) for standing in standings]
    try:
        for standing in standings:
            standing.put()
        yield
    finally:
        for standing, (is_training, is_tracking, buffers) in now:
            part = standing.part
            part.training = is_training
            for name, buffer in buffers.items():
                setattr(part, name, buffer)
            if isinstance(part, NormWithStatistics):
                part.track_running_stats = is_tracking


def _references(standing: _Standing) -> tuple[bool, bool, dict[str, Tensor | None]]:
    part = standing.part
    is_tracking = isinstance(part, NormWithStatistics) and part.track_running_stats
    return part.training, is_tracking, {name: getattr(part, name) for name in standing.buffers}
