"""The contract that every blueprint keeps, ours or a user's, as a check that anyone can run.

```
shape      delta has h's shape, is finite, leaves h as it is, is the same under the same seed
birth      delta is exactly 0
life       the first step moves at least one tensor, by the third every tensor has had a gradient
gentle     one optimiser step changes delta by at most a quarter of |h| (SGD 0.01 / 0.9 and AdamW 0.001)
count      the declared number of trainable parameters is exact
precision  forward and backward work under bf16 autocast
```
A zero followed by a zero derivative is a seed that never learns; a zero in front of a norm is one that jumps
to full size in one step. Both look fine in a forward pass, hence this test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.kasmina.blueprints.spec import BlueprintSpec, SlotSpec
from esper.kasmina.cost import count_trainable
from esper.kasmina.seeded_build import build_seeded
from esper.leyline import BlueprintContractError, derive_seed

MAX_FIRST_CHANGE = 0.25
"""Largest |delta_1 - delta_0| / |h| after one optimiser step; sick blueprints measure above 1."""
_BATCH = 16
_STEPS_TO_LIFE = 3
_NUM_CLASSES = 10


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ContractReport:
    """What the check found; an empty `failures` means that the contract is kept."""

    blueprint: str
    slot: str
    failures: tuple[str, ...]
    first_change: float
    """Largest relative change of delta in the first step over both optimisers."""

    @property
    def is_kept(self) -> bool:
        """Whether nothing failed."""
        return not self.failures


def check_blueprint(blueprint: BlueprintSpec, spec: SlotSpec, *, seed: int = 0) -> ContractReport:
    """Run the whole contract for one blueprint in one slot.

    Args:
        blueprint: Must fit the slot's layout.
        spec: The slot; its shape is what the check runs on (CPU).
        seed: Decides weights and data.
    """
    h = _draw_features(spec, seed)

    def build() -> nn.Module:
        return build_seeded(lambda: blueprint.build(spec), derive_seed(seed, "contract", blueprint.id))

    failures = _check_forward(build, h)
    declared, counted = blueprint.count_params(spec), count_trainable(build())
    if declared != counted:
        failures.append(f"declares {declared} parameters, has {counted}")
    first_change = 0.0
    if not failures and counted > 0:
        failures += _check_life(build(), h)
        for name in ("sgd", "adamw"):
            change = compute_first_change(build(), h, name)
            first_change = max(first_change, change)
            if not change <= MAX_FIRST_CHANGE:
                failures.append(f"one {name} step changes delta by {change:.2f} of |h|, at most {MAX_FIRST_CHANGE}")
        failures += _check_precision(build(), h)
    if counted == 0 and blueprint.family != "noop":
        failures.append("has no trainable parameter; only the family noop may have none")
    return ContractReport(
        blueprint=blueprint.id, slot=spec.slot_id, failures=tuple(failures), first_change=first_change
    )


def require_contract(blueprint: BlueprintSpec, spec: SlotSpec, *, seed: int = 0) -> ContractReport:
    """Return the report of a blueprint that keeps the contract.

    Raises:
        BlueprintContractError: If it does not; every failure is named.
    """
    report = check_blueprint(blueprint, spec, seed=seed)
    if not report.is_kept:
        raise BlueprintContractError(
            f"blueprint {blueprint.id!r} in slot {spec.slot_id!r} {spec.shape}: " + "; ".join(report.failures)
        )
    return report


def compute_first_change(branch: nn.Module, h: Tensor, optimizer: str) -> float:
    """Return |delta_1 - delta_0| / |h| after one step of the true loss through a fixed linear tail.

    Args:
        branch: A fresh branch.
        h: Features [B, ...].
        optimizer: "sgd" (0.01, momentum 0.9) or "adamw" (0.001).
    """
    parameters = list(branch.parameters())
    stepper: torch.optim.Optimizer = (
        torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
        if optimizer == "sgd"
        else torch.optim.AdamW(parameters, lr=0.001)
    )
    with torch.no_grad():
        before: Tensor = branch(h)
    _tail_loss(branch, h).backward()  # type: ignore[no-untyped-call]
    stepper.step()
    with torch.no_grad():
        after: Tensor = branch(h)
    return float((after - before).norm() / h.norm())


def _check_forward(build: Callable[[], nn.Module], h: Tensor) -> list[str]:
    branch, twin, original = build(), build(), h.clone()
    failures = []
    for mode in (True, False):
        branch.train(mode)
        twin.train(mode)
        with torch.no_grad():
            delta = branch(h)
        if not isinstance(delta, Tensor) or delta.shape != h.shape:
            shape = tuple(delta.shape) if isinstance(delta, Tensor) else type(delta).__name__
            return [f"maps {tuple(h.shape)} to {shape}, must keep the shape"]
        if not torch.isfinite(delta).all():
            failures.append("delta is not finite at birth")
        elif delta.count_nonzero():
            failures.append(f"delta is not 0 at birth (largest value {float(delta.abs().max()):.3g})")
        with torch.no_grad():
            again: Tensor = twin(h)
        if not torch.equal(torch.nan_to_num(delta), torch.nan_to_num(again)):
            failures.append("two builds from one seed differ")
    if not torch.equal(h, original):
        failures.append("changes its input")
    if not all(torch.isfinite(p).all() for p in branch.parameters()):
        failures.append("a parameter is not finite at birth")
    return list(dict.fromkeys(failures))


def _check_life(branch: nn.Module, h: Tensor) -> list[str]:
    alive: set[str] = set()
    stepper = torch.optim.SGD(branch.parameters(), lr=0.05, momentum=0.9)
    names = [name for name, parameter in branch.named_parameters() if parameter.requires_grad]
    for step in range(_STEPS_TO_LIFE):
        stepper.zero_grad(set_to_none=True)
        _tail_loss(branch, h).backward()  # type: ignore[no-untyped-call]
        for name, parameter in branch.named_parameters():
            if parameter.grad is not None and parameter.grad.count_nonzero():
                alive.add(name)
        if step == 0 and not alive:
            return ["no tensor has a gradient in the first step: it will never learn"]
        stepper.step()
    dead = [name for name in names if name not in alive]
    return [f"no gradient in {_STEPS_TO_LIFE} steps: {', '.join(dead)}"] if dead else []


def _check_precision(branch: nn.Module, h: Tensor) -> list[str]:
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = _tail_loss(branch, h)
        loss.backward()  # type: ignore[no-untyped-call]
    except (RuntimeError, TypeError) as error:
        return [f"fails under bf16 autocast: {error}"]
    return []


def _tail_loss(branch: nn.Module, h: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    features = h + branch(h)
    flat = features.flatten(1).float()
    tail = torch.randn(flat.shape[1], _NUM_CLASSES, generator=generator) / flat.shape[1] ** 0.5
    targets = torch.randint(_NUM_CLASSES, (h.shape[0],), generator=generator)
    return F.cross_entropy(flat @ tail, targets)


def _draw_features(spec: SlotSpec, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(derive_seed(seed, "features", spec.slot_id) & 0xFFFFFFFF)
    return torch.relu(torch.randn(_BATCH, *spec.shape, generator=generator))
