"""Weights and moments of R alike modules as flat rows [R, P], and the optimiser's formulas for flat values.

```
flat row    p_1 p_2 ... p_n     the module's parameters one after another, in their own order
update      g = grad * min(1, clip / |grad|) + decay * p;  moments;  p -= rate * step        row by row
```
The same update as torch's SGD, Adam and AdamW (Kingma and Ba 2015; Loshchilov and Hutter 2019) with a rate, a
step count and a skip of its own in every row. A row that is not due keeps every bit. Knows neither hosts nor
seeds: a row is an owner of parameters in somebody's optimiser.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

import torch
from torch import Tensor, nn

from esper.tolaria.optimizers import OptimizerConfig, TopologyOptimizer

ADAM_EPSILON = 1e-8
CLIP_EPSILON = 1e-6  # what torch's clipping adds to the norm
_FLAT_MOMENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"sgd": ("momentum_buffer",), "adam": ("exp_avg", "exp_avg_sq")}
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BankRow:
    """One row: an owner of parameters in an optimiser."""

    optimizer: TopologyOptimizer
    owner: str
    """"host" or a slot."""
    parameters: Mapping[str, nn.Parameter]
    """By path in the module, in the same order in every row; the optimiser may know them by other names."""


@final
class ParameterBank:
    """R rows of weights, with what the optimiser keeps of them.

    Example:
        bank = ParameterBank(rows)
        arena = UpdateArena([bank])
        loss = run(bank.weights())
        gradients = torch.autograd.grad(loss, bank.values)
        arena.update(gradients, arena.compute_norms(gradients), is_due, rates)
        bank.write_back()
    """

    def __init__(self, rows: Sequence[BankRow]) -> None:
        """Copy the rows' weights and moments.

        Args:
            rows: At least one; parameters of equal paths, shapes and types, all of them trained.
        """
        self._rows = tuple(rows)
        first = rows[0]
        self.config: OptimizerConfig = first.optimizer.config
        self._shapes = {path: parameter.shape for path, parameter in first.parameters.items()}
        self._sizes = [parameter.numel() for parameter in first.parameters.values()]
        self._reference = next(iter(first.parameters.values()), None)
        # A leaf: gradients are asked for whole rows.
        self.values: Tensor = self._flatten([list(row.parameters.values()) for row in rows]).requires_grad_()
        self.decay = self.values.new_tensor(
            [decay for path, decay in self._list_decays(first) for _ in range(self._shapes[path].numel())]
        )
        """[P] weight decay of each value."""
        kept = [[row.optimizer.moments(p) for p in row.parameters.values()] for row in rows]
        self.moments = self._read_moments(kept)
        """Key -> [R, P]."""
        # Every parameter of a row has made the same steps: they are born and skipped together.
        steps = [float(row[0]["step"]) if row and "step" in row[0] else 0.0 for row in kept]
        self.steps = torch.tensor(steps, dtype=torch.float64, device=self.values.device)
        """[R] steps that the moments have behind them, as Adam counts them."""
        self.num_updates = torch.zeros(len(rows), dtype=torch.int64, device=self.values.device)
        """[R] updates since the bank was filled."""

    @property
    def rows(self) -> tuple[BankRow, ...]:
        """[R] owners."""
        return self._rows

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self._rows)

    @property
    def num_values(self) -> int:
        """P, values of one row."""
        return sum(self._sizes)

    def weights(self, rows: Tensor | None = None, *, is_frozen: bool = False) -> dict[str, Tensor]:
        """Return parameters by path, each [R', *shape], as views of one tensor.

        Args:
            rows: [R'] which rows, repeats allowed; None = all, without a copy.
            is_frozen: Whether gradients stop here.
        """
        flat = self.values.detach() if is_frozen else self.values
        if rows is not None:
            flat = flat.index_select(0, rows)
        parts = flat.split_with_sizes(self._sizes, dim=1)
        pairs = zip(self._shapes.items(), parts, strict=True)
        return {path: part.view(-1, *shape) for (path, shape), part in pairs}

    def compute_norms(self, gradient: Tensor) -> Tensor:
        """Return the L2 norm of each row's gradient, [R]; not finite where the gradient is not."""
        norms: Tensor = torch.linalg.vector_norm(gradient, dim=1)
        return norms

    def adopt(
        self, values: Tensor, moments: Mapping[str, Tensor], steps: Tensor, num_updates: Tensor
    ) -> None:
        """Look at weights and moments where they lie now; they hold what this bank held.

        Args:
            values: [R P], in place of `values`.
            moments: By key [R P], in place of `moments`.
            steps: [R], in place of `steps`.
            num_updates: [R], in place of `num_updates`.
        """
        shape = self.values.shape
        self.values = values.view(shape).requires_grad_()
        self.moments = {key: moment.view(shape) for key, moment in moments.items()}
        self.steps, self.num_updates = steps, num_updates

    def is_sound(self, largest: float) -> Tensor:
        """Return [R] whether weights and moments are finite and their L2 norm is below `largest`."""
        total = sum(
            part.detach().double().square().sum(dim=1) for part in (self.values, *self.moments.values())
        )
        assert isinstance(total, Tensor)
        return total.sqrt() < largest

    def name_gradient(self, row: int, gradient: Tensor) -> dict[str, Tensor]:
        """Return one row's gradient [P] by the optimiser's parameter names."""
        parts = gradient.split_with_sizes(self._sizes)
        names = self._rows[row].optimizer.decays(self._rows[row].owner)
        return dict(zip(names, parts, strict=True))

    def write_back(
        self,
        rows: Sequence[int] | None = None,
        *,
        moved: Sequence[float] | None = None,
        steps: Sequence[float] | None = None,
    ) -> None:
        """Copy weights and moments to where they came from.

        Args:
            rows: Which; None = all.
            moved: [R] `num_updates`, where it was read already.
            steps: [R] `steps`, where it was read already.
        """
        moved = self.num_updates.tolist() if moved is None else moved
        steps = self.steps.tolist() if steps is None else steps
        flat = {key: moment.split_with_sizes(self._sizes, dim=1) for key, moment in self.moments.items()}
        values = self.values.detach().split_with_sizes(self._sizes, dim=1)
        for row in range(self.num_rows) if rows is None else rows:
            if not moved[row]:
                continue
            holder = self._rows[row]
            for place, parameter in enumerate(holder.parameters.values()):
                parameter.detach().copy_(values[place][row].view(parameter.shape))
                kept = holder.optimizer.moments(parameter)
                for key, parts in flat.items():
                    if key not in kept:
                        kept[key] = torch.empty_like(parameter)
                    kept[key].copy_(parts[place][row].view(parameter.shape))
                if self.config.name != "sgd":
                    _write_step(kept, steps[row])

    # ------------------------------------------------------------------ inside

    def _flatten(self, rows: Sequence[Sequence[Tensor]]) -> Tensor:
        if self._reference is None:
            return torch.zeros(len(rows), 0)
        flat = torch.cat([part.detach().reshape(-1) for row in rows for part in row])
        return flat.view(len(rows), -1)

    def _list_decays(self, row: BankRow) -> list[tuple[str, float]]:
        return list(zip(row.parameters, row.optimizer.decays(row.owner).values(), strict=True))

    def _read_moments(self, kept: Sequence[Sequence[Mapping[str, Tensor]]]) -> dict[str, Tensor]:
        keys = _FLAT_MOMENTS["sgd" if self.config.name == "sgd" else "adam"]
        shapes = list(self._shapes.values())
        return {
            key: self._flatten(
                [
                    [
                        entry[key] if key in entry else self.values.new_zeros(shape)
                        for entry, shape in zip(row, shapes, strict=True)
                    ]
                    for row in kept
                ]
            )
            for key in keys
        }


def _write_step(kept: MutableMapping[str, Tensor], step: float) -> None:
    if "step" in kept:
        kept["step"].fill_(step)
    else:
        kept["step"] = torch.tensor(step, dtype=torch.get_default_dtype())


def step_sgd(
    config: OptimizerConfig,
    values: Tensor,
    moments: Mapping[str, Tensor],
    gradient: Tensor,
    *,
    rate: Tensor,
    decay: Tensor | None,
    due: Tensor | None,
) -> None:
    """Step values in place as torch's SGD with momentum.

    Args:
        config: Momentum.
        values: [N].
        moments: "momentum_buffer" [N].
        gradient: [N], clipped, 0 where it is not due; overwritten.
        rate: [N].
        decay: [N] weight decay; None = none.
        due: [N] bool; None = all. What is not due keeps every bit.
    """
    buffer = moments["momentum_buffer"]
    if decay is not None:
        gradient.addcmul_(values if due is None else torch.where(due, values, 0.0), decay)
    momentum = config.momentum if due is None else _choose(due, config.momentum, 1.0, values.dtype)
    buffer.mul_(momentum).add_(gradient)
    values.sub_(_mask(buffer * rate, due))


def step_adam(  # noqa: PLR0913 - the factors of one formula
    config: OptimizerConfig,
    values: Tensor,
    moments: Mapping[str, Tensor],
    gradient: Tensor,
    *,
    rate: Tensor,
    step: Tensor,
    floor: Tensor,
    decay: Tensor | None,
    due: Tensor | None,
) -> None:
    """Step values in place as torch's Adam and AdamW: values -= mean step / (sqrt(square) + floor).

    That is the formula of the paper, numerator and denominator multiplied by sqrt(1 - beta2^t).

    Args:
        config: Name and betas.
        values: [N].
        moments: "exp_avg" and "exp_avg_sq" [N].
        gradient: [N], clipped, 0 where it is not due; overwritten.
        rate: [N], 0 where it is not due.
        step: [N] rate sqrt(1 - beta2^t) / (1 - beta1^t).
        floor: [N] epsilon sqrt(1 - beta2^t).
        decay: [N] weight decay; None = none.
        due: [N] bool; None = all. What is not due keeps every bit.
    """
    mean, square = moments["exp_avg"], moments["exp_avg_sq"]
    low, high = config.betas
    if decay is not None and config.name == "adamw":
        values.mul_(1.0 - rate * decay)
    elif decay is not None:
        gradient.addcmul_(values if due is None else torch.where(due, values, 0.0), decay)
    if due is None:
        mean.lerp_(gradient, 1.0 - low)
        square.mul_(high)
    else:
        mean.add_((gradient - mean).mul_(1.0 - low).masked_fill_(~due, 0.0))
        square.mul_(_choose(due, high, 1.0, values.dtype))
    square.addcmul_(gradient, gradient, value=1.0 - high)
    denominator = square.sqrt().add_(floor)
    if due is None:
        values.addcdiv_(mean * step, denominator, value=-1.0)
    else:
        values.sub_(_mask(mean * step / denominator, due))


def _mask(change: Tensor, due: Tensor | None) -> Tensor:
    # Masked, not multiplied by 0: a moment may be infinite where it is not due.
    return change if due is None else change.masked_fill_(~due, 0.0)


def _choose(mask: Tensor, yes: float, no: float, dtype: torch.dtype) -> Tensor:
    """Return two constants by a mask, each at full precision: `torch.where` would round them to float32."""
    return torch.full_like(mask, no, dtype=dtype).masked_fill_(mask, yes)
