from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.kasmina import GrowthPoint, PointWishes, find_growth_points
from esper.kasmina.growth_points import MAX_PROPOSED
from esper.kasmina.pair_points import matches
from esper.leyline import HostError, Layout, UnknownNameError
from kasmina.growing import draw, make_cnn, make_mlp
from kasmina.strangers import Encoder, Patches, Shared, SmallResNet, Wave, build

IMAGES = draw(2, 3, 8, 8)
TOKENS = {"input_ids": torch.zeros(2, 5, dtype=torch.int64), "attention_mask": torch.ones(2, 5)}


def _find(host: nn.Module, inputs: object, **wishes: object) -> dict[str, GrowthPoint]:
    points = find_growth_points(host, inputs, PointWishes(**wishes))  # type: ignore[arg-type]
    return {point.point.slot_id: point for point in points}


@pytest.mark.parametrize(
    ("path", "pattern", "is_match"),
    [
        ("stages.0", "stages.*", True),
        ("stages.0.conv1", "stages.*", False),
        ("stages.0.conv1", "stages.**", True),
        ("stages", "stages.**", True),
        ("a.b.mlp", "**.mlp", True),
        ("mlp", "**.mlp", True),
        ("layer1", "layer[12]", True),
        ("layer3", "layer[12]", False),
        ("layer10", "layer?", False),
    ],
)
def test_globs_go_part_by_part(path: str, pattern: str, is_match: bool) -> None:
    assert matches(path, pattern) is is_match


def test_a_glob_takes_what_fits_in_forward_order() -> None:
    points = _find(build(SmallResNet), IMAGES, at=("neck", "stages.*"))
    assert list(points) == ["stages.0", "stages.1", "neck"]
    assert points["stages.1"].point.num_channels == 16
    assert points["stages.1"].shape == (2, 16, 4, 4)
    assert points["neck"].reason == "asked for by 'neck'"


def test_a_tuple_needs_select_and_the_message_names_the_places() -> None:
    with pytest.raises(
        HostError, match=r"'layers.0' returns tuple, not a tensor: choose one of select=0 \[2, 5, 8\]"
    ):
        _find(build(Encoder), TOKENS, at=("layers.*",))
    points = _find(build(Encoder), TOKENS, at=("layers.*",), select=0)
    assert [point.point.layout for point in points.values()] == [Layout.SEQUENCE, Layout.SEQUENCE]
    by_glob = _find(build(Encoder), TOKENS, at=("layers.*",), select={"layers.*": 0})
    assert by_glob == points


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("again", "'again' is called 3 times in one forward pass, a seed there would run 3 times"),
        ("never", "'never' is never called.*did you mean 'once'|'never' is never called"),
        ("onse", "at='onse' fits no module of the host: did you mean 'once'"),
        ("head", "'head' returns what the model itself returns"),
        ("x.*", "fits no module"),
    ],
)
def test_what_cannot_grow_is_refused_by_name(at: str, message: str) -> None:
    with pytest.raises(HostError, match=message):
        _find(build(Shared), draw(3, 4), at=(at,))


def test_a_container_that_is_never_called_points_to_what_is_inside() -> None:
    with pytest.raises(HostError, match=r"a container only holds its children\): choose 'layers\.0\.\w+'"):
        _find(build(Encoder), TOKENS, at=("layers",))


def test_ambiguous_axes_ask_for_a_layout_and_take_it() -> None:
    host = nn.Sequential(nn.Unflatten(1, (4, 4)), nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(HostError, match=r"\[2, 4, 4\], which may be layout='ncl' or layout='nld': say which"):
        _find(host, draw(2, 16), at=("0",))
    assert _find(host, draw(2, 16), at=("0",), layout="ncl")["0"].point.num_channels == 4
    assert _find(host, draw(2, 16), at=("0",), layout={"0": "nld"})["0"].point.layout is Layout.SEQUENCE
    with pytest.raises(HostError, match="layout='nchw' has 4 axes"):
        _find(host, draw(2, 16), at=("0",), layout="nchw")


def test_an_unknown_layout_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'nhwc'"):
        PointWishes(layout="nhcw")


def test_other_ranks_are_refused_with_their_shape() -> None:
    host = nn.Sequential(nn.Unflatten(1, (2, 2, 2, 2)), nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(HostError, match=r"returns \[2, 2, 2, 2, 2\]: seeds know \[B, C\]"):
        _find(host, draw(2, 16), at=("0",))


def test_whole_numbers_are_refused() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count, self.head = _Count(), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(self.count(x).float())
            return out

    with pytest.raises(HostError, match="'count' returns whole numbers, seeds need a floating tensor"):
        _find(Counts(), draw(2, 4), at=("count",))


def test_a_declaration_of_the_model_wins_over_a_proposal_and_not_over_a_wish() -> None:
    declared = _find(make_cnn(), IMAGES)
    assert list(declared) == ["block1", "block2", "block3"]
    assert "injection_points()" in declared["block1"].reason
    assert list(_find(make_cnn(), IMAGES, at=("block1.0",))) == ["block1.0"]


@pytest.mark.parametrize(
    ("host", "inputs", "expected"),
    [
        (SmallResNet, IMAGES, ["stages.0.0", "stages.0", "stages.1.0", "stages.1"]),
        (Encoder, TOKENS, ["layers.0", "layers.1"]),
        (Wave, draw(2, 1, 9), ["conv1", "conv2"]),
        (Patches, IMAGES, ["mix"]),
        (Shared, draw(3, 4), ["once"]),
    ],
)
def test_proposals_are_the_blocks_of_a_model(
    host: type[nn.Module], inputs: object, expected: list[str]
) -> None:
    points = _find(build(host), inputs)
    assert list(points) == expected
    assert len(points) <= MAX_PROPOSED
    assert all(point.reason.startswith("proposed: ") for point in points.values())


def test_a_plain_chain_is_grown_after_its_activations() -> None:
    host = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    assert list(_find(host, draw(3, 4))) == ["1", "3"]


def test_a_model_in_which_nothing_fits_is_told_what_to_do() -> None:
    with pytest.raises(HostError, match=r"no growth point can be proposed.*name some by at="):
        _find(nn.Sequential(nn.Linear(4, 2)), draw(3, 4))


def test_the_own_hosts_are_found_as_they_declare_themselves() -> None:
    points = find_growth_points(make_mlp(), draw(2, 6), PointWishes())
    assert tuple(point.point for point in points) == make_mlp().injection_points()


class _Nests(nn.Module):
    """torch's encoder: with a mask, in eval mode, it hands nested tensors from layer to layer."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = self.encoder(x, src_key_padding_mask=mask)
        out: torch.Tensor = self.head(hidden.mean(dim=1))
        return out


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_layers_that_hand_on_nested_tensors_are_refused_with_the_setting_that_helps() -> None:
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    inputs = (draw(2, 5, 8), mask)
    with pytest.raises(
        HostError, match=r"'encoder.layers.0' returns nested tensors .* enable_nested_tensor=False"
    ):
        _find(_Nests(), inputs, at=("encoder.layers.*",))
    assert "encoder" in _find(_Nests(), inputs, at=("encoder",), layout="nld")


class _Count(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x > 0).long()
