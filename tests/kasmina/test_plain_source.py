"""A grown network as a Python file: readable, torch only, and refused where it could not be written truly."""

from __future__ import annotations

import ast
import copy

import pytest
import torch
from torch import Tensor, fx, nn

from esper.kasmina import export_model
from esper.kasmina.plain_source import PlainSource, build_plain_source
from esper.leyline import BlendForm, ExportError, SeedStage
from kasmina.growing import draw, grow, make_cnn, make_mlp, make_model

SAMPLE = draw(4, 3, 8, 8, seed=1)


def _grown(norm: str = "batch") -> fx.GraphModule:
    """Three fossils, each with another form of blending."""
    model = make_model(make_cnn(norm=norm))
    for slot_id, blueprint, blend in zip(
        model.slot_ids, ("attention", "norm", "conv_heavy"), BlendForm, strict=True
    ):
        grow(model, slot_id, SeedStage.FOSSILIZED, blueprint=blueprint, blend=blend)
    return export_model(model, SAMPLE)


def _trace(network: nn.Module) -> fx.GraphModule:
    return fx.GraphModule(network, fx.Tracer().trace(network)).eval()


def _write(network: nn.Module) -> PlainSource:
    return build_plain_source(_trace(network), input_shape=(4,), num_outputs=2)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_the_text_is_a_class_of_torch_layers_and_a_loader(norm: str) -> None:
    source = build_plain_source(_grown(norm), input_shape=(3, 8, 8), num_outputs=5)
    tree = ast.parse(source.text)
    imported = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported == {"__future__", "pathlib", "torch", "safetensors.torch"}
    names = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    assert names == ["GrownNetwork", "load"]
    assert "[B, 3, 8, 8] float32 -> [B, 5]" in source.text
    assert "self.host_block1_0 = nn.Conv2d(3, 4, kernel_size=(3, 3)" in source.text
    assert "self.slots_block2_seed_branch_gate = nn.Parameter(torch.empty((1,), dtype=torch.float32))" in (
        source.text
    )
    assert " = None\n" not in source.text
    assert "esper." not in source.text


def test_the_tensors_are_those_of_the_network_under_flat_names_and_share_no_memory() -> None:
    network = _grown()
    source = build_plain_source(network, input_shape=(3, 8, 8), num_outputs=5)
    expected = {name.replace(".", "_"): tensor for name, tensor in network.state_dict().items()}
    given = {name.replace(".", "_"): tensor for name, tensor in source.tensors.items()}
    assert given.keys() == expected.keys()
    assert all(torch.equal(given[name], expected[name]) for name in expected)
    own = {tensor.data_ptr() for tensor in expected.values()}
    assert not own & {tensor.data_ptr() for tensor in given.values()}


def test_the_network_and_the_random_stream_are_left_as_they_are() -> None:
    network = _grown()
    code, before = network.code, copy.deepcopy(network.state_dict())
    stream = torch.get_rng_state()
    build_plain_source(network, input_shape=(3, 8, 8), num_outputs=5)
    assert network.code == code
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), stream)


def test_every_layer_says_where_it_lives_in_the_grown_network() -> None:
    model = make_model(make_mlp(norm="layer"), sample=draw(2, 6))
    grow(model, "hidden1", SeedStage.FOSSILIZED, blueprint="mlp", blend=BlendForm.GATE)
    source = build_plain_source(export_model(model, draw(4, 6)), input_shape=(6,), num_outputs=3)
    by_name = {layer.name: layer for layer in source.layers}
    assert by_name["slots_hidden1_seed_gate_reduce"].path == "slots.hidden1.seed.gate.reduce"
    assert by_name["host_head"].text == "nn.Linear(in_features=8, out_features=3, bias=True)"
    assert source.layers[0].name == "host_hidden1_0"


class _Pair(nn.Module):
    """Paths that become one attribute name, one that nn.Module has itself, a layer used twice, a buffer."""

    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a_b = nn.Linear(4, 4)
        self.a = nn.ModuleDict({"b": nn.Linear(4, 4)})
        self.inner = nn.ModuleDict({"0": nn.ReLU()})
        self.register_buffer("offset", torch.ones(4))
        self.add_module("1st", nn.Linear(4, 2))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden: Tensor = self.a["b"](self.inner["0"](self.a_b(inputs)))
        out: Tensor = self.get_submodule("1st")(self.inner["0"](hidden + self.offset))
        return out


def test_names_that_would_clash_are_kept_apart_and_a_shared_layer_is_written_once() -> None:
    source = _write(_Pair())
    assert [layer.name for layer in source.layers] == ["a_b", "inner_0", "a_b_2", "offset", "part_1st"]
    assert 'self.register_buffer("offset", torch.empty((4,), dtype=torch.float32))' in source.text


class _Odd(nn.Module):
    """One layer that is put in from outside."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.odd = layer

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.odd(inputs)
        return out


class _Renamed(nn.Linear):
    """Not a class of torch.nn, although torch's own module name is written on it."""


_Renamed.__module__ = "torch.nn.modules.linear"


def _sly(kind: type[nn.Module], text: str) -> nn.Module:
    """A layer of torch whose description is another one's."""
    layer = kind() if kind is nn.Identity else nn.ReLU()
    layer.extra_repr = lambda: text  # type: ignore[method-assign]
    return layer


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.TransformerEncoderLayer(4, 2), "is no simple layer of torch.nn"),
        (_Renamed(4, 2), "is no simple layer of torch.nn"),
        (_sly(nn.Identity, "__import__('os')"), "does not build it"),
        (_sly(nn.Identity, "a b"), "does not build it"),
        (_sly(nn.ReLU, "1, 2, 3"), "does not build it"),
        (_sly(nn.ReLU, ""), None),
        (_sly(nn.ReLU, "False"), "builds another layer"),
    ],
)
def test_a_layer_whose_description_does_not_build_it_is_refused(layer: nn.Module, why: str | None) -> None:
    if why is None:
        assert "self.odd = nn.ReLU()" in _write(_Odd(layer)).text
        return
    with pytest.raises(ExportError, match=rf"odd \(.*{why}.*-o FILE\.pt2"):
        _write(_Odd(layer))


class _Two(nn.Module):
    def forward(self, inputs: Tensor, others: Tensor) -> Tensor:
        return inputs + others


class _Infinite(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.masked_fill(inputs > 0, float("inf"))


@pytest.mark.parametrize(
    ("network", "why"), [(_Two(), "one function of one input"), (_Infinite(), "uses inf")]
)
def test_a_graph_that_is_no_plain_code_is_refused(network: nn.Module, why: str) -> None:
    with pytest.raises(ExportError, match=rf"{why}.*-o FILE\.pt2"):
        _write(network)
