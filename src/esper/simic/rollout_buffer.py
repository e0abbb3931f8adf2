"""Experience of E environments over T steps, preallocated on the learner's device.

Masks are stored with the observation that they belong to, together with a hash from the moment of sampling:
an update that would score with other masks is refused. Knows no environment, network or loss.

Shapes: E rows (environments), T steps, H heads, L layers and D units of the memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from esper.leyline import ForeignCheckpointError, JsonValue
from esper.simic.advantages import RowSteps
from esper.simic.config import RolloutConfig
from esper.simic.interfaces import Bootstrap
from esper.tamiyo import Memory, PolicyInputs
from esper.tolaria import StateRecord

_INPUT = "inputs."
_BOOTSTRAP = frozenset(Bootstrap._fields)
_GOLDEN = -7046029254386353131  # 2**64 / golden ratio, odd, as a signed number
_MIX = -4658895280553007687


class StoredStep(NamedTuple):
    """One step of E rows, on any device; copied."""

    inputs: PolicyInputs
    """What the policy decided from, masks included."""
    actions: Tensor
    """[E, H] int64, as executed."""
    log_probs: Tensor
    """[E, H]."""
    value: Tensor
    """[E] raw scale."""
    num_valid: Tensor
    """[E] int64 legal joint actions."""
    reward: Tensor
    """[E]."""
    terminated: Tensor
    """[E] bool."""
    truncated: Tensor
    """[E] bool."""
    valid: Tensor
    """[E] bool: a real transition."""
    episode_start: Tensor
    """[E] bool: the step was the first of its episode."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RolloutBatch:
    """Whole rows of a rollout: what an update scores. Views of the buffer, or copies of some rows."""

    inputs: Mapping[str, Tensor]
    """Name -> [E, T, ...]."""
    actions: Tensor
    """[E, T, H] int64."""
    log_probs: Tensor
    """[E, T, H] when sampled."""
    value: Tensor
    """[E, T] raw scale when sampled."""
    num_valid: Tensor
    """[E, T] int64."""
    steps: RowSteps
    mask_hash: Tensor
    """[E, T] int64 of the masks when sampled."""
    memory: Memory
    """[L, E, D] before the first step."""
    bootstrap: Bootstrap

    @property
    def num_rows(self) -> int:
        """E."""
        return self.actions.shape[0]

    @property
    def learn(self) -> Tensor:
        """[E, T] bool: real steps with more than one legal action."""
        return self.steps.valid & (self.num_valid > 1)

    def select(self, rows: Tensor) -> RolloutBatch:
        """Return copies of some rows.

        Args:
            rows: [N] int64 on the device of the rollout.
        """
        return RolloutBatch(
            inputs={name: tensor[rows] for name, tensor in self.inputs.items()},
            actions=self.actions[rows],
            log_probs=self.log_probs[rows],
            value=self.value[rows],
            num_valid=self.num_valid[rows],
            steps=RowSteps(*(tensor[rows] for tensor in self.steps)),
            mask_hash=self.mask_hash[rows],
            memory=self.memory.select(rows),
            bootstrap=Bootstrap(*(tensor[rows] for tensor in self.bootstrap)),
        )

    def find_changed_masks(self) -> Tensor:
        """Return [E, T] bool: steps whose masks are not the ones that were sampled with."""
        return compute_mask_hash(self.inputs, num_leading=2) != self.mask_hash


class FinishedEpisode(NamedTuple):
    """One episode that ended within a rollout.

    Example:
        FinishedEpisode(name="environment 3", total_reward=0.12, num_steps=75, facts={})
    """

    name: str
    total_reward: float
    num_steps: int
    facts: Mapping[str, JsonValue]
    """What the environment says about it; empty where it says nothing."""


class QuarantinedRow(NamedTuple):
    """A row that was taken out of a rollout.

    Example:
        QuarantinedRow(name="environment 3", row=3, step=17, reason="input 'features' is not finite")
    """

    name: str
    row: int
    step: int
    """Step of the rollout from which on nothing of it counts."""
    reason: str


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rollout:
    """What one collection brought."""

    batch: RolloutBatch
    episodes: tuple[FinishedEpisode, ...]
    """In the order in which they ended."""
    quarantined: tuple[QuarantinedRow, ...]
    num_valid: int
    """Real transitions."""


def compute_mask_hash(inputs: PolicyInputs, *, num_leading: int) -> Tensor:
    """Return an int64 per row (and step) over all boolean inputs, in the order of their names.

    A sum of one mixed number per True entry, modulo 2**64: one flipped entry always changes it.

    Args:
        inputs: Name -> [E, ...] or [E, T, ...].
        num_leading: How many dimensions are kept: 1 or 2.
    """
    first = next(iter(inputs.values()))
    total = torch.zeros(first.shape[:num_leading], dtype=torch.int64, device=first.device)
    offset = 1
    for name in sorted(inputs):
        tensor = inputs[name]
        if tensor.dtype is not torch.bool:
            continue
        bits = tensor.flatten(num_leading) if tensor.dim() > num_leading else tensor[..., None]
        size = bits.shape[-1]
        places = torch.arange(offset, offset + size, device=tensor.device) * _GOLDEN
        weights = ((places ^ (places >> 31)) * _MIX) | 1
        total += (bits.long() * weights).sum(dim=-1)
        offset += size
    return total


@final
class TamiyoRolloutBuffer:
    """Rows of experience, written step by step, read as a whole, then cleared and written again.

    Example:
        buffer = TamiyoRolloutBuffer(num_envs=4, num_steps=75, device=torch.device("cpu"))
        buffer.begin(memory)
        buffer.add(step)  # at most 75 times
        batch = buffer.finish(last_value)
    """

    def __init__(self, *, num_envs: int, num_steps: int, device: torch.device) -> None:
        """Choose the size; memory is taken at the first step, when the shapes are known.

        Args:
            num_envs: E, >= 1.
            num_steps: T, >= 1.
            device: Where the learner runs.

        Raises:
            ValueError: If a size is below 1.
        """
        if num_envs < 1 or num_steps < 1:
            raise ValueError(f"num_envs={num_envs}, num_steps={num_steps}: both must be >= 1")
        self.num_envs = num_envs
        self.capacity = num_steps
        self._device = device
        self._length = 0
        self._columns: dict[str, Tensor] = {}
        self._memory: Memory | None = None
        self._is_finished = False

    @property
    def num_steps(self) -> int:
        """Steps written since the last `clear`, 0..T."""
        return self._length

    @property
    def is_full(self) -> bool:
        """Whether no further step fits."""
        return self._length == self.capacity

    @property
    def is_begun(self) -> bool:
        """Whether `begin` was called since the last `clear`."""
        return self._memory is not None

    @property
    def is_finished(self) -> bool:
        """Whether `finish` was called since the last `clear`."""
        return self._is_finished

    @property
    def num_bytes(self) -> int:
        """Bytes that it holds; constant after the first step, however long training runs."""
        held = [*self._columns.values(), *(self._memory or ())]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    def begin(self, memory: Memory) -> None:
        """Start the rows.

        Args:
            memory: [L, E, D] before the first step, zeros where an episode starts; kept outside any graph.

        Raises:
            RuntimeError: If rows were begun and not cleared.
        """
        if self.is_begun:
            raise RuntimeError("the buffer still holds a rollout: clear() it before the next begin()")
        self._memory = Memory(*(part.detach().to(self._device, copy=True) for part in memory))

    def add(self, step: StoredStep) -> None:
        """Write one step of every row.

        Raises:
            RuntimeError: If the buffer is full, finished or not begun.
            ValueError: If a shape differs from the first step's.
        """
        if not self.is_begun or self._is_finished or self.is_full:
            raise RuntimeError(
                f"cannot add step {self._length + 1}: capacity {self.capacity}, "
                f"begun={self.is_begun}, finished={self._is_finished}; clear() and begin() first"
            )
        columns = self._name_columns(step)
        if not self._columns:
            self._allocate(columns)
        if different := set(columns) ^ (set(self._columns) - _BOOTSTRAP):
            raise ValueError(f"step has {sorted(different)} too many or too few")
        for name, tensor in columns.items():
            place = self._columns[name]
            if tensor.shape != (self.num_envs, *place.shape[2:]):
                expected = (self.num_envs, *place.shape[2:])
                raise ValueError(f"{name}: shape {tuple(tensor.shape)}, expected {expected}")
            place[:, self._length] = tensor.detach()
        self._columns["next_value"][:, self._length] = 0.0
        self._length += 1

    def bootstrap(self, values: Tensor, where: Tensor) -> None:
        """Store what would have followed the step just added.

        Args:
            values: [E] raw values of the final observations.
            where: [E] bool, rows whose episode was truncated by that step.
        """
        place = self._columns["next_value"][:, self._length - 1]
        where, values = where.to(self._device), values.detach().to(self._device)
        place.copy_(torch.where(where, values.to(place.dtype), place))

    def finish(self, last_value: Tensor) -> RolloutBatch:
        """Close the rows and return them as views: they change when the buffer is written again.

        Args:
            last_value: [E] raw values of the pending observations; 0 for rows that ended.

        Raises:
            RuntimeError: If nothing was written.
        """
        if self._memory is None or self._length == 0:
            raise RuntimeError("an empty rollout cannot be finished: add() at least one step")
        self._columns["last_value"].copy_(last_value.detach())
        self._is_finished = True
        return self._view(self._memory)

    def clear(self) -> None:
        """Forget the rows and keep the memory that they used."""
        self._length, self._memory, self._is_finished = 0, None, False

    def state(self) -> StateRecord:
        """Return copies of the steps written so far."""
        tensors = {
            name: (column if name == "last_value" else column[:, : self._length]).clone()
            for name, column in self._columns.items()
            if self._length
        }
        if self._memory is not None:
            tensors |= {f"memory.{part}": x.clone() for part, x in self._memory._asdict().items()}
        sizes: dict[str, JsonValue] = {"num_envs": self.num_envs, "capacity": self.capacity}
        return StateRecord(
            tensors=tensors, state=sizes | {"num_steps": self._length, "is_finished": self._is_finished}
        )

    def restore(self, record: StateRecord) -> None:
        """Put back what `state` returned.

        Raises:
            ForeignCheckpointError: If it was saved by a buffer of another size.
        """
        saved = (record.state.get("num_envs"), record.state.get("capacity"))
        length = record.state.get("num_steps")
        if saved != (self.num_envs, self.capacity) or not isinstance(length, int):
            raise ForeignCheckpointError(
                f"saved rollout has (environments, steps) {saved}, this run {(self.num_envs, self.capacity)}"
            )
        self.clear()
        tensors = dict(record.tensors)
        parts = [tensors.pop(f"memory.{part}", None) for part in Memory._fields]
        if parts[0] is not None and parts[1] is not None:
            self._memory = Memory(parts[0].to(self._device, copy=True), parts[1].to(self._device, copy=True))
        if length and ("last_value" not in tensors or self._memory is None):
            raise ForeignCheckpointError("saved rollout lacks its last values or its memory")
        self._columns = {}
        for name, tensor in tensors.items():
            if name == "last_value":
                self._columns[name] = tensor.to(self._device, copy=True)
            else:
                self._columns[name] = self._zeros(tensor[:, 0], steps=self.capacity)
                self._columns[name][:, :length] = tensor
        self._length, self._is_finished = length, bool(record.state.get("is_finished"))

    def _name_columns(self, step: StoredStep) -> dict[str, Tensor]:
        columns = {_INPUT + name: tensor for name, tensor in step.inputs.items()}
        columns |= {name: tensor for name, tensor in step._asdict().items() if name != "inputs"}
        return columns | {"mask_hash": compute_mask_hash(step.inputs, num_leading=1)}

    def _allocate(self, columns: Mapping[str, Tensor]) -> None:
        self._columns = {name: self._zeros(tensor, steps=self.capacity) for name, tensor in columns.items()}
        self._columns["next_value"] = torch.zeros_like(self._columns["value"])
        self._columns["last_value"] = torch.zeros_like(self._columns["value"][:, 0])

    def _zeros(self, like: Tensor, *, steps: int) -> Tensor:
        shape = (self.num_envs, steps, *like.shape[1:])
        return torch.zeros(shape, dtype=like.dtype, device=self._device)

    def _view(self, memory: Memory) -> RolloutBatch:
        columns = {
            name: column if name == "last_value" else column[:, : self._length]
            for name, column in self._columns.items()
        }
        return RolloutBatch(
            inputs={name.removeprefix(_INPUT): x for name, x in columns.items() if name.startswith(_INPUT)},
            actions=columns["actions"],
            log_probs=columns["log_probs"],
            value=columns["value"],
            num_valid=columns["num_valid"],
            steps=RowSteps(*(columns[name] for name in RowSteps._fields)),
            mask_hash=columns["mask_hash"],
            memory=memory,
            bootstrap=Bootstrap(columns["next_value"], columns["last_value"]),
        )


def build_buffer(
    config: RolloutConfig, *, num_envs: int, horizon: int, device: torch.device
) -> TamiyoRolloutBuffer:
    """Return an empty buffer of the configured length.

    Args:
        config: Its number of steps; None = the horizon.
        num_envs: E.
        horizon: Steps of an episode of the environment.
        device: Where the learner runs.
    """
    num_steps = horizon if config.num_steps is None else config.num_steps
    return TamiyoRolloutBuffer(num_envs=num_envs, num_steps=num_steps, device=device)
