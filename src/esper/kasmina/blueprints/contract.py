"""The contract that every blueprint keeps, ours or a user's, as a check that anyone can run.

```
shape      delta has h's shape, is finite, leaves its input as it is; one seed, one module
birth      delta is exactly 0
life       the first step moves at least one tensor, by the third every tensor has had a gradient
gentle     one optimiser step changes delta by at most a quarter of |h| (SGD 0.01 / 0.9 and AdamW 0.001)
count      the declared number of trainable parameters is exact
precision  forward and backward are finite under bf16 autocast
```
A zero followed by a zero derivative is a seed that never learns; a zero in front of a norm is one that jumps
to full size in one step. Both look fine in a forward pass, hence this test. A branch takes h, or in a slot
that spans two layers the first one's input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.kasmina.blueprints.spec import BlueprintSpec, SlotSpec
from esper.kasmina.cost import count_trainable
from esper.kasmina.seeded_build import build_seeded, seeded_streams
from esper.leyline import BlueprintContractError, derive_seed

MAX_FIRST_CHANGE = 0.25
"""Largest |delta_1 - delta_0| / |h| after one optimiser step; sick blueprints measure above 1."""
_BATCH = 16
_STEPS_TO_LIFE = 3
_NUM_CLASSES = 10


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ContractReport:
    """What the check found; an empty `failures` means that the contract is kept.

    Example:
        ContractReport(blueprint="norm", slot="block1", failures=(), first_change=0.0011)
    """

    blueprint: str
    slot: str
    failures: tuple[str, ...]
    first_change: float
    """Largest relative change of delta in the first step over both optimisers; 0 where it was not reached."""

    @property
    def is_kept(self) -> bool:
        """Whether nothing failed."""
        return not self.failures


def check_blueprint(blueprint: BlueprintSpec, spec: SlotSpec, *, seed: int = 0) -> ContractReport:
    """Run the whole contract for one blueprint in one slot; no global random stream moves.

    Later parts are skipped once an earlier one failed: a branch of the wrong shape has no gradients to judge.
    What a builder or a forward pass raises is not caught, so that its own traceback leads to the line.

    Args:
        blueprint: The recipe.
        spec: The slot; its shape is what the check runs on (float32, CPU).
        seed: Decides weights and data.

    Example:
        >>> slot = next(iter(model.each_slot())).spec
        >>> check_blueprint(builtin_registry().get("mlp"), slot).is_kept
        True
    """
    if not blueprint.fits(spec):
        layouts = ", ".join(sorted(layout.value for layout in blueprint.layouts))
        reason = f"does not fit {spec.layout.value!r} {spec.shape} (layouts: {layouts})"
        return ContractReport(blueprint=blueprint.id, slot=spec.slot_id, failures=(reason,), first_change=0.0)
    on_cpu = replace(spec, device=torch.device("cpu"), dtype=torch.float32)
    weights_seed = derive_seed(seed, "contract", blueprint.id)

    def build() -> nn.Module:
        return build_seeded(partial(blueprint.build, on_cpu), weights_seed)

    with seeded_streams(derive_seed(seed, "contract streams", blueprint.id)):
        data = _draw_data(on_cpu, seed)
        failures = _check_forward(build, data) + _check_count(blueprint, on_cpu, build())
        first_change = 0.0
        if not failures and count_trainable(build()) > 0:
            failures = _check_life(build(), data)
            if not failures:
                first_change, failures = _check_gentle(build, data)
                failures += _check_precision(build(), data)
    return ContractReport(
        blueprint=blueprint.id, slot=spec.slot_id, failures=tuple(failures), first_change=first_change
    )


def require_contract(blueprint: BlueprintSpec, spec: SlotSpec, *, seed: int = 0) -> ContractReport:
    """Return the report of a blueprint that keeps the contract.

    Raises:
        BlueprintContractError: If it does not; every failure is named.

    Example:
        >>> slot = next(iter(model.each_slot())).spec
        >>> require_contract(builtin_registry().get("mlp"), slot).failures
        ()
    """
    report = check_blueprint(blueprint, spec, seed=seed)
    if not report.is_kept:
        raise BlueprintContractError(
            f"blueprint {blueprint.id!r} in slot {spec.slot_id!r} {spec.shape}: " + "; ".join(report.failures)
        )
    return report


class _Data(NamedTuple):
    """What a branch is tried on."""

    entering: Tensor
    """What it takes."""
    h: Tensor
    """The feature that its delta joins."""


def compute_first_change(
    branch: nn.Module, h: Tensor, optimizer: str, *, entering: Tensor | None = None
) -> float:
    """Return |delta_1 - delta_0| / |h| after one step of the true loss through a fixed linear tail.

    Args:
        branch: A fresh branch.
        h: Features [B, ...].
        optimizer: "sgd" (0.01, momentum 0.9) or "adamw" (0.001).
        entering: What the branch takes; None = h.
    """
    data = _Data(h if entering is None else entering, h)
    parameters = list(branch.parameters())
    stepper: torch.optim.Optimizer = (
        torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
        if optimizer == "sgd"
        else torch.optim.AdamW(parameters, lr=0.001)
    )
    with torch.no_grad():
        before: Tensor = branch(data.entering)
    _tail_loss(branch, data).backward()  # type: ignore[no-untyped-call]
    stepper.step()
    with torch.no_grad():
        after: Tensor = branch(data.entering)
    return float((after - before).norm() / h.norm())


def _check_forward(build: Callable[[], nn.Module], data: _Data) -> list[str]:
    entering, h = data
    branch, twin, original = build(), build(), entering.clone()
    failures = _compare_states(branch, twin)
    for mode in (True, False):
        branch.train(mode)
        twin.train(mode)
        with torch.no_grad():
            delta: object = branch(entering)
        if not torch.equal(entering, original):
            failures.append("changes its input")
            entering.copy_(original)
        if not isinstance(delta, Tensor) or delta.shape != h.shape:
            got = tuple(delta.shape) if isinstance(delta, Tensor) else type(delta).__name__
            needed = "must keep the shape" if entering.shape == h.shape else f"must give {tuple(h.shape)}"
            return [*failures, f"maps {tuple(entering.shape)} to {got}, {needed}"]
        if not torch.isfinite(delta).all():
            failures.append("delta is not finite at birth")
        elif delta.count_nonzero():
            failures.append(f"delta is not 0 at birth (largest value {float(delta.abs().max()):.3g})")
        with torch.no_grad():
            again: Tensor = twin(entering.clone())
        if not _is_same(delta, again):
            failures.append("two builds from one seed differ")
    return list(dict.fromkeys(failures))


def _compare_states(branch: nn.Module, twin: nn.Module) -> list[str]:
    tensors, twins = branch.state_dict(), twin.state_dict()
    sick = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    failures = [f"a parameter is not finite at birth: {', '.join(sick)}"] if sick else []
    # Compared tensor by tensor, because delta is 0 in both whatever the weights are.
    if tensors.keys() != twins.keys() or not all(_is_same(tensors[name], twins[name]) for name in tensors):
        failures.append("two builds from one seed differ")
    return failures


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal where NaN equals NaN: a value that is not finite is named elsewhere."""
    return torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))


def _check_count(blueprint: BlueprintSpec, spec: SlotSpec, branch: nn.Module) -> list[str]:
    declared, counted = blueprint.count_params(spec), count_trainable(branch)
    failures = []
    if declared != counted:
        failures.append(f"declares {declared} parameters, has {counted}")
    if counted == 0 and blueprint.family != "noop":
        failures.append("has no trainable parameter; only the family noop may have none")
    return failures


def _check_life(branch: nn.Module, data: _Data) -> list[str]:
    trainable = {name: p for name, p in branch.named_parameters() if p.requires_grad}
    alive: set[str] = set()
    stepper = torch.optim.SGD(trainable.values(), lr=0.05, momentum=0.9)
    for step in range(_STEPS_TO_LIFE):
        stepper.zero_grad(set_to_none=True)
        loss = _tail_loss(branch, data)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        sick = _find_sick_gradients(trainable)
        if sick:
            return [f"the gradient in step {step + 1} is not finite: {', '.join(sick)}"]
        alive |= {n for n, p in trainable.items() if p.grad is not None and p.grad.count_nonzero()}
        if not alive:
            return ["no tensor has a gradient in the first step: it will never learn"]
        stepper.step()
    dead = [name for name in trainable if name not in alive]
    return [f"no gradient in {_STEPS_TO_LIFE} steps: {', '.join(dead)}"] if dead else []


def _find_sick_gradients(parameters: Mapping[str, nn.Parameter]) -> list[str]:
    return [n for n, p in parameters.items() if p.grad is not None and not torch.isfinite(p.grad).all()]


def _check_gentle(build: Callable[[], nn.Module], data: _Data) -> tuple[float, list[str]]:
    entering, h = data
    changes = {name: compute_first_change(build(), h, name, entering=entering) for name in ("sgd", "adamw")}
    failures = [
        f"one {name} step changes delta by {change:.2f} of |h|, at most {MAX_FIRST_CHANGE}"
        for name, change in changes.items()
        if not change <= MAX_FIRST_CHANGE
    ]
    return max(changes.values()), failures


def _check_precision(branch: nn.Module, data: _Data) -> list[str]:
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = _tail_loss(branch, data)
        loss.backward()  # type: ignore[no-untyped-call]
    except (RuntimeError, TypeError) as error:
        return [f"fails under bf16 autocast: {error}"]
    sick = _find_sick_gradients(dict(branch.named_parameters()))
    if sick or not torch.isfinite(loss):
        return [f"is not finite under bf16 autocast: {', '.join(sick) or 'delta'}"]
    return []


def _tail_loss(branch: nn.Module, data: _Data) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    h, delta = data.h, branch(data.entering)
    features = h + delta
    flat = features.flatten(1).float()
    tail = torch.randn(flat.shape[1], _NUM_CLASSES, generator=generator) / flat.shape[1] ** 0.5
    targets = torch.randint(_NUM_CLASSES, (h.shape[0],), generator=generator)
    return F.cross_entropy(flat @ tail, targets)


def _draw_data(spec: SlotSpec, seed: int) -> _Data:
    generator = torch.Generator().manual_seed(derive_seed(seed, "features", spec.slot_id) & 0xFFFFFFFF)
    h = torch.relu(torch.randn(_BATCH, *spec.shape, generator=generator))
    if spec.pair is None:
        return _Data(h, h)
    return _Data(torch.randn(_BATCH, *spec.seed_shape, generator=generator), h)
