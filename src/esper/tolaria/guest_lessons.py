"""What seeds learn by the shadow objective in a loop that somebody else runs: their true loss, beside theirs.

```
outputs = grown(x)                      the loop's pass; its arguments and precision are remembered
loss = lessons.join(outputs, (y,))      loss_fn(outputs, y); for each incubating seed one more pass with it at
                                        full alpha, cut before it; d(its loss)/d(its parameters) is kept
loss.backward()                         the loop's own; each seed gets what was kept, times dL/dloss
```
A pass of our own leaves the host as it was: it runs on copies of the host's buffers, and the random stream is
put back. Costs one forward pass and the backward pass of the tail per incubating seed and batch.
Knows a model and a loss; no optimiser, no data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor, nn

from esper.kasmina import (
    ForwardPlan,
    MorphogeneticModel,
    SeedSlot,
    find_incubating,
    join_loss,
    norms_with_statistics,
    run_on_copies,
    untouched_rng,
    untouched_statistics,
)
from esper.leyline import ConfigError
from esper.tolaria.input_recorder import InputRecorder
from esper.tolaria.loop_config import LoopConfig

LoopLoss = Callable[..., object]
"""(what the model returns, and whatever the loop passes beside it) -> scalar with gradient."""


def check_lesson(config: LoopConfig, loss_fn: object) -> None:
    """Refuse a loss function where seeds learn without one, and none where they need one.

    Raises:
        ConfigError: Says what to change.
    """
    name = config.lifecycle.incubation
    if loss_fn is not None and not callable(loss_fn):
        raise ConfigError(
            f"loss_fn is a {type(loss_fn).__name__}: expected a function of outputs and targets"
        )
    if name == "shadow" and loss_fn is None:
        raise ConfigError(
            "lifecycle.incubation='shadow' in a loop of your own needs loss_fn=, else 'residual'"
        )
    if name != "shadow" and loss_fn is not None:
        raise ConfigError(
            f"loss_fn= is for lifecycle.incubation='shadow', the config says {name!r}: change one of the two"
        )


@final
class ShadowLessons:
    """Turns outputs into the loop's loss, in whose backward pass incubating seeds learn, too.

    Example:
        loss = lessons.join(grown(x), (y,))
    """

    def __init__(
        self,
        model: MorphogeneticModel,
        recorder: InputRecorder,
        loss_fn: LoopLoss,
        read_scale: Callable[[], float],
    ) -> None:
        """Bind the parts; nothing is learned before `watch` is hooked on.

        Args:
            model: Whose seeds learn.
            recorder: Remembers the arguments of the model's passes.
            loss_fn: The loop's own.
            read_scale: Returns the loss scale of the next backward pass: lessons are computed under it, since
                in half precision small gradients vanish.
        """
        self._model, self._recorder = model, recorder
        self._loss_fn, self._read_scale = loss_fn, read_scale
        self._device = next(model.each_slot()).spec.device
        self._autocast: tuple[bool, torch.dtype] = (False, torch.float32)
        self._num_passes = 0
        self._num_losses = 0

    def join(self, outputs: object, rest: Sequence[object]) -> Tensor:
        """Return the loop's loss.

        Args:
            outputs: What the model returned, as it is.
            rest: What the loss takes beside it, such as targets.

        Raises:
            ConfigError: If the loss is no scalar, or cannot be found again by a pass of our own.
        """
        loss = self._loss_fn(outputs, *rest)
        if not isinstance(loss, Tensor) or loss.dim() > 0:
            found = f"one of shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ConfigError(f"loss_fn must return a scalar tensor, the mean over the batch; got {found}")
        self._num_losses += 1
        incubating = find_incubating(self._model)
        passes, self._num_passes = self._num_passes, 0
        if not incubating or not loss.requires_grad:
            return loss
        if passes != 1:
            advice = (
                "leave loss_fn= out where a loss takes several, and seeds learn by the residual objective"
                if passes
                else "call what esper.grow returned itself, and compile it by grown.compile()"
            )
            raise ConfigError(
                f"loss() after {passes} training passes of the grown model since the last one: shadow "
                f"incubation repeats the one pass that a loss came from; {advice}"
            )
        for slot in incubating:
            loss = self._teach(slot, loss, outputs, rest)
        return loss

    def begin_interval(self) -> None:
        """Forget the passes of an evaluation: only those that train come from now on."""
        self._num_passes = self._num_losses = 0

    def check_used(self) -> None:
        """Refuse an interval in which a seed incubated and no loss was asked for.

        Raises:
            ConfigError: Says which call is missing.
        """
        if self._num_losses == 0 and find_incubating(self._model):
            raise ConfigError(
                "loss_fn= was given, but loss() was not called in this interval, so that no seed learned: "
                "compute the loss by controller.loss(outputs, targets), or leave loss_fn= out"
            )

    def watch(self, module: nn.Module, args: object) -> None:
        """Forward pre-hook on the model: remember the precision of the pass that begins."""
        del module, args
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        kind = self._device.type
        self._autocast = (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        self._num_passes += 1

    def _teach(self, slot: SeedSlot, loss: Tensor, outputs: object, rest: Sequence[object]) -> Tensor:
        """Return the loss with a seed's lesson joined to it."""
        parameters = [p for p in slot.parameters() if p.requires_grad]
        if not parameters:
            return loss
        model = self._model
        others = [s for s in model.each_slot() if s is not slot]
        norms = [norm for other in others for norm in norms_with_statistics(other)]
        plan = ForwardPlan(overrides={slot.slot_id: 1.0}, is_cut=True)
        with untouched_rng(self._device), untouched_statistics(norms), model.planned(plan):
            # Gradients, too: a host that keeps no activations runs anew for them, and must meet the plan.
            gradients = run_on_copies(model.host, lambda: self._find_gradients(parameters, outputs, rest))
        return join_loss(loss, gradients, parameters)

    def _find_gradients(
        self, parameters: Sequence[nn.Parameter], outputs: object, rest: Sequence[object]
    ) -> list[Tensor | None]:
        args, kwargs = self._recorder.last_call
        enabled, dtype = self._autocast
        with torch.autocast(self._device.type, dtype=dtype, enabled=enabled):
            again = self._model.host(*args, **kwargs)
        if isinstance(outputs, Tensor) and isinstance(again, Tensor) and outputs.shape != again.shape:
            raise ConfigError(
                f"loss() was given outputs of shape {list(outputs.shape)}, the model returns "
                f"{list(again.shape)}: pass what the grown model returned, and reshape it inside loss_fn"
            )
        own = self._loss_fn(again, *rest)
        assert isinstance(own, Tensor)
        if not own.requires_grad:  # nothing that the seed could change reaches the loss
            return [None] * len(parameters)
        scale = self._read_scale()
        found: Sequence[Tensor | None] = torch.autograd.grad(own * scale, parameters, allow_unused=True)
        return [None if one is None else one / scale for one in found]
