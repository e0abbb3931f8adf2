from __future__ import annotations

import pytest
import torch

from esper.data.splits import ArraySplit, check_labels, choose_rows, compute_channel_stats
from esper.leyline import ConfigError, DataError


def _split(inputs: torch.Tensor) -> ArraySplit:
    return ArraySplit(inputs=inputs, targets=torch.zeros(inputs.shape[0], dtype=torch.int64), source="here")


def test_channel_stats_are_those_of_the_unit_scale() -> None:
    inputs = torch.tensor([[0, 255], [255, 255], [0, 0], [255, 0]], dtype=torch.uint8).reshape(4, 1, 1, 2)
    mean, std = compute_channel_stats(_split(inputs))
    assert mean == pytest.approx((0.5, 0.5))
    assert std == pytest.approx((0.5, 0.5))


def test_channel_stats_of_floats_are_taken_as_they_are() -> None:
    mean, std = compute_channel_stats(_split(torch.tensor([[1.0, 2.0], [3.0, 10.0]])))
    assert mean == pytest.approx((2.0, 6.0))
    assert std == pytest.approx((1.0, 4.0))


def test_channel_stats_over_many_chunks_equal_the_direct_ones() -> None:
    inputs = torch.arange(1_200_000, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(-1, 1)
    mean, std = compute_channel_stats(_split(inputs))
    direct = inputs.double() / 255
    assert mean[0] == pytest.approx(float(direct.mean()), rel=1e-12)
    assert std[0] == pytest.approx(float(direct.std(correction=0)), rel=1e-12)


@pytest.mark.parametrize("value", [3.0, float("inf"), float("nan")])
def test_constant_or_non_finite_channel_is_refused(value: float) -> None:
    with pytest.raises(DataError, match="channel 1 has standard deviation"):
        compute_channel_stats(_split(torch.tensor([[1.0, value], [2.0, value]])))


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [
        (torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 3, 3), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int32)),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)),
        (torch.zeros(2, 0), torch.zeros(2, dtype=torch.int64)),
    ],
)
def test_split_of_another_shape_or_type_is_refused(inputs: torch.Tensor, targets: torch.Tensor) -> None:
    with pytest.raises(DataError, match="expected"):
        ArraySplit(inputs=inputs, targets=targets)


def test_chosen_rows_are_fixed_nested_and_ascending() -> None:
    small, large = choose_rows("a", 1000, 10).tolist(), choose_rows("a", 1000, 100).tolist()
    assert small == [63, 68, 121, 438, 450, 584, 587, 781, 845, 968]
    assert set(small) <= set(large)
    assert large == sorted(large)
    assert choose_rows("b", 1000, 10).tolist() != small
    assert choose_rows("a", 5, 5).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("num_rows", [0, 6])
def test_choice_out_of_range_is_refused(num_rows: int) -> None:
    with pytest.raises(ConfigError, match="choose 1 to 5"):
        choose_rows("a", 5, num_rows)


def test_first_bad_label_is_named() -> None:
    with pytest.raises(DataError, match="file: record 1 has label -1"):
        check_labels(torch.tensor([0, -1, 9]), 3, "file")
    check_labels(torch.tensor([0, 2]), 3, "file")
