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

from esper.leyline import ConfigError, ForeignCheckpointError, JsonValue, suggest
from esper.tolaria.group_flags import GroupFlags
from esper.tolaria.guest_gradients import measure_gradients
from esper.tolaria.guest_groups import (
    Group,
    GuestSeed,
    add_groups,
    find_reference,
    members_of,
    name_members,
    refuse_unfit,
    remember_names,
    take_out,
)
from esper.tolaria.guest_schedulers import GuestSchedulers
from esper.tolaria.guest_state import (
    apply_held,
    apply_settings,
    describe_groups,
    describe_held,
    describe_settings,
    read_held,
    read_seeds,
    read_settings,
)
from esper.tolaria.optimizer_state import check_groups, check_held, collect_tensors, select_trainable
from esper.tolaria.reducer import HOST
from esper.tolaria.schedules import compute_newborn_factor


@final
class GuestOptimizer:
    """Keeps the groups, rates, state and schedulers of somebody else's optimiser in step with the topology.

    Between a scheduler's step and the optimiser's next one a seed's groups hold what the scheduler wrote;
    `learning_rate` is what will be used.

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
            ConfigError: If the optimiser cannot take groups, or a scheduler cannot be followed.
        """
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ConfigError(
                f"{type(optimizer).__name__} is no torch.optim.Optimizer: pass the one that steps"
            )
        refuse_unfit(optimizer)
        if newborn_warmup_batches < 0:
            raise ConfigError(
                f"newborn_warmup_batches={newborn_warmup_batches}: must be >= 0 (0 = no warm-up)"
            )
        if not 0 < newborn_multiplier < float("inf"):
            raise ConfigError(f"newborn_multiplier={newborn_multiplier}: must be finite and > 0, e.g. 1.0")
        self._optimizer = optimizer
        self._schedulers = GuestSchedulers(optimizer)
        self._newborn_warmup = newborn_warmup_batches
        self._multiplier = newborn_multiplier
        self._num_steps = 0
        self._seeds: dict[str, GuestSeed] = {}
        self._given_names = remember_names(host_parameters or {})
        for scheduler in schedulers:
            self._schedulers.follow(scheduler)
        self._order_before_load: list[Group] = []
        try:
            self._handles = (
                optimizer.register_step_pre_hook(self._before_step),
                optimizer.register_load_state_dict_pre_hook(self._before_load),
                optimizer.register_load_state_dict_post_hook(self._after_load),
            )
        except AttributeError as error:
            raise ConfigError(
                f"optimiser {type(optimizer).__name__} wraps another one and takes no hooks: pass the inner "
                "torch optimiser, the one that steps"
            ) from error

    # ------------------------------------------------------------------ topology

    @property
    def num_steps(self) -> int:
        """Optimiser steps so far, those before a `load` included; the unit of every `birth_batch`."""
        return self._num_steps

    @property
    def seed_slots(self) -> tuple[str, ...]:
        """Slots whose seeds have groups here, in the order of their births."""
        return tuple(self._seeds)

    def follow(
        self, scheduler: torch.optim.lr_scheduler.LRScheduler, *, per_group: Iterable[str] | None = None
    ) -> None:
        """Keep one more scheduler in step with the groups.

        Args:
            scheduler: Built on this optimiser, before or after growth.
            per_group: For a class that is not torch's: its attributes that hold one value per group; it is
                not tried then. None = find out on a copy.

        Raises:
            ConfigError: If it cannot live with a group that is added; says what to pass.
        """
        self._schedulers.follow(scheduler, per_group)

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
            ConfigError: If optimiser or schedulers cannot take the groups; says why.
        """
        if slot in self._seeds:
            raise RuntimeError(f"the seed of slot {slot!r} has optimiser groups already: remove_seed() first")
        named = select_trainable(named_parameters)
        held = {id(p): other for other, seed in self._seeds.items() for p in seed.parameters.values()}
        for name, parameter in named.items():
            if id(parameter) in held:
                raise RuntimeError(
                    f"parameter {name!r} of slot {slot!r} is in the groups of slot {held[id(parameter)]!r}"
                )
        self._schedulers.check()
        host_groups = self._host_groups()
        seed = GuestSeed(
            parameters=named,
            reference=find_reference(self._seeds.values(), host_groups, reference),
            birth_step=self._num_steps if birth_batch is None else birth_batch,
        )
        emptied = take_out(host_groups, named.values())
        num_before = len(self._optimizer.param_groups)
        source = next(i for i, g in enumerate(self._optimizer.param_groups) if g is seed.reference)
        try:
            add_groups(self._optimizer, slot, seed, host_groups)
            self._schedulers.extend([source] * (len(self._optimizer.param_groups) - num_before))
        except BaseException:
            for group, former in emptied:
                group.update(former)
            raise
        self._seeds[slot] = seed
        seed.follow(self._factor(seed))

    def remove_seed(self, slot: str) -> None:
        """Drop a seed's groups, state, gradients and scheduler entries; nothing here refers to it afterwards.

        Raises:
            RuntimeError: If the slot has no groups.
        """
        own = {id(member.group) for member in self._seed(slot).members}
        kept = [i for i, group in enumerate(self._optimizer.param_groups) if id(group) not in own]
        self._schedulers.check()
        self._schedulers.select(kept)
        for parameter in self._seeds.pop(slot).parameters.values():
            self._optimizer.state.pop(parameter, None)
            parameter.grad = None
        self._optimizer.param_groups[:] = [self._optimizer.param_groups[i] for i in kept]

    def fossilize(self, slot: str) -> None:
        """Let a kept seed follow its reference group's rate from here on; its moments are not touched.

        Raises:
            RuntimeError: If the slot has no groups.
        """
        seed = self._seed(slot)
        seed.is_newborn = False
        seed.follow(self._factor(seed))

    def set_frozen(self, slot: str, is_frozen: bool) -> None:
        """Hold a seed's learning rate at 0 (a cull under way), or let it go.

        Raises:
            RuntimeError: If the slot has no groups.
        """
        seed = self._seed(slot)
        seed.is_frozen = is_frozen
        seed.follow(self._factor(seed))

    def set_birth(self, slot: str, birth_batch: int | None = None) -> None:
        """Say at which `num_steps` a seed began to train (None = now); its warm-up counts from there.

        Raises:
            RuntimeError: If the slot has no groups.
        """
        seed = self._seed(slot)
        seed.birth_step = self._num_steps if birth_batch is None else birth_batch
        seed.follow(self._factor(seed))

    def learning_rate(self, slot: str) -> float:
        """Return the rate of a slot's seed at the next step: reference now * newborn factor * multiplier.

        Raises:
            RuntimeError: If the slot has no groups.
        """
        seed = self._seed(slot)
        rate = seed.reference["lr"]
        return float(rate if isinstance(rate, Tensor) else str(rate)) * self._factor(seed)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return every parameter that the optimiser holds by name, host first."""
        host = name_members(self._host_groups(), self._given_names)
        return host | {name: p for seed in self._seeds.values() for name, p in seed.parameters.items()}

    def check_consistency(self, expected_names: Iterable[str]) -> None:
        """Check that groups and state hold exactly the expected trainable parameters, each once.

        Args:
            expected_names: Of every trainable parameter of the topology, as `parameters` names them.

        Raises:
            RuntimeError: Naming what is missing, unexpected, doubled or left behind.
        """
        check_held(self._optimizer, self.parameters(), list(expected_names))

    # ------------------------------------------------------------------ a step

    def drop_faulty(self, inverse_scale: float = 1.0) -> GroupFlags:
        """Set the gradients of each seed with a NaN or infinity to None, if the host's own are finite.

        With a faulty host nothing is touched: a scaler must see it, skip the step and halve its scale. Under
        a `torch.amp.GradScaler` call it before `unscale_`, which records what it finds for the whole
        optimiser and would skip the host for a seed. The order is backward, drop_faulty,
        scaler.unscale_(optimizer), clip, scaler.step(optimizer), scaler.update(); a finite number stays
        finite when it is unscaled, so nothing is missed. One device sync.

        Args:
            inverse_scale: Factor on the reported norms, 1 / loss scale when gradients are still scaled; the
                gradients themselves are not changed.
        """
        host = [p for group in self._host_groups() for p in members_of(group)]
        owners = {HOST: host} | {slot: list(seed.parameters.values()) for slot, seed in self._seeds.items()}
        flags = measure_gradients(owners, inverse_scale, self.parameters)
        if not flags[HOST].is_faulty:
            for slot, seed in self._seeds.items():
                for parameter in seed.parameters.values() if flags[slot].is_faulty else ():
                    parameter.grad = None
        return GroupFlags(host=flags.pop(HOST), seeds=flags)

    # ------------------------------------------------------------------ state

    def state(self) -> tuple[dict[str, Tensor], dict[str, JsonValue]]:
        """Return live tensors (not copies) keyed "<parameter name>/<state key>", and plain data.

        Settings of every group and every followed scheduler are in it: a caller saves neither.

        Raises:
            ConfigError: If a setting or a scheduler's state is not plain data; names it.
        """
        parameters, groups = self.parameters(), self._named_groups()
        names = {id(parameter): name for name, parameter in parameters.items()}
        state: dict[str, JsonValue] = {
            "optimizer": type(self._optimizer).__name__,
            "num_steps": self._num_steps,
            "seeds": [[n, s.birth_step, s.is_newborn, s.is_frozen] for n, s in self._seeds.items()],
            "groups": describe_groups(groups, names),
            "settings": describe_settings(groups),
            "held": describe_held(self._optimizer, parameters),
            "schedulers": self._schedulers.state(),
        }
        return collect_tensors(self._optimizer, parameters), state

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, JsonValue]) -> None:
        """Put back what `state` returned, schedulers included; the topology must have been rebuilt before.

        Nothing is changed when it is refused. Tensors are copied.

        Raises:
            ForeignCheckpointError: If class, seed, group, setting, name, shape or scheduler differs.
        """
        kind, num_steps = state.get("optimizer"), state.get("num_steps")
        if kind != type(self._optimizer).__name__ or not isinstance(num_steps, int):
            raise ForeignCheckpointError(
                f"saved optimiser is {kind!r} at step {num_steps!r}, "
                f"this one is {type(self._optimizer).__name__}"
            )
        parameters, groups = self.parameters(), self._named_groups()
        seeds = read_seeds(state.get("seeds"), self.seed_slots)
        names = {id(parameter): name for name, parameter in parameters.items()}
        order = check_groups(state.get("groups"), describe_groups(groups, names))
        settings = read_settings(state.get("settings"), groups)
        plain = read_held(state.get("held"), tensors, parameters)
        schedules = self._schedulers.read(state.get("schedulers"))
        present = self._optimizer.param_groups
        indices = [next(i for i, g in enumerate(present) if g is groups[name]) for name in order]
        self._schedulers.select(indices)
        present[:] = [present[index] for index in indices]
        apply_settings(settings, groups)
        apply_held(self._optimizer, tensors, plain, parameters)
        self._schedulers.apply(schedules)
        self._seeds = {slot: self._seeds[slot] for slot in seeds}
        for slot, (birth_step, is_newborn, is_frozen) in seeds.items():
            seed = self._seeds[slot]
            seed.birth_step, seed.is_newborn, seed.is_frozen = birth_step, is_newborn, is_frozen
        self._num_steps = num_steps

    def close(self) -> None:
        """Let go of the optimiser: groups, rates and schedulers stay as they are and are followed no more."""
        for handle in self._handles:
            handle.remove()

    # ------------------------------------------------------------------ inside

    def _before_step(self, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        for seed in self._seeds.values():
            seed.follow(self._factor(seed))
        self._num_steps += 1

    def _before_load(self, optimizer: torch.optim.Optimizer, state_dict: object) -> None:
        self._order_before_load = list(optimizer.param_groups)

    def _after_load(self, optimizer: torch.optim.Optimizer) -> None:
        """Find the groups again: torch's own load replaces every one of them, in the same order."""
        new = {
            id(old): group for old, group in zip(self._order_before_load, optimizer.param_groups, strict=True)
        }
        for seed in self._seeds.values():
            seed.reference = new[id(seed.reference)]
            for member in seed.members:
                member.group = new[id(member.group)]
                if member.decay_source is not None:
                    member.decay_source = new[id(member.decay_source)]
        self._order_before_load = []

    def _factor(self, seed: GuestSeed) -> float:
        if seed.is_frozen:
            return 0.0
        if not seed.is_newborn:
            return 1.0
        age = self._num_steps - seed.birth_step
        return self._multiplier * compute_newborn_factor(age, self._newborn_warmup)

    def _seed(self, slot: str) -> GuestSeed:
        if slot not in self._seeds:
            raise RuntimeError(f"slot {slot!r} has no optimiser groups: {suggest(slot, self.seed_slots)}")
        return self._seeds[slot]

    def _host_groups(self) -> list[Group]:
        own = {id(member.group) for seed in self._seeds.values() for member in seed.members}
        return [group for group in self._optimizer.param_groups if id(group) not in own]

    def _named_groups(self) -> dict[str, Group]:
        """Return every group by a name that a rebuilt run gives it again, in order."""
        own = {
            id(member.group): str(member.group["name"]) for s in self._seeds.values() for member in s.members
        }
        named: dict[str, Group] = {}
        for group in self._optimizer.param_groups:
            named[own.get(id(group), f"{HOST}/{len(named)}")] = group
        return named
