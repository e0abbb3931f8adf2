from __future__ import annotations

import pytest
import torch

from esper.kasmina import MLPHost, MLPHostConfig, SegmentedHost, count_trainable
from esper.leyline import ConfigError, Layout
from kasmina.growing import draw


def test_parameter_count_is_known() -> None:
    assert count_trainable(MLPHost(MLPHostConfig(num_inputs=64, num_classes=10))) == 2_080 + 1_056 + 330


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_forward_flattens_and_is_the_chain_of_its_segments(norm: str) -> None:
    host = MLPHost(
        MLPHostConfig(num_inputs=12, num_classes=3, hidden=(5, 7, 4), norm=norm, dropout=0.1)
    ).eval()
    hidden = inputs = draw(2, 3, 2, 2)
    for _, segment in host.segments():
        hidden = segment(hidden)
    assert isinstance(host, SegmentedHost)
    assert torch.equal(host(inputs), hidden)
    assert hidden.shape == (2, 3)


def test_points_stand_after_each_hidden_layer() -> None:
    points = MLPHost(MLPHostConfig(num_inputs=4, num_classes=2, hidden=(5, 7))).injection_points()
    assert [(point.path, point.num_channels) for point in points] == [("hidden1", 5), ("hidden2", 7)]
    assert {point.layout for point in points} == {Layout.FLAT}


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_inputs", 0), ("num_classes", 0), ("hidden", (3, 0)), ("norm", "group"), ("dropout", -0.1)],
)
def test_setting_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    settings: dict[str, object] = {"num_inputs": 4, "num_classes": 2, field: value}
    with pytest.raises(ConfigError, match=rf"model\.{field}="):
        MLPHostConfig(**settings)  # type: ignore[arg-type]


def test_no_hidden_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.hidden is empty"):
        MLPHostConfig(num_inputs=4, num_classes=2, hidden=())
