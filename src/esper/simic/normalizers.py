"""Statistics of returns and inputs: float64, one update per rollout, mergeable over ranks.

A rollout's values go in as count, sum and sum of squares, which add up over ranks; in between the statistics
stand still, so that collecting and scoring see the same scale. Knows the last layer of a critic and nothing
else of a network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from esper.leyline import Collective, ForeignCheckpointError, JsonValue, UnknownNameError
from esper.tamiyo import PolicyInputs

_MIN_VARIANCE = 1e-8
"""Below a deviation of 1e-4 returns count as constant: dividing by less would only enlarge rounding."""


class Moments(NamedTuple):
    """Count, sum and sum of squares per feature."""

    number: float
    total: Tensor
    """[D] float64 on the CPU; [] for one quantity."""
    squares: Tensor
    """Like `total`."""

    def merged(self, collective: Collective) -> Moments:
        """Return the sums over all ranks."""
        numbers = [self.number, *self.total.flatten().tolist(), *self.squares.flatten().tolist()]
        number, *sums = collective.all_sum(numbers)
        total, squares = torch.tensor(sums, dtype=torch.float64).reshape(2, *self.total.shape)
        return Moments(number, total, squares)

    def added(self, other: Moments) -> Moments:
        """Return the sums over both."""
        return Moments(self.number + other.number, self.total + other.total, self.squares + other.squares)


def compute_moments(values: Tensor, mask: Tensor) -> Moments:
    """Return the moments of the values where a mask holds; what the others are, NaN included, does not count.

    Args:
        values: [..., D].
        mask: [...] bool, or the leading part of that shape.
    """
    rows = mask.reshape(*mask.shape, *([1] * (values.dim() - mask.dim()))).expand(values.shape)
    kept = torch.where(rows, values, torch.zeros_like(values)).double().flatten(0, -2)
    count = rows[..., 0].sum()
    return Moments(float(count), kept.sum(dim=0).cpu(), kept.square().sum(dim=0).cpu())


def scalar_moments(count: float, total: float, squares: float) -> Moments:
    """Return the moments of one quantity from plain numbers."""
    return Moments(
        count, torch.tensor(total, dtype=torch.float64), torch.tensor(squares, dtype=torch.float64)
    )


@final
class RunningMoments:
    """Exact mean and variance of everything so far (Welford 1962, merged as Chan et al. 1983)."""

    def __init__(self, shape: Sequence[int] = ()) -> None:
        """Start empty: mean 0, variance 1."""
        self.count = 0.0
        self._mean = torch.zeros(tuple(shape), dtype=torch.float64)
        self._m2 = torch.zeros(tuple(shape), dtype=torch.float64)

    @property
    def mean(self) -> Tensor:
        """[D] float64."""
        return self._mean

    @property
    def variance(self) -> Tensor:
        """[D] float64, divided by the count; 1 while empty."""
        return self._m2 / self.count if self.count > 0 else torch.ones_like(self._m2)

    def apply_update(self, batch: Moments) -> None:
        """Merge a batch; an empty one changes nothing."""
        if batch.number <= 0:
            return
        mean = batch.total / batch.number
        spread = (batch.squares - batch.total * mean).clamp_min(0.0)
        count = self.count + batch.number
        delta = mean - self._mean
        self._m2 = self._m2 + spread + delta.square() * (self.count * batch.number / count)
        self._mean = self._mean + delta * (batch.number / count)
        self.count = count

    def state(self) -> dict[str, JsonValue]:
        """Return plain data."""
        return {"count": self.count, "mean": self._mean.flatten().tolist(), "m2": self._m2.flatten().tolist()}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Put back what `state` returned.

        Raises:
            ForeignCheckpointError: If it is of another kind or size.
        """
        self.count = _read_number(state, "count")
        self._mean = _read_vector(state, "mean", self._mean)
        self._m2 = _read_vector(state, "m2", self._m2)


@final
class EmaMoments:
    """Moving average of mean and mean square, divided by the weight that has come in (debiased).

    The mean square carries the shift of the mean: variance = E[x^2] - E[x]^2 of the averages.
    """

    def __init__(self, beta: float, shape: Sequence[int] = ()) -> None:
        """Start empty.

        Args:
            beta: Weight of the past per update, in [0, 1).
            shape: Of one item.
        """
        self._beta = beta
        self._weight = 0.0
        self._first = torch.zeros(tuple(shape), dtype=torch.float64)
        self._second = torch.zeros(tuple(shape), dtype=torch.float64)

    @property
    def mean(self) -> Tensor:
        """[D] float64; 0 while empty."""
        return self._first / self._weight if self._weight > 0 else self._first

    @property
    def variance(self) -> Tensor:
        """[D] float64; 1 while empty."""
        if self._weight <= 0:
            return torch.ones_like(self._second)
        return (self._second / self._weight - self.mean.square()).clamp_min(0.0)

    def apply_update(self, batch: Moments) -> None:
        """Take one batch in; an empty one changes nothing."""
        if batch.number <= 0:
            return
        share = 1.0 - self._beta
        self._first = self._beta * self._first + share * (batch.total / batch.number)
        self._second = self._beta * self._second + share * (batch.squares / batch.number)
        self._weight = self._beta * self._weight + share

    def state(self) -> dict[str, JsonValue]:
        """Return plain data."""
        first, second = self._first.flatten().tolist(), self._second.flatten().tolist()
        return {"weight": self._weight, "first": first, "second": second}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Put back what `state` returned.

        Raises:
            ForeignCheckpointError: If it is of another kind or size.
        """
        self._weight = _read_number(state, "weight")
        self._first = _read_vector(state, "first", self._first)
        self._second = _read_vector(state, "second", self._second)


@final
class ValueNormalizer:
    """Scale of returns: the critic predicts (R - mean) / std, and its last layer follows the scale.

    PopArt (van Hasselt et al. 2016): with old (mu, s) and new (mu', s'), W' = W s / s' and
    b' = (s b + mu - mu') / s', so that no de-normalised prediction changes with the statistics.

    Example:
        ValueNormalizer("popart", beta=0.99).denormalize(network_values)
    """

    def __init__(self, kind: str, *, beta: float) -> None:
        """Start at mean 0, deviation 1.

        Args:
            kind: "popart", "welford" or "none".
            beta: Weight of the past per update in the moving average of "popart".
        """
        self._kind = kind
        self._moments = RunningMoments() if kind == "welford" else EmaMoments(beta)
        self._mean, self._std = 0.0, 1.0
        self._num_updates = 0

    @property
    def mean(self) -> float:
        """What is subtracted from a return."""
        return self._mean

    @property
    def std(self) -> float:
        """What it is then divided by, >= 1e-4."""
        return self._std

    @property
    def num_updates(self) -> int:
        """How often the statistics have moved: once per rollout that had returns."""
        return self._num_updates

    def normalize(self, raw: Tensor) -> Tensor:
        """Return values on the scale of the critic."""
        return (raw - self._mean) / self._std

    def denormalize(self, normalized: Tensor) -> Tensor:
        """Return values on the scale of the rewards."""
        return normalized * self._std + self._mean

    def apply_update(self, returns: Moments, value_layer: nn.Linear) -> None:
        """Take in the returns of one rollout, of all ranks, and rescale the critic's last layer.

        Args:
            returns: Moments of one quantity; empty or non-finite ones change nothing.
            value_layer: One output; the layer whose output `denormalize` is applied to.
        """
        sums = (returns.number, float(returns.total), float(returns.squares))
        if self._kind == "none" or returns.number <= 0 or not all(map(math.isfinite, sums)):
            return
        self._moments.apply_update(returns)
        mean = float(self._moments.mean)
        std = math.sqrt(max(float(self._moments.variance), _MIN_VARIANCE))
        with torch.no_grad():
            weight, bias = value_layer.weight, value_layer.bias
            weight.copy_(weight.double() * (self._std / std))
            bias.copy_((bias.double() * self._std + (self._mean - mean)) / std)
        self._mean, self._std = mean, std
        self._num_updates += 1

    def state(self) -> dict[str, JsonValue]:
        """Return plain data."""
        return {
            "kind": self._kind,
            "moments": self._moments.state(),
            "mean": self._mean,
            "std": self._std,
            "num_updates": self._num_updates,
        }

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Put back what `state` returned; the critic's layer is restored with the network.

        Raises:
            ForeignCheckpointError: If it is of another kind.
        """
        moments = state.get("moments")
        if state.get("kind") != self._kind or not isinstance(moments, Mapping):
            raise ForeignCheckpointError(
                f"saved value normaliser is {state.get('kind')!r}, this run uses {self._kind!r}: "
                "resume with the normalisation that the run was started with"
            )
        self._moments.restore(moments)
        self._mean, self._std = _read_number(state, "mean"), _read_number(state, "std")
        self._num_updates = int(_read_number(state, "num_updates"))


@final
class InputNormalizer:
    """Named inputs to mean 0 and deviation 1 per feature, clipped; moves between rollouts only."""

    def __init__(self, names: Sequence[str], *, bound: float) -> None:
        """Choose the inputs.

        Args:
            names: Of floating inputs [E, ..., D]; none = every input passes unchanged.
            bound: Largest absolute normalised value.
        """
        self._names = tuple(names)
        self._bound = bound
        self._moments: dict[str, RunningMoments] = {}
        self._pending: dict[str, Moments] = {}

    def normalize(self, inputs: PolicyInputs) -> PolicyInputs:
        """Return the inputs with the named ones normalised by the statistics of the rollouts before.

        Raises:
            UnknownNameError: If a named input does not exist.
        """
        if not self._names:
            return inputs
        self._check(inputs)
        return {name: self._apply(name, x) if name in self._names else x for name, x in inputs.items()}

    def observe(self, inputs: PolicyInputs, rows: Tensor) -> None:
        """Count observations in; nothing moves before `apply_update`.

        Args:
            inputs: Not normalised.
            rows: [E] bool, the rows that are really observed.

        Raises:
            UnknownNameError: If a named input does not exist.
        """
        self._check(inputs)
        for name in self._names:
            seen = compute_moments(inputs[name], rows)
            before = self._pending.get(name)
            self._pending[name] = seen if before is None else before.added(seen)

    def apply_update(self, collective: Collective) -> None:
        """Take in what all ranks have observed since the last call; every rank must call it."""
        for name in self._names:
            if name in self._pending:
                batch = self._pending[name].merged(collective)
                self._table(name, batch.total.shape).apply_update(batch)
        self._pending.clear()

    def state(self) -> dict[str, JsonValue]:
        """Return plain data, observations that wait for the next update included."""
        pending: dict[str, JsonValue] = {
            name: [seen.number, seen.total.tolist(), seen.squares.tolist()]
            for name, seen in self._pending.items()
        }
        return {"moments": {name: item.state() for name, item in self._moments.items()}, "pending": pending}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Put back what `state` returned.

        Raises:
            ForeignCheckpointError: If it has other inputs or is malformed.
        """
        moments, pending = state.get("moments"), state.get("pending")
        if not isinstance(moments, Mapping) or not isinstance(pending, Mapping):
            raise ForeignCheckpointError("saved input normaliser: moments and pending must be tables")
        unknown = (set(moments) | set(pending)) - set(self._names)
        if unknown:
            raise ForeignCheckpointError(
                f"saved input normaliser has {sorted(unknown)}, this run normalises {list(self._names)}"
            )
        self._moments, self._pending = {}, {}
        for name, saved in moments.items():
            if not isinstance(saved, Mapping) or not isinstance(mean := saved.get("mean"), list):
                raise ForeignCheckpointError(f"saved input normaliser, input {name!r}: malformed")
            self._table(name, (len(mean),)).restore(saved)
        for name, saved in pending.items():
            match saved:
                case [int() | float() as count, list(total), list(squares)]:
                    sums = [torch.tensor(part, dtype=torch.float64) for part in (total, squares)]
                    self._pending[name] = Moments(float(count), sums[0], sums[1])
                case _:
                    raise ForeignCheckpointError(f"saved input normaliser, pending {name!r}: malformed")

    def _apply(self, name: str, raw: Tensor) -> Tensor:
        moments = self._table(name, raw.shape[-1:])
        scale = moments.variance.clamp_min(_MIN_VARIANCE).sqrt()
        scaled = (raw.double() - moments.mean.to(raw.device)) / scale.to(raw.device)
        return scaled.clamp(-self._bound, self._bound).to(raw.dtype)

    def _table(self, name: str, shape: Sequence[int]) -> RunningMoments:
        if name not in self._moments:
            self._moments[name] = RunningMoments(shape)
        return self._moments[name]

    def _check(self, inputs: PolicyInputs) -> None:
        for name in self._names:
            if name not in inputs:
                raise UnknownNameError("normalised input", name, inputs)


def _read_number(state: Mapping[str, JsonValue], key: str) -> float:
    value = state.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ForeignCheckpointError(f"saved normaliser, field {key!r}: expected a number, got {value!r}")
    return float(value)


def _read_vector(state: Mapping[str, JsonValue], key: str, like: Tensor) -> Tensor:
    value = state.get(key)
    if not isinstance(value, list) or len(value) != like.numel():
        raise ForeignCheckpointError(
            f"saved normaliser, field {key!r}: expected {like.numel()} numbers, got {value!r}"
        )
    return torch.tensor(value, dtype=torch.float64).reshape(like.shape)
