"""A user's own optimiser and schedulers that follow a growing model.

```
add_seed > groups that copy the reference group > every scheduler's per-group lists grow alike
step pre-hook > seed rate = reference rate now * newborn factor * multiplier;  betas, momentum, decay follow
remove_seed > groups, state and list entries go; nothing refers to the parameters afterwards
```
The optimiser stays the user's: it is never rebuilt, and the host's groups are never written. Knows parameters
by name and slots by id; no model, no loss, no stage, no batch: it counts the optimiser's own steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from esper.leyline import JsonValue
from esper.tolaria.group_flags import GroupFlags


@final
class GuestOptimizer:
    """Keeps the groups, rates, state and schedulers of somebody else's optimiser in step with the topology.

    Example:
        guest = GuestOptimizer(optimizer, [scheduler], host_parameters=dict(grown.named_parameters()))
        guest.add_seed("stages.1", seed_parameters, reference=model.stages[1].weight)
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        schedulers: Sequence[torch.optim.lr_scheduler.LRScheduler] = (),
        *,
        newborn_warmup_batches: int = 200,
        newborn_multiplier: float = 1.0,
        host_parameters: Mapping[str, nn.Parameter] | None = None,
    ) -> None:
        """Hook into an optimiser's steps; nothing about it changes until the first seed.

        Args:
            optimizer: Any torch optimiser whose groups can come and go.
            schedulers: Every scheduler that was built on it; later ones are handed to `follow`.
            newborn_warmup_batches: Optimiser steps over which a newborn's rate rises, >= 0.
            newborn_multiplier: Rate of a seed over its reference group's until it is a fossil, > 0.
            host_parameters: Names for the parameters that the optimiser holds; without them the optimiser's
                own `param_names` count, else positions ("group0.3").

        Raises:
            ConfigError: If the optimiser cannot take groups, or a scheduler belongs to another one.
        """
        raise NotImplementedError

    @property
    def num_steps(self) -> int:
        """Optimiser steps counted since this object was made (or, after `load`, since the first one was)."""
        raise NotImplementedError

    @property
    def seed_slots(self) -> tuple[str, ...]:
        """Slots whose seeds have groups here, in the order of their births."""
        raise NotImplementedError

    def follow(
        self, scheduler: torch.optim.lr_scheduler.LRScheduler, *, per_group: Iterable[str] = ()
    ) -> None:
        """Keep one more scheduler in step with the groups.

        Args:
            scheduler: Built on this optimiser, before or after growth.
            per_group: For a class that is not torch's: further attributes that hold one value per group.
        """
        raise NotImplementedError

    def add_seed(
        self,
        slot: str,
        named_parameters: Mapping[str, nn.Parameter],
        *,
        reference: nn.Parameter | None,
        birth_batch: int | None = None,
    ) -> None:
        """Give a seed its groups, or change nothing.

        Args:
            slot: Id.
            named_parameters: The seed's, by qualified name; those that need no gradient get no group. What
                the user's groups hold already moves out of them, with its state.
            reference: A parameter of the module at the slot; its group is copied and followed. None, or one
                that no group holds = the host's first group.
            birth_batch: Value of `num_steps` at which it begins to train; None = now.

        Raises:
            RuntimeError: If the slot has groups already, or another seed holds one of the parameters.
            ConfigError: If a scheduler cannot live with another group; names it.
        """
        raise NotImplementedError

    def remove_seed(self, slot: str) -> None:
        """Drop a seed's groups, state, gradients and scheduler entries."""
        raise NotImplementedError

    def fossilize(self, slot: str) -> None:
        """Let a kept seed follow its reference group's rate from here on; its moments are not touched."""
        raise NotImplementedError

    def set_frozen(self, slot: str, is_frozen: bool) -> None:
        """Hold a seed's learning rate at 0 (a cull under way), or let it go."""
        raise NotImplementedError

    def set_birth(self, slot: str, birth_batch: int | None = None) -> None:
        """Say at which value of `num_steps` a seed began to train (None = now); its warm-up counts from there."""
        raise NotImplementedError

    def learning_rate(self, slot: str) -> float:
        """Return the rate that the next step will use for a slot's seed."""
        raise NotImplementedError

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return every parameter that the optimiser holds by name, host first."""
        raise NotImplementedError

    def check_consistency(self, expected_names: Iterable[str]) -> None:
        """Check that groups and state hold exactly the expected trainable parameters, each once."""
        raise NotImplementedError

    def drop_faulty(self, inverse_scale: float = 1.0) -> GroupFlags:
        """Find non-finite gradients per seed; set theirs to None if the host's are finite."""
        raise NotImplementedError

    def state(self) -> tuple[dict[str, Tensor], dict[str, JsonValue]]:
        """Return live tensors keyed "<parameter name>/<state key>", and plain data; schedulers included."""
        raise NotImplementedError

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, JsonValue]) -> None:
        """Put back what `state` returned, schedulers included; the topology must have been rebuilt before."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the optimiser's steps; groups stay as they are."""
        raise NotImplementedError


def missing_from(
    optimizer: torch.optim.Optimizer, named_parameters: Mapping[str, nn.Parameter]
) -> tuple[str, ...]:
    """Return the trainable parameters that an optimiser does not hold, in order."""
    raise NotImplementedError


def describe_missing(slot: str, names: Sequence[str]) -> str:
    """Say that a seed is not trained: its parameters and the line to add."""
    raise NotImplementedError
