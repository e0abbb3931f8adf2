"""When gradients can be looked at: before an optimiser's step, or inside it, once its closure has run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


def before_step(
    look: Callable[[], None],
    optimizer: torch.optim.Optimizer,
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> tuple[tuple[object, ...], dict[str, object]] | None:
    """Look at the gradients now, or have a closure of the step's look once it has computed them.

    Args:
        look: Called when every gradient of the step is there.
        optimizer: Whose step begins.
        args: As a step pre-hook of torch gets them, the optimiser first.
        kwargs: As well.

    Returns:
        What the step is called with instead; None = what it was called with.
    """
    closure = args[1] if len(args) > 1 else kwargs.get("closure")
    if not callable(closure):
        look()
        return None

    def compute() -> object:
        loss = closure()
        look()
        return loss

    rest = {name: value for name, value in kwargs.items() if name != "closure"}
    return (optimizer, compute, *args[2:]), rest
