"""The process-wide random streams as data: torch on the CPU and on each CUDA device, and Python's `random`.

Streams that a part owns (a `torch.Generator`, a numpy `Generator`) are saved by their owner; numpy's
process-wide stream is not saved because nothing here draws from it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

import torch
from torch import Tensor

from esper.leyline import ForeignCheckpointError, JsonValue
from esper.tolaria.checkpoint.record import StateRecord

_CPU = "torch.cpu"
_CUDA = "torch.cuda."
_PYTHON = "python"


def capture_rng() -> StateRecord:
    """Return copies of the streams.

    Returns:
        Tensors `torch.cpu` and `torch.cuda.<device index>` ([num_bytes] uint8), and `python` as
        [version, [words], next Gaussian or None].
    """
    version, words, gauss = random.getstate()
    return StateRecord(tensors=_torch_streams(), state={_PYTHON: [version, list(words), gauss]})


def restore_rng(record: StateRecord) -> None:
    """Continue all streams where `capture_rng` found them.

    A CUDA device that this machine has and the record has not keeps its stream.

    Raises:
        ForeignCheckpointError: If a saved stream does not exist here or has another format; then no stream
            was changed.
    """
    words = _python_state(record.state)
    here = _torch_streams()
    if _CPU not in record.tensors:
        raise ForeignCheckpointError(f"the saved random streams lack {_CPU!r}")
    for name, tensor in record.tensors.items():
        if name not in here:
            raise ForeignCheckpointError(
                f"the random stream {name!r} was saved, but there is no such device; found: {sorted(here)}"
            )
        if tensor.dtype != torch.uint8 or tensor.shape != here[name].shape:
            raise ForeignCheckpointError(
                f"random stream {name!r}: expected {here[name].numel()} bytes, found {tensor.dtype} of "
                f"shape {tuple(tensor.shape)}"
            )
        _probe(name, tensor)
    random.setstate(words)
    torch.set_rng_state(record.tensors[_CPU])
    for name, tensor in record.tensors.items():
        if name != _CPU:
            torch.cuda.set_rng_state(tensor, int(name.removeprefix(_CUDA)))


def _torch_streams() -> dict[str, Tensor]:
    streams = {_CPU: torch.get_rng_state()}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            streams[f"{_CUDA}{index}"] = torch.cuda.get_rng_state(index)
    return streams


def _probe(name: str, tensor: Tensor) -> None:
    """Try a state on a generator of no consequence."""
    device = "cpu" if name == _CPU else f"cuda:{name.removeprefix(_CUDA)}"
    try:
        torch.Generator(device).set_state(tensor)
    except RuntimeError as error:
        raise ForeignCheckpointError(f"random stream {name!r} is not a generator state: {error}") from error


def _python_state(state: Mapping[str, JsonValue]) -> tuple[object, ...]:
    """Return what `random.setstate` takes: it refuses the lists that JSON gives."""
    value = state.get(_PYTHON)
    if isinstance(value, list) and len(value) == 3 and isinstance(value[1], list):
        words = (value[0], tuple(value[1]), value[2])
        is_gauss = value[2] is None or isinstance(value[2], float)
        try:
            random.Random().setstate(words)
        except (TypeError, ValueError, OverflowError) as error:
            raise ForeignCheckpointError(f"random stream {_PYTHON!r} cannot be restored: {error}") from error
        if is_gauss:
            return words
    raise ForeignCheckpointError(
        f"random stream {_PYTHON!r} must be [version, [words], next Gaussian or None]"
    )
