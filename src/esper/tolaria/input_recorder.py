"""Remembers what a model was last trained on, and counts its items, in a loop that somebody else runs.

Normalisation statistics are re-estimated from these inputs before a seed is switched off, and the FLOPs bill
needs the number of items. Keeps references to inputs, not copies, and only of passes with gradients.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from esper.kasmina import count_items, each_tensor, map_tensors
from esper.leyline import ConfigError, HostError, JsonValue

_Call = tuple[tuple[object, ...], dict[str, object]]


@final
class InputRecorder:
    """A forward pre-hook of the whole network.

    Example:
        handle = model.register_forward_pre_hook(recorder, with_kwargs=True)
    """

    def __init__(self, max_items: int) -> None:
        """Start empty.

        Args:
            max_items: Items after which the oldest batches are forgotten, >= 1.
        """
        self._max_items = max_items
        self._calls: deque[tuple[int, _Call]] = deque()
        self.num_trained = 0
        """Items in passes with gradients since the last `take_trained`."""
        self.num_evaluated = 0
        """Items in passes without since the last `take_evaluated`."""

    def __call__(self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        """Take note of one forward pass; compiled code passes unseen."""
        if torch.compiler.is_compiling():
            return
        del module
        count = _count(args, kwargs)
        if not torch.is_grad_enabled():
            self.num_evaluated += count
            return
        self.num_trained += count
        self._calls.append((count, (_detach(args), _detach(kwargs))))  # type: ignore[arg-type]
        while len(self._calls) > 1 and sum(n for n, _ in self._calls) - self._calls[0][0] >= self._max_items:
            self._calls.popleft()

    def __deepcopy__(self, memo: dict[int, object]) -> InputRecorder:
        """Return an empty one: a copied model has not been trained on anything yet."""
        del memo
        return InputRecorder(self._max_items)

    @property
    def last_call(self) -> _Call:
        """Arguments of the last pass with gradients, detached: in order, and by name."""
        return self._calls[-1][1]

    @property
    def num_batches(self) -> int:
        """Batches that are remembered."""
        return len(self._calls)

    @property
    def num_items(self) -> int:
        """Items that are remembered."""
        return sum(count for count, _ in self._calls)

    def run_again(self, host: nn.Module) -> None:
        """Run a host on every batch that is remembered, oldest first."""
        for _, (args, kwargs) in self._calls:
            host(*args, **kwargs)

    def take_trained(self) -> int:
        """Return the number of items trained on since the last call."""
        count, self.num_trained = self.num_trained, 0
        return count

    def take_evaluated(self) -> int:
        """Return the number of items in passes without gradients since the last call."""
        count, self.num_evaluated = self.num_evaluated, 0
        return count

    def state(self) -> tuple[dict[str, Tensor], list[JsonValue]]:
        """Return the tensors that are remembered, and the batches with names in their places.

        Raises:
            ConfigError: If an argument of the host is neither a tensor nor plain data.
        """
        tensors: dict[str, Tensor] = {}
        calls: list[JsonValue] = [[count, _pack(call, tensors)] for count, call in self._calls]
        return tensors, [self.num_trained, *calls]

    def restore(
        self, tensors: Mapping[str, Tensor], state: Sequence[JsonValue], device: torch.device
    ) -> None:
        """Put back what `state` returned."""
        self.num_trained = int(str(state[0]))
        self._calls.clear()
        for entry in state[1:]:
            assert isinstance(entry, list)
            call = _unpack(entry[1], tensors, device)
            assert isinstance(call, tuple)
            self._calls.append((int(str(entry[0])), call))


def _pack(value: object, tensors: dict[str, Tensor]) -> JsonValue:
    """Return a value with every tensor replaced by its name, and put the tensors aside."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"mapping": {str(key): _pack(part, tensors) for key, part in value.items()}}
    if isinstance(value, tuple | list):
        return [_pack(part, tensors) for part in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(
        f"an argument of the host is a {type(value).__name__}, which cannot be saved as plain data"
    )


def _unpack(value: JsonValue, tensors: Mapping[str, Tensor], device: torch.device) -> object:
    if isinstance(value, list):
        return tuple(_unpack(part, tensors, device) for part in value)
    if isinstance(value, dict) and "tensor" in value:
        return tensors[str(value["tensor"])].to(device)
    if isinstance(value, dict):
        inside = value["mapping"]
        assert isinstance(inside, dict)
        return {name: _unpack(part, tensors, device) for name, part in inside.items()}
    return value


def _count(args: tuple[object, ...], kwargs: dict[str, object]) -> int:
    try:
        return count_items(args) if any(True for _ in each_tensor(args)) else count_items(kwargs)
    except HostError:
        return 0


def _detach(value: object) -> object:
    return map_tensors(value, lambda tensor: tensor.detach())
