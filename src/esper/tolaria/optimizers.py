"""One optimiser per host run that follows the topology: groups by name, never rebuilt.

```
host/decay  host/no_decay  seed:<slot>/decay  seed:<slot>/no_decay
lr(t, group) = base * decay(t)                                the host, and seeds that are fossils
             = base * decay(t) * multiplier * newborn(age)    a seed until then;  0 while it is frozen
```
A newborn seed gets groups of its own, so its Adam step starts at 0. A fossil keeps its groups with every
moment untouched and merely stops being newborn. A culled seed takes groups and state with it. State is saved
and loaded by parameter name. Knows parameters by name and slots by id; no model, no loss, no stage.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from esper.leyline import ConfigError, ForeignCheckpointError, JsonValue, suggest
from esper.tolaria.group_flags import GroupFlag, GroupFlags
from esper.tolaria.objectives import widen
from esper.tolaria.optimizer_state import (
    ParameterOwner,
    apply_tensors,
    check_groups,
    check_held,
    check_tensors,
    collect_tensors,
    describe_groups,
    describe_owners,
    find_faulty,
    group_prefix,
    is_decayed,
    read_owners,
    select_trainable,
    split_groups,
)
from esper.tolaria.reducer import HOST, PlanEntry, build_plan
from esper.tolaria.schedules import compute_decay, compute_newborn_factor

OPTIMIZER_NAMES = ("sgd", "adam", "adamw")
FUSED_MODES = ("auto", "on", "off")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """Optimiser of host and seeds, and its learning-rate schedule."""

    name: str = "sgd"
    """"sgd", "adam" or "adamw"; sgd with momentum, because small conv nets generalise best with it."""
    learning_rate: float = 0.05
    """Peak learning rate, > 0, reached after the warm-up; 0.05 suits sgd with momentum on the built-in
    hosts, adam needs about a tenth."""
    momentum: float = 0.9
    """sgd only: weight of the past in a step, in [0, 1); 0.9 is the usual choice (Sutskever et al.
    2013)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """adam and adamw: decay of the two moments per step, each in [0, 1); as in Kingma and Ba 2015."""
    weight_decay: float = 5e-4
    """Decay of matrices and kernels, >= 0; norms, biases and gates have none."""
    warmup_fraction: float = 0.05
    """Share of the run over which the host's rate rises, in [0, 1): the first steps are the roughest."""
    final_fraction: float = 0.01
    """Rate at the horizon over the peak, in (0, 1]; 0.01, so that every arm of a comparison ends decayed."""
    newborn_multiplier: float = 1.0
    """Learning rate of a seed over the host's until it is fossilised, > 0; 1 = no privilege."""
    clip_norm: float = 1.0
    """Largest gradient norm of the host and of each seed, apart, > 0: one of them cannot shrink another."""
    fused: str = "auto"
    """Fused update kernels: "on", "off", or "auto" = on CUDA, where one launch replaces many."""

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        if self.name not in OPTIMIZER_NAMES:
            raise ConfigError(f"optimizer.name={self.name!r}: {suggest(self.name, OPTIMIZER_NAMES)}")
        if self.fused not in FUSED_MODES:
            raise ConfigError(f"optimizer.fused={self.fused!r}: {suggest(self.fused, FUSED_MODES)}")
        for name in ("learning_rate", "newborn_multiplier", "clip_norm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"optimizer.{name}={value}: must be finite and > 0")
        if not 0 < self.final_fraction <= 1:
            raise ConfigError(f"optimizer.final_fraction={self.final_fraction}: must be in (0, 1]")
        if not 0 <= self.warmup_fraction < 1:
            raise ConfigError(f"optimizer.warmup_fraction={self.warmup_fraction}: must be in [0, 1)")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ConfigError(f"optimizer.weight_decay={self.weight_decay}: must be finite and >= 0")
        for name, values in (("momentum", (self.momentum,)), ("betas", self.betas)):
            if not all(0 <= value < 1 for value in values):
                raise ConfigError(f"optimizer.{name}={getattr(self, name)}: must be in [0, 1)")


@final
class TopologyOptimizer:
    """SGD, Adam or AdamW over a host and the seeds that come and go.

    Example:
        optimizer.add_seed("block2", model.seed_parameters("block2"), birth_batch=120)
        optimizer.set_batch(120)
    """

    def __init__(
        self,
        config: OptimizerConfig,
        host_parameters: Mapping[str, nn.Parameter],
        *,
        total_batches: int,
        newborn_warmup_batches: int,
    ) -> None:
        """Make the host's groups.

        Args:
            config: Optimiser and schedule.
            host_parameters: Parameters by qualified name, at least one of them trainable.
            total_batches: Batches until the horizon, >= 1.
            newborn_warmup_batches: Batches over which a newborn's rate rises, >= 0.

        Raises:
            ConfigError: If there is nothing to train.
        """
        self._config = config
        self._total_batches = total_batches
        self._newborn_warmup = newborn_warmup_batches
        self._batch = 0
        host = ParameterOwner(parameters=select_trainable(host_parameters))
        if not host.parameters:
            raise ConfigError("the host has no trainable parameter: at least one must require a gradient")
        self._device = next(iter(host.parameters.values())).device
        groups = split_groups(host, HOST, config.weight_decay)
        self._optimizer = _build_optimizer(config, groups, self._device)
        host.groups.extend(self._optimizer.param_groups)
        self._owners: dict[str, ParameterOwner] = {HOST: host}
        self.set_batch(0)

    # ------------------------------------------------------------------ topology

    @property
    def seed_slots(self) -> tuple[str, ...]:
        """Slots whose seeds have groups here, in the order of their births."""
        return tuple(name for name in self._owners if name != HOST)

    def add_seed(self, slot: str, parameters: Mapping[str, nn.Parameter], *, birth_batch: int) -> None:
        """Give a new seed its groups, without any state, or change nothing; what needs no gradient gets none.

        Raises:
            RuntimeError: If the slot has groups already, or a name or parameter belongs to another owner.
        """
        if slot in self._owners:
            raise RuntimeError(f"the seed of slot {slot!r} has optimiser groups already: remove_seed() first")
        named = select_trainable(parameters)
        owner = ParameterOwner(parameters=named, birth_batch=birth_batch, is_newborn=True)
        known = self.parameters()
        for name, parameter in owner.parameters.items():
            if name in known or any(parameter is other for other in known.values()):
                raise RuntimeError(f"parameter {name!r} of slot {slot!r} is in another optimiser group")
        held, num_before = self._optimizer.param_groups, len(self._optimizer.param_groups)
        try:
            for group in split_groups(owner, group_prefix(slot), self._config.weight_decay):
                self._optimizer.add_param_group(group)
        except BaseException:  # memory may run out between two groups
            del held[num_before:]
            raise
        owner.groups.extend(held[num_before:])
        self._owners[slot] = owner
        self.set_batch(self._batch)

    def remove_seed(self, slot: str) -> None:
        """Drop a seed's groups and every bit of its state; nothing here refers to its parameters afterwards.

        Raises:
            RuntimeError: If the slot has no groups.
        """
        owner = self._seed(slot)
        del self._owners[slot]
        for parameter in owner.parameters.values():
            self._optimizer.state.pop(parameter, None)
            parameter.grad = None
        kept = [g for g in self._optimizer.param_groups if not any(g is own for own in owner.groups)]
        self._optimizer.param_groups[:] = kept

    def set_birth(self, slot: str, birth_batch: int) -> None:
        """Say at which batch a seed began to train; its warm-up counts from there.

        Raises:
            RuntimeError: If the slot has no groups.
        """
        self._seed(slot).birth_batch = birth_batch
        self.set_batch(self._batch)

    def set_frozen(self, slot: str, is_frozen: bool) -> None:
        """Hold a seed's learning rate at 0 (a cull under way), or let it go.

        Raises:
            RuntimeError: If the slot has no groups.
        """
        self._seed(slot).is_frozen = is_frozen
        self.set_batch(self._batch)

    def fossilize(self, slot: str) -> None:
        """Let a kept seed follow the host's rate from here on; its groups and moments are not touched.

        Raises:
            RuntimeError: If the slot has no groups.
        """
        self._seed(slot).is_newborn = False
        self.set_batch(self._batch)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return every trainable parameter by name, host first."""
        return {name: p for owner in self._owners.values() for name, p in owner.parameters.items()}

    def names(self) -> tuple[str, ...]:
        """Return the name of every parameter, each once, host first."""
        return tuple(self.parameters())

    def group_names(self) -> tuple[str, ...]:
        """Return the groups' names in order."""
        return tuple(str(group["name"]) for group in self._optimizer.param_groups)

    def plan(self, isolated: Collection[str]) -> tuple[PlanEntry, ...]:
        """Return the reduction plan of the present topology.

        Args:
            isolated: Slots whose seeds learn from a loss of their own.
        """
        members = {group_prefix(name): owner.parameters for name, owner in self._owners.items()}
        return build_plan(members, {group_prefix(slot) for slot in isolated})

    def check_consistency(self, expected_names: Iterable[str]) -> None:
        """Check that groups and state hold exactly the expected trainable parameters, each once.

        Raises:
            RuntimeError: Naming what is missing, unexpected, doubled or left behind.
        """
        check_held(self._optimizer, self.parameters(), list(expected_names))

    # ------------------------------------------------------------------ a step

    @property
    def config(self) -> OptimizerConfig:
        """The settings."""
        return self._config

    @property
    def host_learning_rate(self) -> float:
        """The host's rate as last set."""
        return self.learning_rate(HOST, self._batch)

    def learning_rate(self, owner: str, batch: int) -> float:
        """Return the closed form for the host ("host") or a slot's seed at a batch."""
        config, record = self._config, self._owners[owner]
        if record.is_frozen:
            return 0.0
        decay = compute_decay(
            batch,
            self._total_batches,
            warmup_fraction=config.warmup_fraction,
            final_fraction=config.final_fraction,
        )
        rate = config.learning_rate * decay
        if record.birth_batch is None or not record.is_newborn:
            return rate
        newborn = compute_newborn_factor(batch - record.birth_batch, self._newborn_warmup)
        return rate * config.newborn_multiplier * newborn

    def rate_facts(self, owner: str) -> Hashable:
        """Return what an owner's whole curve of rates follows from; equal facts give equal curves."""
        record = self._owners[owner]
        birth = record.birth_batch if record.is_newborn else None
        return self._config, self._total_batches, self._newborn_warmup, birth, record.is_frozen

    def set_batch(self, batch: int) -> None:
        """Put every group's learning rate at the batch clock (batches finished since the run began)."""
        self._batch = batch
        for name, owner in self._owners.items():
            rate = self.learning_rate(name, batch)
            for group in owner.groups:
                group["lr"] = rate

    def zero_grad(self) -> None:
        """Drop every gradient."""
        self._optimizer.zero_grad(set_to_none=True)

    def check_and_clip(self, inverse_scale: float = 1.0) -> GroupFlags:
        """Unscale, look at, and clip the gradients of host and seeds, each apart.

        A seed whose gradient is not finite has its gradients dropped, so that the step leaves it alone. If
        the host's is not finite every gradient is dropped: the step then changes nothing at all.

        Args:
            inverse_scale: 1 / loss scale.
        """
        norms: dict[str, Tensor | None] = {}
        for name, owner in self._owners.items():
            gradients = [p.grad for p in owner.parameters.values() if p.grad is not None]
            for gradient in gradients if inverse_scale != 1.0 else ():
                gradient.mul_(inverse_scale)
            norms[name] = widen(nn.utils.get_total_norm(gradients)) if gradients else None
        zero = torch.zeros((), device=self._device)
        stacked = torch.stack([zero if norm is None else norm for norm in norms.values()])
        values = zip(norms, stacked.tolist(), strict=True)  # sync: the only one here, once a batch
        flags = {name: self._flag(name, value) for name, value in values}
        for name, flag in flags.items():
            self._clip(name, flag, norms[name], should_drop=flag.is_faulty or flags[HOST].is_faulty)
        return GroupFlags(host=flags.pop(HOST), seeds=flags)

    def decays(self, owner: str) -> dict[str, float]:
        """Return the weight decay of each parameter of the host ("host") or of a slot's seed, by name."""
        record = self._owners[owner]
        weight = self._config.weight_decay
        return {name: weight if is_decayed(name, p) else 0.0 for name, p in record.parameters.items()}

    def moments(self, parameter: nn.Parameter) -> MutableMapping[str, Tensor]:
        """Return what the update keeps of a parameter: live tensors; empty before its first step.

        For whoever makes the updates in this one's place; keys are those of torch.
        """
        kept: MutableMapping[str, Tensor] = self._optimizer.state[parameter]
        return kept

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        self._optimizer.step()

    # ------------------------------------------------------------------ state

    def state(self) -> tuple[dict[str, Tensor], dict[str, JsonValue]]:
        """Return live tensors (not copies) keyed "<parameter name>/<state key>", and plain data."""
        parameters = self.parameters()
        state: dict[str, JsonValue] = {
            "name": self._config.name,
            "batch": self._batch,
            "owners": describe_owners(self._owners),
            "groups": describe_groups(self._optimizer, parameters),
            "with_state": [name for name, p in parameters.items() if self._optimizer.state.get(p)],
        }
        return collect_tensors(self._optimizer, parameters), state

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, JsonValue]) -> None:
        """Put back what `state` returned; the topology must have been rebuilt before.

        Nothing is changed when it is refused. Tensors are copied.

        Raises:
            ForeignCheckpointError: If the optimiser, an owner, a group, a name or a shape differs.
        """
        name, batch = state.get("name"), state.get("batch")
        if name != self._config.name or not isinstance(batch, int):
            raise ForeignCheckpointError(
                f"saved optimiser is {name!r} at batch {batch!r}, this run uses {self._config.name!r}"
            )
        parameters = self.parameters()
        owners = read_owners(state.get("owners"), self._owners)
        order = check_groups(state.get("groups"), describe_groups(self._optimizer, parameters))
        check_tensors(self._config.name, tensors, state.get("with_state"), parameters)
        self._owners = owners
        self._optimizer.param_groups.sort(key=lambda group: order.index(str(group["name"])))
        apply_tensors(self._optimizer, tensors, parameters)
        self.set_batch(batch)

    # ------------------------------------------------------------------ inside

    def _seed(self, slot: str) -> ParameterOwner:
        if slot == HOST or slot not in self._owners:
            raise RuntimeError(f"slot {slot!r} has no optimiser groups: {suggest(slot, self.seed_slots)}")
        return self._owners[slot]

    def _flag(self, name: str, norm: float) -> GroupFlag:
        named = {key: p.grad for key, p in self._owners[name].parameters.items() if p.grad is not None}
        rms = norm / math.sqrt(max(1, sum(gradient.numel() for gradient in named.values())))
        return GroupFlag(norm=norm, rms=rms, has_gradient=bool(named), faulty_name=find_faulty(norm, named))

    def _clip(self, name: str, flag: GroupFlag, norm: Tensor | None, *, should_drop: bool) -> None:
        parameters = self._owners[name].parameters.values()
        if should_drop:
            for parameter in parameters:
                parameter.grad = None
        elif norm is not None and flag.norm > self._config.clip_norm:
            nn.utils.clip_grads_with_norm_(parameters, self._config.clip_norm, norm)


def _build_optimizer(
    config: OptimizerConfig, groups: list[dict[str, object]], device: torch.device
) -> torch.optim.Optimizer:
    is_fused = config.fused == "on" or (config.fused == "auto" and device.type == "cuda")
    # None, not False: an explicit False would also switch off the default that batches updates on a GPU.
    rate, fused = config.learning_rate, True if is_fused else None
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=config.momentum, fused=fused)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=rate, betas=config.betas, fused=fused)
