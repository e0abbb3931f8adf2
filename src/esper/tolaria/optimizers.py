"""One optimiser per host run that follows the topology: groups by name, never rebuilt.

```
host/decay  host/no_decay  seed:<slot>/decay  seed:<slot>/no_decay
lr(t, group) = base * multiplier(group) * decay(t) * newborn(age)
```
A newborn seed gets groups of its own, so its Adam step starts at 0; a fossil keeps them with every moment
untouched; a culled seed takes groups and state with it. State is saved and loaded by parameter name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

from esper.leyline import ConfigError, ForeignCheckpointError, JsonValue, suggest
from esper.tolaria.schedules import compute_decay, compute_newborn_factor

OPTIMIZER_NAMES = ("sgd", "adam", "adamw")
HOST = "host"
_CLIP_EPSILON = 1e-6


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """Optimiser of host and seeds, and its learning-rate schedule."""

    name: str = "sgd"
    """"sgd", "adam" or "adamw"; sgd with momentum, because small conv nets generalise best with it."""
    learning_rate: float = 0.05
    """Peak learning rate, > 0."""
    momentum: float = 0.9
    """sgd only, in [0, 1)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """adam and adamw: decay of the two moments, each in [0, 1)."""
    weight_decay: float = 5e-4
    """Decay of matrices and kernels, >= 0; norms, biases and gates have none."""
    warmup_fraction: float = 0.05
    """Share of the run over which the host's rate rises, in [0, 1): the first steps are the roughest."""
    final_fraction: float = 0.01
    """Rate at the horizon over the peak, in (0, 0.01]-ish, <= 1: every arm of a comparison ends decayed."""
    newborn_multiplier: float = 1.0
    """Learning rate of seeds over the host's, > 0."""
    clip_norm: float = 1.0
    """Largest gradient norm of the host and of each seed, apart, > 0."""

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        if self.name not in OPTIMIZER_NAMES:
            raise ConfigError(f"optimizer.name={self.name!r}: {suggest(self.name, OPTIMIZER_NAMES)}")
        for name in ("learning_rate", "newborn_multiplier", "clip_norm", "final_fraction"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"optimizer.{name}={value}: must be finite and > 0")
        if self.final_fraction > 1:
            raise ConfigError(f"optimizer.final_fraction={self.final_fraction}: must be in (0, 1]")
        if not 0 <= self.warmup_fraction < 1:
            raise ConfigError(f"optimizer.warmup_fraction={self.warmup_fraction}: must be in [0, 1)")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ConfigError(f"optimizer.weight_decay={self.weight_decay}: must be finite and >= 0")
        for value in (self.momentum, *self.betas):
            if not 0 <= value < 1:
                raise ConfigError(f"optimizer momentum and betas must be in [0, 1), got {value}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFlag:
    """One group's gradient in one batch, after unscaling and before clipping."""

    norm: float
    """L2 norm; not finite when the gradient is not."""
    rms: float
    """norm / sqrt(number of values)."""
    has_gradient: bool

    @property
    def is_faulty(self) -> bool:
        """Whether the gradient is not finite."""
        return not math.isfinite(self.norm)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFlags:
    """Host and seeds in one batch."""

    host: GroupFlag
    seeds: Mapping[str, GroupFlag]

    @property
    def is_host_faulty(self) -> bool:
        """Whether the whole step must be skipped."""
        return self.host.is_faulty


@final
@dataclass(slots=True, kw_only=True)
class _Owner:
    """The host, or the seed of one slot."""

    parameters: dict[str, nn.Parameter]
    birth_batch: int | None = None
    """None for the host: it is not newborn."""
    is_frozen: bool = False
    groups: list[dict[str, object]] = field(default_factory=list)


@final
class TopologyOptimizer:
    """SGD, Adam or AdamW over a host and the seeds that come and go."""

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
            host_parameters: Trainable parameters by qualified name, at least one.
            total_batches: Batches until the horizon, >= 1.
            newborn_warmup_batches: Batches over which a newborn's rate rises, >= 0.
        """
        self._config = config
        self._total_batches = total_batches
        self._newborn_warmup = newborn_warmup_batches
        self._owners: dict[str, _Owner] = {}
        trainable = {name: p for name, p in host_parameters.items() if p.requires_grad}
        self._optimizer = _build_optimizer(config, [])
        self._add_owner(HOST, _Owner(parameters=trainable))
        self.set_batch(0)

    # ------------------------------------------------------------------ topology

    @property
    def seed_slots(self) -> tuple[str, ...]:
        """Slots whose seeds have groups here."""
        return tuple(name for name in self._owners if name != HOST)

    def add_seed(self, slot: str, parameters: Mapping[str, nn.Parameter], *, birth_batch: int) -> None:
        """Give a new seed its groups, without any state.

        Raises:
            RuntimeError: If the slot has groups already.
        """
        if slot in self._owners:
            raise RuntimeError(f"the seed of slot {slot!r} has optimiser groups already")
        self._add_owner(slot, _Owner(parameters=dict(parameters), birth_batch=birth_batch))

    def remove_seed(self, slot: str) -> None:
        """Drop a seed's groups and every bit of its state."""
        owner = self._owners.pop(slot)
        for parameter in owner.parameters.values():
            self._optimizer.state.pop(parameter, None)
            parameter.grad = None
        kept = [g for g in self._optimizer.param_groups if not any(g is own for own in owner.groups)]
        self._optimizer.param_groups[:] = kept

    def set_birth(self, slot: str, birth_batch: int) -> None:
        """Say at which batch a seed began to train; its warm-up counts from there."""
        self._owners[slot].birth_batch = birth_batch

    def set_frozen(self, slot: str, is_frozen: bool) -> None:
        """Hold a seed's learning rate at 0 (a cull under way), or let it go."""
        self._owners[slot].is_frozen = is_frozen

    def parameter_names(self) -> tuple[str, ...]:
        """Return the name of every parameter, each once, in group order."""
        return tuple(name for owner in self._owners.values() for name in owner.parameters)

    def group_names(self) -> tuple[str, ...]:
        """Return the groups' names in order."""
        return tuple(str(group["name"]) for group in self._optimizer.param_groups)

    # ------------------------------------------------------------------ a step

    @property
    def host_learning_rate(self) -> float:
        """The host's rate as last set."""
        return float(self._optimizer.param_groups[0]["lr"])

    def learning_rate(self, owner: str, batch: int) -> float:
        """Return the closed form for the host ("host") or a slot's seed at a batch."""
        config, record = self._config, self._owners[owner]
        decay = compute_decay(
            batch,
            self._total_batches,
            warmup_fraction=config.warmup_fraction,
            final_fraction=config.final_fraction,
        )
        rate = config.learning_rate * decay
        if record.birth_batch is None:
            return rate
        if record.is_frozen:
            return 0.0
        newborn = compute_newborn_factor(batch - record.birth_batch, self._newborn_warmup)
        return rate * config.newborn_multiplier * newborn

    def set_batch(self, batch: int) -> None:
        """Put every group's learning rate at the batch clock."""
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
        the host's is not finite the caller skips the step.

        Args:
            inverse_scale: 1 / loss scale.
        """
        norms, names = [], list(self._owners)
        for owner in self._owners.values():
            gradients = [p.grad for p in owner.parameters.values() if p.grad is not None]
            if inverse_scale != 1.0:
                for gradient in gradients:
                    gradient.mul_(inverse_scale)
            norms.append(nn.utils.get_total_norm(gradients) if gradients else None)
        device = next(iter(self._owners[HOST].parameters.values())).device
        zero = torch.zeros((), device=device)
        values = torch.stack([zero if n is None else n.float() for n in norms]).tolist()  # sync: once a batch
        flags = {}
        for name, value, norm in zip(names, values, norms, strict=True):
            owner = self._owners[name]
            flags[name] = self._flag(owner, value, has_gradient=norm is not None)
            self._clip(owner, value)
        return GroupFlags(host=flags.pop(HOST), seeds=flags)

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        self._optimizer.step()

    # ------------------------------------------------------------------ state

    def state(self) -> tuple[dict[str, Tensor], dict[str, JsonValue]]:
        """Return tensors keyed "<parameter name>/<state key>" and the owners' plain data."""
        tensors: dict[str, Tensor] = {}
        for owner in self._owners.values():
            for name, parameter in owner.parameters.items():
                for key, value in self._optimizer.state.get(parameter, {}).items():
                    if isinstance(value, Tensor):
                        tensors[f"{name}/{key}"] = value
        owners: dict[str, JsonValue] = {
            name: [owner.birth_batch, owner.is_frozen] for name, owner in self._owners.items()
        }
        return tensors, {"name": self._config.name, "owners": owners}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, JsonValue]) -> None:
        """Put back what `state` returned; topology must have been rebuilt before.

        Raises:
            ForeignCheckpointError: If the optimiser, an owner, a name or a shape differs.
        """
        owners = state.get("owners")
        if state.get("name") != self._config.name or not isinstance(owners, dict):
            raise ForeignCheckpointError(
                f"saved optimiser is {state.get('name')!r}, this run uses {self._config.name!r}"
            )
        if set(owners) != set(self._owners):
            raise ForeignCheckpointError(
                f"saved optimiser has groups for {sorted(owners)}, this run for {sorted(self._owners)}"
            )
        for name, entry in owners.items():
            assert isinstance(entry, list)
            birth, is_frozen = entry
            self._owners[name].birth_batch = None if birth is None else int(str(birth))
            self._owners[name].is_frozen = bool(is_frozen)
        by_name = {n: p for owner in self._owners.values() for n, p in owner.parameters.items()}
        self._optimizer.state.clear()
        for key, tensor in tensors.items():
            name, _, state_key = key.rpartition("/")
            if name not in by_name:
                raise ForeignCheckpointError(f"saved optimiser state {key!r}: {suggest(name, by_name)}")
            parameter = by_name[name]
            if tensor.dim() and tensor.shape != parameter.shape:
                raise ForeignCheckpointError(
                    f"saved optimiser state {key!r} has shape {tuple(tensor.shape)}, "
                    f"expected {tuple(parameter.shape)}"
                )
            self._optimizer.state[parameter][state_key] = tensor.detach().clone()

    # ------------------------------------------------------------------ inside

    def _add_owner(self, name: str, owner: _Owner) -> None:
        prefix = HOST if name == HOST else f"seed:{name}"
        decay = [p for p in owner.parameters.values() if p.requires_grad and p.dim() > 1]
        plain = [p for p in owner.parameters.values() if p.requires_grad and p.dim() <= 1]
        for suffix, parameters, weight_decay in (
            ("decay", decay, self._config.weight_decay),
            ("no_decay", plain, 0.0),
        ):
            if not parameters:
                continue
            group: dict[str, object] = {
                "params": parameters,
                "name": f"{prefix}/{suffix}",
                "weight_decay": weight_decay,
            }
            self._optimizer.add_param_group(group)
            owner.groups.append(self._optimizer.param_groups[-1])
        self._owners[name] = owner

    def _flag(self, owner: _Owner, norm: float, *, has_gradient: bool) -> GroupFlag:
        count = sum(p.numel() for p in owner.parameters.values() if p.grad is not None)
        return GroupFlag(norm=norm, rms=norm / math.sqrt(max(1, count)), has_gradient=has_gradient)

    def _clip(self, owner: _Owner, norm: float) -> None:
        if not math.isfinite(norm):
            for parameter in owner.parameters.values():
                parameter.grad = None
            return
        if norm <= self._config.clip_norm:
            return
        factor = self._config.clip_norm / (norm + _CLIP_EPSILON)
        for parameter in owner.parameters.values():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)


def _build_optimizer(config: OptimizerConfig, groups: list[dict[str, object]]) -> torch.optim.Optimizer:
    # Every optimiser refuses an empty list; a placeholder takes its place until the host's groups come.
    placeholder = [nn.Parameter(torch.zeros(1))] if not groups else groups
    if config.name == "sgd":
        built: torch.optim.Optimizer = torch.optim.SGD(
            placeholder, lr=config.learning_rate, momentum=config.momentum
        )
    elif config.name == "adam":
        built = torch.optim.Adam(placeholder, lr=config.learning_rate, betas=config.betas)
    else:
        built = torch.optim.AdamW(placeholder, lr=config.learning_rate, betas=config.betas)
    if not groups:
        built.param_groups.clear()
    return built
