"""The memory between encoder and heads: whole sequences in one call, cleared wherever an episode starts.

```
sequence   rows > episodes, longest first > LSTM over each from its own start state > back in their places
step       one step of all rows; the memory was cleared by the caller
```
Layer norms stand around the LSTM, not inside its cell: a cell of our own would be a Python loop over the
steps, while this one is a single kernel per sequence, and its input and output are what drifts in scale.
It runs in float32 whatever the autocast: in bfloat16 a cell forgets increments below a 256th of itself.

Shapes: E rows, T steps, R episodes that lie in those rows, C units in, D units of the memory, L layers.
"""

from __future__ import annotations

import math
from typing import NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from esper.tamiyo.actor_critic import Memory


class _Episodes(NamedTuple):
    """Where the R episodes of [E, T] steps lie, longest first; `flat` = row * T + step."""

    first: Tensor
    """[R] flat place of the first step."""
    lengths: Tensor
    """[R] steps, falling."""
    episode_of: Tensor
    """[E * T] index of the episode that a step belongs to."""


def _find_episodes(episode_start: Tensor) -> _Episodes:
    """Cut rows where an episode starts; the first step of each row begins one too, that may go on."""
    num_steps = episode_start.shape[1]
    begins = episode_start.clone()
    begins[:, 0] = True
    flat = begins.flatten()
    first = flat.nonzero().flatten()
    lengths = torch.diff(first, append=first.new_tensor([num_steps * episode_start.shape[0]]))
    order = lengths.argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    return _Episodes(first[order], lengths[order], rank[flat.cumsum(dim=0) - 1])


@final
class RecurrentCore(nn.Module):
    """Layer norm, LSTM (Hochreiter & Schmidhuber 1997), layer norm; no dropout, so modes make no difference.

    Example:
        core = RecurrentCore(128, 64, num_layers=2, checkpoint_core=False)
        output, memory = core.step(inputs, core.initial_memory(8))
    """

    def __init__(self, size_in: int, size: int, *, num_layers: int, checkpoint_core: bool) -> None:
        """Build the layers.

        Args:
            size_in: C.
            size: D.
            num_layers: L.
            checkpoint_core: Whether a backward pass recomputes the activations of ceil(sqrt(T)) steps at a
                time, from the memory kept at the start of each such piece.
        """
        super().__init__()
        self._checkpoint_core = checkpoint_core
        self.norm_in = nn.LayerNorm(size_in)
        self.lstm = nn.LSTM(size_in, size, num_layers)
        self.norm_out = nn.LayerNorm(size)

    def initial_memory(self, num_rows: int) -> Memory:
        """Return zeros [L, num_rows, D] on the device and in the dtype of the weights."""
        shape = (self.lstm.num_layers, num_rows, self.lstm.hidden_size)
        weight = self.norm_in.weight
        return Memory(weight.new_zeros(shape), weight.new_zeros(shape))

    def step(self, x_EC: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Return outputs [E, D] and the memory after one step."""
        output, (hidden, cell) = self.lstm(self.norm_in(x_EC)[None], (memory.hidden, memory.cell))
        return self.norm_out(output[0]), Memory(hidden, cell)

    def sequence(self, x_ETC: Tensor, memory: Memory, episode_start: Tensor) -> Tensor:
        """Return outputs [E, T, D].

        Args:
            x_ETC: Inputs.
            memory: Before the first step of each row.
            episode_start: [E, T] bool; True = the memory is cleared before this step.
        """
        memory = memory.cleared(episode_start[:, 0])
        x_ETC = self.norm_in(x_ETC)
        num_rows, num_steps, size_in = x_ETC.shape
        if not bool(episode_start[:, 1:].any()):  # sync: once per call
            output = self._run(x_ETC.transpose(0, 1), memory, None).transpose(0, 1)
            normed: Tensor = self.norm_out(output)
            return normed
        episodes = _find_episodes(episode_start)
        row, offset = episodes.first // num_steps, episodes.first % num_steps
        # Only an episode at the front of a row inherits a memory; that was cleared above if need be.
        start = memory.select(row).cleared(offset != 0)
        lengths = episodes.lengths.cpu()  # sync: once per call; packing needs them there
        times = torch.arange(int(lengths[0]), device=x_ETC.device)
        places = (episodes.first + times[:, None]).clamp(max=num_rows * num_steps - 1)
        output = self._run(x_ETC.reshape(-1, size_in)[places], start, lengths)
        time = torch.arange(num_rows * num_steps, device=row.device) - episodes.first[episodes.episode_of]
        normed = self.norm_out(output[time, episodes.episode_of].view(num_rows, num_steps, -1))
        return normed

    def _run(self, x_TRC: Tensor, memory: Memory, lengths: Tensor | None) -> Tensor:
        """Return [T, R, D], 0 after the end of an episode.

        Args:
            x_TRC: Inputs, anything after the end of an episode.
            memory: Before the first step of each episode.
            lengths: [R] falling, on the CPU; None = all T.
        """
        num_steps, num_episodes, _ = x_TRC.shape
        if lengths is None:
            lengths = torch.full((num_episodes,), num_steps)
        is_pieced = self._checkpoint_core and torch.is_grad_enabled()
        piece = math.ceil(math.sqrt(num_steps)) if is_pieced else num_steps
        hidden, cell = memory
        outputs = []
        for start in range(0, num_steps, piece):
            steps = (lengths - start).clamp(max=piece)
            steps = steps[steps > 0]
            alive = len(steps)
            arguments = (
                x_TRC[start : start + piece, :alive],
                hidden[:, :alive].contiguous(),
                cell[:, :alive].contiguous(),
                steps,
            )
            if is_pieced:
                # No layer draws a random number, so there is no generator to put back.
                output, hidden, cell = checkpoint(
                    self._run_piece, *arguments, use_reentrant=False, preserve_rng_state=False
                )
            else:
                output, hidden, cell = self._run_piece(*arguments)
            outputs.append(nn.functional.pad(output, (0, 0, 0, num_episodes - alive)))
        return torch.cat(outputs)

    def _run_piece(
        self, x: Tensor, hidden: Tensor, cell: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run consecutive steps of the episodes that still go on: outputs, hidden, cell."""
        if bool(lengths[-1] == len(x)):
            output, (hidden, cell) = self.lstm(x, (hidden, cell))
            return output, hidden, cell
        packed = pack_padded_sequence(x, lengths)
        packed_output: PackedSequence
        packed_output, (hidden, cell) = self.lstm(packed, (hidden, cell))
        output, _ = pad_packed_sequence(packed_output, total_length=len(x))
        return output, hidden, cell


@final
class MemorylessCore(nn.Module):
    """Plain layers in the place of the memory, for an ablation; a memory passes through unchanged."""

    def __init__(self, size_in: int, size: int, *, num_layers: int) -> None:
        """Build `num_layers` layers of `size` units over `size_in` inputs."""
        super().__init__()
        self._num_layers = num_layers
        self._size = size
        self.norm_in = nn.LayerNorm(size_in)
        self.layers = nn.ModuleList(
            nn.Linear(size_in if layer == 0 else size, size) for layer in range(num_layers)
        )
        self.norm_out = nn.LayerNorm(size)

    def initial_memory(self, num_rows: int) -> Memory:
        """Return zeros [L, num_rows, D]: who stores a memory need not ask whether there is one."""
        shape = (self._num_layers, num_rows, self._size)
        weight = self.norm_in.weight
        return Memory(weight.new_zeros(shape), weight.new_zeros(shape))

    def step(self, x_EC: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Return outputs [E, D] and the same memory."""
        return self._compute(x_EC), memory

    def sequence(self, x_ETC: Tensor, memory: Memory, episode_start: Tensor) -> Tensor:
        """Return outputs [E, T, D]; neither memory nor episode starts matter."""
        del memory, episode_start
        return self._compute(x_ETC)

    def _compute(self, x: Tensor) -> Tensor:
        x = self.norm_in(x)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        normed: Tensor = self.norm_out(x)
        return normed
