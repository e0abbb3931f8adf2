"""A host and seeds of a few parameters, the optimiser over them, and one training step."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from esper.tolaria.group_flags import GroupFlags
from esper.tolaria.optimizers import OptimizerConfig, TopologyOptimizer

TOTAL_BATCHES = 40
WARMUP_BATCHES = 6
ModuleT = TypeVar("ModuleT", bound=nn.Module)
NAMES = ("sgd", "adam", "adamw")


def build_config(name: str, **settings: float | str) -> OptimizerConfig:
    """A config of the given optimiser that decays and clips visibly."""
    return OptimizerConfig(name=name, **({"weight_decay": 0.1} | settings))  # type: ignore[arg-type]


def build_host(generator_seed: int = 0) -> nn.Sequential:
    """Linear 3 > 4, LayerNorm, Linear 4 > 2, drawn from a generator of its own."""
    return _draw(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)), generator_seed)


def build_seed(generator_seed: int) -> nn.Linear:
    """A residual for the host's 4 features."""
    return _draw(nn.Linear(4, 4), generator_seed)


def named(module: nn.Module, prefix: str) -> dict[str, nn.Parameter]:
    """Parameters by qualified name."""
    return {f"{prefix}.{name}": parameter for name, parameter in module.named_parameters()}


def build_optimizer(config: OptimizerConfig, host: nn.Module) -> TopologyOptimizer:
    """The optimiser over a host at batch 0."""
    return TopologyOptimizer(
        config,
        named(host, "host"),
        total_batches=TOTAL_BATCHES,
        newborn_warmup_batches=WARMUP_BATCHES,
    )


def train(
    optimizer: TopologyOptimizer, host: nn.Sequential, seeds: dict[str, nn.Linear], batch: int
) -> GroupFlags:
    """One step on data that is a function of the batch alone."""
    optimizer.set_batch(batch)
    optimizer.zero_grad()
    compute_loss(host, seeds, batch).backward()  # type: ignore[no-untyped-call]
    flags = optimizer.check_and_clip()
    optimizer.step()
    return flags


def compute_loss(host: nn.Sequential, seeds: dict[str, nn.Linear], batch: int) -> Tensor:
    """Mean squared error of the host with every seed added to its 4 features."""
    generator = torch.Generator().manual_seed(1000 + batch)
    inputs, targets = torch.randn(8, 3, generator=generator), torch.randn(8, 2, generator=generator)
    features: Tensor = host[1](host[0](inputs))
    for seed in seeds.values():
        features = features + seed(features)
    outputs: Tensor = host[2](features)
    return (outputs - targets).square().mean()


def values(module: nn.Module) -> list[Tensor]:
    """Copies of a module's parameters."""
    return [parameter.detach().clone() for parameter in module.parameters()]


def are_equal(first: list[Tensor], second: list[Tensor]) -> bool:
    """Whether two lists of tensors are bit-identical."""
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _draw(module: ModuleT, generator_seed: int) -> ModuleT:
    generator = torch.Generator().manual_seed(generator_seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def start(
    config: OptimizerConfig | None = None, num_seeds: int = 1
) -> tuple[TopologyOptimizer, nn.Sequential, dict[str, nn.Linear]]:
    """A host with seeds in slots s1, s2, ... born at batch 0."""
    host = build_host()
    optimizer = build_optimizer(config if config is not None else build_config("sgd"), host)
    seeds = {f"s{index}": build_seed(index) for index in range(1, num_seeds + 1)}
    for slot, seed in seeds.items():
        optimizer.add_seed(slot, named(seed, slot), birth_batch=0)
    return optimizer, host, seeds


def copy_state(optimizer: TopologyOptimizer) -> dict[str, Tensor]:
    """Copies of the state tensors by name."""
    return {key: tensor.clone() for key, tensor in optimizer.state()[0].items()}


def rates(optimizer: TopologyOptimizer) -> dict[str, float]:
    """Group name -> learning rate that torch's optimiser would use."""
    return {str(group["name"]): float(group["lr"]) for group in optimizer._optimizer.param_groups}
