from __future__ import annotations

import pytest
import torch

from esper.kasmina import CNNHost, CNNHostConfig, SegmentedHost, count_trainable
from esper.leyline import ConfigError
from kasmina.growing import draw, make_cnn


def test_parameter_count_is_known() -> None:
    # 216 + 16, 1152 + 32, 4608 + 64 in the blocks, 330 in the head
    assert count_trainable(CNNHost(CNNHostConfig(in_channels=3, num_classes=10))) == 6_418


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("num_pools", [0, 2, 3])
def test_forward_is_the_chain_of_its_segments(norm: str, num_pools: int) -> None:
    config = CNNHostConfig(in_channels=1, num_classes=4, norm=norm, num_pools=num_pools, dropout=0.1)
    host = CNNHost(config).eval()
    hidden = inputs = draw(2, 1, 8, 8)
    for _, segment in host.segments():
        hidden = segment(hidden)
    assert isinstance(host, SegmentedHost)
    assert host(inputs).shape == (2, 4)
    assert torch.equal(host(inputs), hidden)


def test_points_stand_after_each_block() -> None:
    host = make_cnn()
    points = host.injection_points()
    assert [point.path for point in points] == [name for name, _ in host.segments()][:-1]
    assert [point.num_channels for point in points] == [4, 8, 16]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("in_channels", 0), ("num_classes", 0), ("base_channels", 0), ("num_blocks", 1), ("kernel_size", 4),
        ("num_pools", -1), ("norm", "bach"), ("dropout", 1.0),
    ],
)  # fmt: skip
def test_setting_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    settings: dict[str, object] = {"in_channels": 3, "num_classes": 10, field: value}
    with pytest.raises(ConfigError, match=rf"model\.{field}="):
        CNNHostConfig(**settings)  # type: ignore[arg-type]
