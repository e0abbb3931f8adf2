"""One row of an environment over time: its present episode, and both as plain data that can be saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from torch import Tensor

from esper.leyline import ActionResult, ForeignCheckpointError, JsonValue
from esper.simic.instances import EpisodeStart
from esper.tolaria import StateRecord

FRESH_START = EpisodeStart(0, 0)


@final
@dataclass(slots=True, kw_only=True)
class Episode:
    """What one row remembers of its present episode."""

    number: int = -1
    """Episodes begun in this row, less one."""
    start: EpisodeStart = FRESH_START
    total_reward: float = 0.0
    num_steps: int = 0
    num_refused: int = 0
    ops: Counter[str] = field(default_factory=Counter)
    """Operations carried out."""

    def count(self, result: ActionResult, reward: float) -> None:
        """Add one step."""
        self.num_steps += 1
        self.total_reward += reward
        self.num_refused += result.is_refused
        self.ops[result.effective.op.value] += 1

    def to_dict(self) -> dict[str, JsonValue]:
        """Return plain data."""
        return {
            "number": self.number,
            "start": list(self.start),
            "total_reward": self.total_reward,
            "num_steps": self.num_steps,
            "num_refused": self.num_refused,
            "ops": dict(self.ops),
        }

    @classmethod
    def from_dict(cls, record: JsonValue) -> Episode:
        """Return what `to_dict` wrote.

        Raises:
            ForeignCheckpointError: If a field is missing or malformed.
        """
        match record:
            case {
                "number": int(number),
                "start": [int(instance), int(epoch)],
                "total_reward": int() | float() as total_reward,
                "num_steps": int(num_steps),
                "num_refused": int(num_refused),
                "ops": dict(ops),
            }:
                counts = Counter({str(op): int(str(count)) for op, count in ops.items()})
                return cls(
                    number=number,
                    start=EpisodeStart(instance, epoch),
                    total_reward=float(total_reward),
                    num_steps=num_steps,
                    num_refused=num_refused,
                    ops=counts,
                )
        raise ForeignCheckpointError(f"saved episode: fields missing or malformed in {record!r:.200}")


def read_host(state: Mapping[str, JsonValue | Tensor], row: int) -> StateRecord:
    """Return the saved host of one row.

    Raises:
        ForeignCheckpointError: If it is missing.
    """
    prefix = f"host{row}."
    tensors = {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix) and isinstance(tensor, Tensor)
    }
    return StateRecord(tensors=tensors, state=dict(as_table(state.get(f"host{row}"), f"host{row}")))


def read_list(state: Mapping[str, JsonValue | Tensor], key: str) -> list[JsonValue]:
    """Return a list.

    Raises:
        ForeignCheckpointError: If it is none.
    """
    value = state.get(key)
    if not isinstance(value, list):
        raise ForeignCheckpointError(f"saved environment, field {key!r}: expected a list, got {value!r:.80}")
    return value


def as_table(value: object, key: str) -> dict[str, JsonValue]:
    """Return a table.

    Raises:
        ForeignCheckpointError: If it is none.
    """
    if not isinstance(value, dict):
        raise ForeignCheckpointError(f"saved environment, field {key!r}: expected a table, got {value!r:.80}")
    return value
