"""A plain network as one program: torch.export's .pt2, or an ONNX graph made of the same program.

Both hold the whole computation, so that no class is needed to load them. The first axis of every input that
is as long as the batch may vary. Knows modules; no slot, no run.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from esper.kasmina import (
    MAX_DIFFERENCE,
    Inputs,
    call_host,
    count_items,
    each_tensor,
    map_tensors,
    measure_largest,
    split_arguments,
)
from esper.leyline import ConfigError, ExportError

_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_MAX_ONNX_BYTES = 2_000_000_000
"""A protobuf message ends at 2 GiB; weights beside the file would make two files of one."""


def build_program(
    network: nn.Module, sample: Inputs, *, dynamic_batch: bool = True
) -> torch.export.ExportedProgram:
    """Return a network as a program of torch.export.

    Args:
        network: In eval mode; its forward may have control flow, of which the path of the sample is kept.
        sample: What it is called with, on its device: a tensor [B, ...], a tuple or a mapping.
        dynamic_batch: Whether batches of any size are taken; else those of the sample's size alone.

    Raises:
        ExportError: If the network is in training mode, torch cannot make a program of it, or the network
            goes another way for a single item than for several, which a program cannot.
    """
    training = [path or type(network).__name__ for path, part in network.named_modules() if part.training]
    if training:
        raise ExportError(f"{training[0]} is in training mode: call eval() on the network first")
    if not dynamic_batch:
        return _export(network, sample, has_any_batch=False)
    # A batch of one is a special case to the exporter, which would fix it at one.
    program = _export(network, resize_batch(sample, max(2, count_items(sample))), has_any_batch=True)
    one = resize_batch(sample, 1)
    with torch.no_grad():
        difference = measure_largest(_call(network, one), _call(program.module(), one))
    if not difference <= MAX_DIFFERENCE:
        raise ExportError(
            f"for a batch of one the network goes another way than for several (by {difference:.2e}), "
            "which no program holds: fix the batch's size (dynamic_batch=False), or write a folder"
        )
    return program


def save_program(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a .pt2 file.

    Raises:
        OSError: If the file cannot be written.
    """
    torch.export.save(program, path)


def load_program(path: Path) -> nn.Module:
    """Return the network of a .pt2 file."""
    return torch.export.load(path).module()


def save_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write an ONNX file, weights included.

    Raises:
        ConfigError: If packages of the extra "export" are missing.
        ExportError: If torch's exporter has no translation for an operator, or the weights are too large.
        OSError: If the file cannot be written.
    """
    require_onnx()
    num_bytes = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    if num_bytes > _MAX_ONNX_BYTES:
        raise ExportError(
            f"{num_bytes:,} bytes of weights do not fit into one ONNX file (2 GiB); write a .pt2 instead"
        )
    try:
        with _quiet():
            torch.onnx.export(program, (), path, dynamo=True, verbose=False, external_data=False)
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(
            f"torch's exporter cannot translate the network to ONNX: {_first_line(error)}; write a .pt2 "
            "instead, which holds any program"
        ) from error


def require_onnx() -> None:
    """Check that what reads and writes ONNX is installed.

    Raises:
        ConfigError: Naming what is missing, and how to get it.
    """
    missing = [name for name in _ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"an ONNX file needs {', '.join(missing)}: pip install 'esper-lite[export]', or write a .pt2"
        )


@final
class OnnxNetwork:
    """An ONNX file in onnxruntime on the CPU, called as the network was that it was made of."""

    def __init__(self, path: Path) -> None:
        """Load a file.

        Raises:
            ConfigError: If onnxruntime is missing.
        """
        require_onnx()
        import onnxruntime  # noqa: PLC0415 - an extra, and heavy

        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._names = [given.name for given in self._session.get_inputs()]

    def __call__(self, *args: object, **kwargs: object) -> list[Tensor]:
        """Return the outputs' tensors in order.

        Args:
            args: The network's own arguments; tensors in them are taken in order.
            kwargs: Those by name; a tensor goes to the input of its name.
        """
        by_name = {name: value for name, value in kwargs.items() if name in self._names}
        rest = {name: value for name, value in kwargs.items() if name not in by_name}
        free = [name for name in self._names if name not in by_name]
        fed = {name: value for name, value in by_name.items() if isinstance(value, Tensor)}
        fed |= dict(zip(free, each_tensor((args, rest)), strict=True))
        outputs = self._session.run(
            None, {name: tensor.detach().cpu().numpy() for name, tensor in fed.items()}
        )
        return [torch.from_numpy(output) for output in outputs]


def resize_batch(sample: Inputs, num_items: int) -> Inputs:
    """Return a sample with another number of items: the first ones, repeated where there are too few.

    Args:
        sample: A batch; every tensor whose first axis is as long as the batch is resized.
        num_items: Items wanted, >= 1.
    """
    present = count_items(sample)
    index = torch.arange(num_items) % present

    def resize(tensor: Tensor) -> Tensor:
        return tensor[index.to(tensor.device)] if _has_items(tensor, present) else tensor

    resized = map_tensors(sample, resize)
    assert isinstance(resized, Tensor | tuple | dict)
    return resized


def _export(network: nn.Module, sample: Inputs, *, has_any_batch: bool) -> torch.export.ExportedProgram:
    positional, named = split_arguments(sample)
    shapes = _dynamic_shapes(network, positional, named, count_items(sample)) if has_any_batch else None
    try:
        with _quiet():
            return torch.export.export(network, positional, named, dynamic_shapes=shapes)
    except (RuntimeError, ValueError, TypeError, AssertionError, KeyError, AttributeError) as error:
        remedy = (
            "fix the batch's size (dynamic_batch=False), or write a folder"
            if has_any_batch
            else "write a folder"
        )
        raise ExportError(
            f"torch.export makes no program of {type(network).__name__}: {_first_line(error)}; {remedy}"
        ) from error


def _dynamic_shapes(
    network: nn.Module, positional: Sequence[object], named: Mapping[str, object], num_items: int
) -> dict[str, object]:
    """Return for each argument which of its axes may vary, in the nesting of the argument."""
    batch = torch.export.Dim("batch", min=1)

    def mark(value: object) -> object:
        if isinstance(value, Tensor):
            return {0: batch} if _has_items(value, num_items) else {}
        if isinstance(value, Mapping):
            return {name: mark(part) for name, part in value.items()}
        if isinstance(value, tuple | list):
            return type(value)(mark(part) for part in value)
        return None

    bound = inspect.signature(network.forward).bind(*positional, **named)
    return {name: mark(value) for name, value in bound.arguments.items()}


def _has_items(tensor: Tensor, num_items: int) -> bool:
    return tensor.dim() > 0 and len(tensor) == num_items


def _call(network: nn.Module, sample: Inputs) -> object:
    try:
        return call_host(network, sample)
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        raise ExportError(
            f"a batch of one is not taken: {_first_line(error)}; fix the batch's size "
            "(dynamic_batch=False), or write a folder"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what torch's exporters say about their own insides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
