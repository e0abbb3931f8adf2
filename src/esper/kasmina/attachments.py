"""Our hooks on a host: where they are, and how they come off again while the user's stay.

A hook of ours is a bound method of a slot, which also holds in a deep copy, where no handle is known.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from esper.kasmina.slot import SeedSlot

if TYPE_CHECKING:
    from torch import nn


@final
@dataclass(frozen=True, slots=True)
class UserHook:
    """A forward hook that runs after ours."""

    hook: Callable[..., object]
    with_kwargs: bool
    always_call: bool

    def move_to(self, module: nn.Module) -> None:
        """Register it on a module."""
        module.register_forward_hook(self.hook, with_kwargs=self.with_kwargs, always_call=self.always_call)


def find_targets(host: nn.Module) -> dict[str, nn.Module]:
    """Return the module that each slot stands behind, by slot id."""
    return {
        slot.slot_id: module
        for module in host.modules()
        for hook in module._forward_hooks.values()
        if (slot := _slot_of(hook)) is not None
    }


def detach(host: nn.Module) -> None:
    """Take our hooks off a host and everything in it; the user's stay."""
    for module in host.modules():
        ours = [number for number, hook in module._forward_hooks.items() if _slot_of(hook) is not None]
        for number in ours:
            del module._forward_hooks[number]
        for number, hook in list(module._forward_pre_hooks.items()):
            if _slot_of(hook) is not None:
                del module._forward_pre_hooks[number]
                module._forward_pre_hooks_with_kwargs.pop(number, None)


def take_later_hooks(module: nn.Module) -> list[UserHook]:
    """Take the user's hooks that run after our last one off a module and return them in order."""
    numbers = list(module._forward_hooks)
    ours = [
        place for place, number in enumerate(numbers) if _slot_of(module._forward_hooks[number]) is not None
    ]
    if not ours:
        return []
    found = []
    for number in numbers[ours[-1] + 1 :]:
        hook = UserHook(
            hook=module._forward_hooks.pop(number),
            with_kwargs=module._forward_hooks_with_kwargs.pop(number, False),
            always_call=module._forward_hooks_always_called.pop(number, False),
        )
        found.append(hook)
    return found


def has_hooks(module: nn.Module) -> bool:
    """Whether anything but a slot watches or changes what a module takes, returns or sends back."""
    forward = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    strangers = [hook for hook in forward if _slot_of(hook) is None]
    return bool(strangers) or any((module._backward_hooks, module._backward_pre_hooks))


def _slot_of(hook: Callable[..., object]) -> SeedSlot | None:
    if inspect.ismethod(hook) and isinstance(hook.__self__, SeedSlot):
        return hook.__self__
    return None
