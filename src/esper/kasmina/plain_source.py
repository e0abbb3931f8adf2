"""A traced network as the text of a Python file: torch and safetensors, no pickle, nothing of this package.

Every layer becomes one constructor line made of the layer's own description, and every step of the graph one
line of `forward`. What cannot be written that way is refused by name; a graph can still leave as a program.
Knows no folder: whoever writes the files loads them again and compares.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, fx, nn

from esper.leyline import ExportError

WEIGHTS_NAME = "weights.safetensors"
"""File that the generated `load` reads, beside itself."""

_REMEDY = "export a program instead (-o FILE.pt2), which holds any graph"
_INNER_NAMES = re.compile(r"torch\._C\._nn\.")
"""Where a graph finds functions that `torch.nn.functional` offers under a name that stays."""
_HEADER = '''"""A network grown by esper-lite, as plain torch: needs torch and safetensors, nothing else.

    from model import load
    network = load()          # eval mode, weights from {weights} beside this file
    scores = network(inputs)  # {signature}

architecture.json says what inputs and outputs stand for, and what each layer is.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn


class GrownNetwork(nn.Module):
    """The host with the seeds that were kept."""

    def __init__(self) -> None:
        super().__init__()
'''
_FOOTER = '''

def load(folder: str | Path | None = None, *, device: str = "cpu") -> GrownNetwork:
    """Return the network in eval mode; its weights lie in `folder`, by default beside this file."""
    path = Path(__file__).parent if folder is None else Path(folder)
    network = GrownNetwork()
    network.load_state_dict(load_file(path / "{weights}"))
    return network.to(torch.device(device)).eval()
'''


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSource:
    """One layer, or one bare tensor, of the generated class."""

    name: str
    """Attribute in the file, and prefix of its tensors."""
    path: str
    """Where it lives in the grown network, dotted."""
    text: str
    """What builds it, e.g. `nn.Linear(in_features=8, out_features=3, bias=True)`."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PlainSource:
    """A network as text and tensors."""

    text: str
    """Content of model.py."""
    layers: tuple[LayerSource, ...]
    """In the order of `forward`."""
    tensors: Mapping[str, Tensor]
    """Name -> tensor on the CPU that shares no memory; what `load` puts into the layers."""


def build_plain_source(
    network: fx.GraphModule, *, input_shape: Sequence[int], num_outputs: int, is_language: bool = False
) -> PlainSource:
    """Write a traced network as a Python file.

    Args:
        network: As `export_model` returns it: one input, one output, torch layers only; left as it is.
        input_shape: Of one item, without the batch dimension; for the file's docstring.
        num_outputs: Values per item, or per position of a language model; for the file's docstring.
        is_language: Whether inputs are tokens and outputs stand at every position.

    Raises:
        ExportError: If a layer's description does not build the layer again, or the graph calls anything
            but torch and the layers.

    Example:
        >>> network = export_model(model, torch.zeros(2, 16))
        >>> source = build_plain_source(network, input_shape=(16,), num_outputs=4)
        >>> type(source).__name__
        'PlainSource'
    """
    graph = copy.deepcopy(network.graph)
    parts: dict[str, nn.Module | Tensor] = {}
    layers: dict[str, LayerSource] = {}
    for node in graph.nodes:
        node.type = None
        if node.op not in ("call_module", "get_attr"):
            continue
        path = str(node.target)
        if path not in layers:
            name = _flat_name(path, taken=parts)
            part = _find_part(network, path)
            parts[name] = part
            layers[path] = LayerSource(name=name, path=path, text=_describe_part(part, path))
        node.target = layers[path].name
    flat = fx.GraphModule(parts, graph, class_name="GrownNetwork")
    body = [_build_line(layer, parts[layer.name]) for layer in layers.values()]
    text = "\n".join(
        (
            _HEADER.format(
                weights=WEIGHTS_NAME, signature=_sign(input_shape, num_outputs, is_language=is_language)
            ).rstrip("\n"),
            *(f"        {line}" for line in body),
            "",
            *(f"    {line}" for line in _write_forward(flat)),
            _FOOTER.format(weights=WEIGHTS_NAME),
        )
    )
    tensors = {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in flat.state_dict().items()
    }
    return PlainSource(text=text, layers=tuple(layers.values()), tensors=tensors)


def _sign(input_shape: Sequence[int], num_outputs: int, *, is_language: bool) -> str:
    sizes = ", ".join(map(str, input_shape))
    if is_language:
        return f"[B, {sizes}] int64 -> [B, {sizes}, {num_outputs}]"
    return f"[B, {sizes}] float32 -> [B, {num_outputs}]"


def _flat_name(path: str, *, taken: Mapping[str, object]) -> str:
    """Turn a dotted path into an attribute name of its own: `host.block1.0` into `host_block1_0`."""
    stem = re.sub(r"\W", "_", path, flags=re.ASCII)
    stem = stem if stem[0].isalpha() else f"part_{stem}"
    name, number = stem, 1
    while name in taken or name in dir(nn.Module):
        number += 1
        name = f"{stem}_{number}"
    return name


def _find_part(network: fx.GraphModule, path: str) -> nn.Module | Tensor:
    parts: dict[str, nn.Module | Tensor] = {
        **dict(network.named_buffers()),
        **dict(network.named_parameters()),
        **dict(network.named_modules()),
    }
    return parts[path]


def _build_line(layer: LayerSource, part: nn.Module | Tensor) -> str:
    if isinstance(part, nn.Module | nn.Parameter):
        return f"self.{layer.name} = {layer.text}"
    return f'self.register_buffer("{layer.name}", {layer.text})'


def _describe_part(part: nn.Module | Tensor, path: str) -> str:
    if isinstance(part, nn.Module):
        return _describe_layer(part, path)
    empty = f"torch.empty({tuple(part.shape)}, dtype={part.dtype})"
    return f"nn.Parameter({empty})" if isinstance(part, nn.Parameter) else empty


def _describe_layer(layer: nn.Module, path: str) -> str:
    """Return the call that builds a layer, shown to build an equal one."""
    kind, arguments = type(layer), layer.extra_repr()
    text = f"nn.{kind.__name__}({arguments})"
    problem = f"{path} ({kind.__name__}) cannot be written as one constructor line"
    if vars(nn).get(kind.__name__) is not kind or list(layer.children()):
        raise ExportError(f"{problem}: it is no simple layer of torch.nn; {_REMEDY}")
    try:
        call = ast.parse(text, mode="eval").body
        assert isinstance(call, ast.Call)
        positional = [ast.literal_eval(item) for item in call.args]
        named = {item.arg or "": ast.literal_eval(item.value) for item in call.keywords}
        with torch.device("meta"):  # draws nothing from a random stream and takes no memory
            again = kind(*positional, **named)
    except (SyntaxError, ValueError, TypeError, RuntimeError) as error:
        raise ExportError(f"{problem}: {arguments!r} does not build it ({error}); {_REMEDY}") from error
    if again.extra_repr() != arguments or _shapes(again) != _shapes(layer):
        raise ExportError(f"{problem}: {arguments!r} builds another layer; {_REMEDY}")
    return text


def _shapes(layer: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}


def _write_forward(network: fx.GraphModule) -> list[str]:
    """Return the lines of `forward`, without the graph's own notes and freeing of names."""
    tree = ast.parse(network.code.strip())
    function = tree.body[0]
    if len(tree.body) != 1 or not isinstance(function, ast.FunctionDef) or len(function.args.args) != 2:
        raise ExportError(f"the graph is not one function of one input; {_REMEDY}")
    (_, inputs) = (argument.arg for argument in function.args.args)
    steps = [line for line in function.body if not _frees_names(line)]
    names = [node for step in steps for node in ast.walk(step) if isinstance(node, ast.Name)]
    known = {node.id for node in names if isinstance(node.ctx, ast.Store)} | {
        "self",
        "torch",
        "slice",
        inputs,
    }
    foreign = sorted({node.id for node in names} - known)
    if foreign:
        raise ExportError(f"the graph uses {', '.join(foreign)}, which is not of torch; {_REMEDY}")
    lines = [f"def forward(self, {inputs}: Tensor) -> Tensor:"]
    text = (_INNER_NAMES.sub("nn.functional.", ast.unparse(step)) for step in steps)
    return lines + [f"    {line}" for step in text for line in step.splitlines()]


def _frees_names(step: ast.stmt) -> bool:
    """Whether a line only lets go of names (`x = None`), which readable code need not do."""
    return isinstance(step, ast.Assign) and isinstance(step.value, ast.Constant) and step.value.value is None
