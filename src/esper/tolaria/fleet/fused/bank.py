"""Weights and moments of R alike modules as flat rows [R, P], and the optimiser's update of all rows at once.

```
flat row    p_1 p_2 ... p_n     the module's parameters one after another, in their own order
update      g = grad * min(1, clip / |grad|) + decay * p;  moments;  p -= rate * step        row by row
```
The same update as torch's SGD, Adam and AdamW (Kingma and Ba 2015; Loshchilov and Hutter 2019) with a rate, a
step count and a skip of its own in every row. A row that is not due keeps every bit. Knows neither hosts nor
seeds: a row is an owner of parameters in somebody's optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

import torch
from torch import Tensor, nn

from esper.tolaria.optimizers import OptimizerConfig, TopologyOptimizer

_ADAM_EPSILON = 1e-8
_CLIP_EPSILON = 1e-6  # what torch's clipping adds to the norm
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
        loss = run(bank.weights())
        bank.update(torch.autograd.grad(loss, bank.values)[0], is_due, rates)
        bank.write_back()
    """

    def __init__(self, rows: Sequence[BankRow]) -> None:
        """Copy the rows' weights and moments.

        Args:
            rows: At least one; parameters of equal paths, shapes and types, all of them trained.
        """
        self._rows = tuple(rows)
        first = rows[0]
        self._config: OptimizerConfig = first.optimizer.config
        self._shapes = {path: parameter.shape for path, parameter in first.parameters.items()}
        self._sizes = [parameter.numel() for parameter in first.parameters.values()]
        self._reference = next(iter(first.parameters.values()), None)
        # A leaf: gradients are asked for whole rows.
        self.values: Tensor = self._flatten([list(row.parameters.values()) for row in rows]).requires_grad_()
        self._decay = self.values.new_tensor(
            [decay for path, decay in self._list_decays(first) for _ in range(self._shapes[path].numel())]
        )
        self._has_decay = bool(self._decay.any()) if self.num_values else False
        self.moments, self._steps = self._read_moments()
        self._num_updates = torch.zeros(len(rows), dtype=torch.int64, device=self.values.device)

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

    def update(self, gradient: Tensor, norms: Tensor, is_due: Tensor, rates: Tensor) -> None:
        """Clip and step the rows that are due.

        Args:
            gradient: [R, P], overwritten; what it holds in rows that are not due does not matter.
            norms: [R] from `compute_norms`.
            is_due: [R] bool.
            rates: [R] learning rates, float64 as schedules give them.
        """
        if not self.num_values:
            return
        clip = self._config.clip_norm
        factor = torch.where(norms > clip, clip / (norms + _CLIP_EPSILON), 1.0).unsqueeze(1)
        due, rate = is_due.unsqueeze(1), rates.unsqueeze(1)
        gradient = torch.where(due, gradient.mul_(factor), 0.0)
        with torch.no_grad():
            if self._config.name == "sgd":
                self._step_sgd(gradient, due, rate)
            else:
                self._step_adam(gradient, due, rate)
        self._num_updates += is_due

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

    def write_back(self, rows: Sequence[int] | None = None) -> None:
        """Copy weights and moments to where they came from.

        Args:
            rows: Which; None = all.
        """
        chosen = range(self.num_rows) if rows is None else rows
        moved = self._num_updates.tolist()
        flat = {key: moment.split_with_sizes(self._sizes, dim=1) for key, moment in self.moments.items()}
        values = self.values.detach().split_with_sizes(self._sizes, dim=1)
        for row in chosen:
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
                if self._steps is not None:
                    self._write_step(kept, row)

    # ------------------------------------------------------------------ inside

    def _flatten(self, rows: Sequence[Sequence[Tensor]]) -> Tensor:
        if self._reference is None:
            return torch.zeros(len(rows), 0)
        flat = torch.cat([part.detach().reshape(-1) for row in rows for part in row])
        return flat.view(len(rows), -1)

    def _list_decays(self, row: BankRow) -> list[tuple[str, float]]:
        return list(zip(row.parameters, row.optimizer.decays(row.owner).values(), strict=True))

    def _read_moments(self) -> tuple[dict[str, Tensor], Tensor | None]:
        name = self._config.name
        keys = _FLAT_MOMENTS["sgd" if name == "sgd" else "adam"]
        kept = [[row.optimizer.moments(p) for p in row.parameters.values()] for row in self._rows]
        shapes = list(self._shapes.values())
        moments = {
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
        if name == "sgd":
            return moments, None
        # Every parameter of a row has made the same steps: they are born and skipped together.
        steps = [float(row[0]["step"]) if row and "step" in row[0] else 0.0 for row in kept]
        return moments, torch.tensor(steps, dtype=torch.float64, device=self.values.device)

    def _write_step(self, kept: MutableMapping[str, Tensor], row: int) -> None:
        assert self._steps is not None
        steps = self._steps[row]
        if "step" in kept:
            kept["step"].copy_(steps)
        else:
            kept["step"] = steps.detach().to(device="cpu", dtype=torch.get_default_dtype())

    def _step_sgd(self, gradient: Tensor, due: Tensor, rate: Tensor) -> None:
        values, buffer = self.values, self.moments["momentum_buffer"]
        if self._has_decay:
            gradient.addcmul_(torch.where(due, values, 0.0), self._decay)
        momentum = _choose(due, self._config.momentum, 1.0, values.dtype)
        buffer.mul_(momentum).add_(gradient)
        # Masked, not multiplied by 0: a moment may be infinite in a row that is not due.
        values.sub_((buffer * rate.to(values.dtype)).masked_fill_(~due, 0.0))

    def _step_adam(self, gradient: Tensor, due: Tensor, rate: Tensor) -> None:
        assert self._steps is not None
        values, (low, high) = self.values, self._config.betas
        mean, square = self.moments["exp_avg"], self.moments["exp_avg_sq"]
        rate = torch.where(due, rate, 0.0)
        if self._config.name == "adamw":
            values.mul_(1.0 - (rate * self._decay).to(values.dtype))
        elif self._has_decay:
            gradient.addcmul_(torch.where(due, values, 0.0), self._decay)
        self._steps += due.squeeze(1)
        count = self._steps.clamp(min=1.0).unsqueeze(1)
        mean.add_((gradient - mean).mul_(1.0 - low).masked_fill_(~due, 0.0))
        keep = _choose(due, high, 1.0, values.dtype)
        square.mul_(keep).addcmul_(gradient, gradient, value=1.0 - high)
        scale = (1.0 - high**count).sqrt().to(values.dtype)
        denominator = (square.sqrt() / scale).add_(_ADAM_EPSILON)
        step = mean / denominator * (rate / (1.0 - low**count)).to(values.dtype)
        values.sub_(step.masked_fill_(~due, 0.0))


def _choose(mask: Tensor, yes: float, no: float, dtype: torch.dtype) -> Tensor:
    """Return two constants by a mask, each at full precision: `torch.where` would round them to float32."""
    return torch.full_like(mask, no, dtype=dtype).masked_fill_(mask, yes)


def compute_rms(norms: Tensor, num_values: int) -> Tensor:
    """Return norm / sqrt(number of values) per row."""
    return norms / math.sqrt(max(1, num_values))
