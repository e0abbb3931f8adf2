from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from esper.leyline import RanksDisagreeError
from esper.runtime.ranks.channel import Channel
from esper.runtime.ranks.gradients import MeanGradients, copy_weights, plan_buckets
from runtime.ranks.thread_ranks import run_ranks

SHAPES = ((3, 4), (), (5,), (0,))


def build_parameters(dtype: torch.dtype) -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in SHAPES]


def draw_gradients(rank: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]


def reduce_on_ranks(
    folder: Path, world_size: int, dtype: torch.dtype, *, is_ordered: bool
) -> Sequence[list[Tensor]]:
    def work(channel: Channel) -> list[Tensor]:
        parameters = build_parameters(dtype)
        for parameter, gradient in zip(parameters, draw_gradients(channel.place.rank, dtype), strict=True):
            parameter.grad = gradient
        before = [parameter.grad for parameter in parameters]
        MeanGradients(channel, is_ordered=is_ordered)(parameters)
        assert all(parameter.grad is old for parameter, old in zip(parameters, before, strict=True))
        return [parameter.grad for parameter in parameters if parameter.grad is not None]

    results = run_ranks(folder, world_size, work)
    return [result for result in results if not isinstance(result, Exception)]


def serial_mean(world_size: int, dtype: torch.dtype) -> list[Tensor]:
    total, *rest = (draw_gradients(rank, dtype) for rank in range(world_size))
    for gradients in rest:
        total = [mine + other for mine, other in zip(total, gradients, strict=True)]
    return [gradient / world_size for gradient in total]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_added_in_order_the_mean_over_ranks_is_exactly_the_serial_one(
    world_size: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    found = reduce_on_ranks(tmp_path, world_size, dtype, is_ordered=True)
    assert len(found) == world_size
    for gradients in found:
        for mine, expected in zip(gradients, serial_mean(world_size, dtype), strict=True):
            assert torch.equal(mine, expected)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-15), (torch.float32, 1e-6)])
def test_added_in_any_order_it_is_close_and_has_the_same_bits_on_all_ranks(
    dtype: torch.dtype, tolerance: float, tmp_path: Path
) -> None:
    first, *rest = reduce_on_ranks(tmp_path, 3, dtype, is_ordered=False)
    for mine, expected in zip(first, serial_mean(3, dtype), strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=tolerance)
    assert len(rest) == 2
    for other in rest:
        assert all(torch.equal(mine, its) for mine, its in zip(first, other, strict=True))


@pytest.mark.parametrize("is_ordered", [False, True])
def test_a_missing_gradient_counts_as_zeros_and_is_there_afterwards(is_ordered: bool, tmp_path: Path) -> None:
    def work(channel: Channel) -> list[float]:
        parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
        if channel.place.rank == 1:
            parameters[0].grad = torch.tensor([3.0])
        MeanGradients(channel, is_ordered=is_ordered)(parameters)
        return [float(parameter.grad) for parameter in parameters if parameter.grad is not None]

    assert run_ranks(tmp_path, 2, work) == [[1.5, 0.0]] * 2


def test_no_parameters_are_no_reason_to_hang(tmp_path: Path) -> None:
    assert run_ranks(tmp_path, 2, lambda channel: MeanGradients(channel)([])) == [None, None]


def test_gradients_that_lie_transposed_are_averaged_by_place(tmp_path: Path) -> None:
    def work(channel: Channel) -> list[float]:
        parameter = nn.Parameter(torch.zeros(2, 3))
        parameter.grad = torch.arange(6.0).reshape(3, 2).t() * (1 + channel.place.rank)
        MeanGradients(channel)([parameter])
        assert parameter.grad is not None
        return [float(value) for value in parameter.grad.reshape(-1)]

    assert run_ranks(tmp_path, 2, work) == [[0.0, 3.0, 6.0, 1.5, 4.5, 7.5]] * 2


def test_other_shapes_of_the_same_size_are_refused(tmp_path: Path) -> None:
    def work(channel: Channel) -> None:
        shape = (2, 3) if channel.place.rank else (3, 2)
        MeanGradients(channel)([nn.Parameter(torch.zeros(shape))])

    for error in run_ranks(tmp_path, 2, work):
        assert isinstance(error, RanksDisagreeError)
        assert "of other shapes, types or order" in str(error)


def test_buckets_keep_the_order_split_by_type_and_stay_below_their_size() -> None:
    single = [nn.Parameter(torch.zeros(n, dtype=torch.float32)) for n in (2, 3, 9, 1)]
    double = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    half = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    buckets = plan_buckets([*single[:2], double, *single[2:], half], max_bytes=20)
    sizes = [([p.numel() for p in bucket.parameters], bucket.dtype) for bucket in buckets]
    assert sizes == [
        ([2, 3], torch.float32),
        ([9], torch.float32),
        ([1, 1], torch.float32),
        ([2], torch.float64),
    ]


def test_gradients_in_several_buckets_all_come_back(tmp_path: Path) -> None:
    def work(channel: Channel) -> list[float]:
        parameters = [nn.Parameter(torch.zeros(7 * 2**20)) for _ in range(2)]
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, float(channel.place.rank))
        MeanGradients(channel)(parameters)
        assert len(plan_buckets(parameters)) == 2
        return [float(p.grad.sum()) / p.numel() for p in parameters if p.grad is not None]

    assert run_ranks(tmp_path, 2, work) == [[0.5, 0.5]] * 2


class Mixed(nn.Module):
    """Every kind of tensor that a module may hold."""

    flags: Tensor
    count: Tensor
    nothing: Tensor

    def __init__(self, fill: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((2, 3), fill).t())
        self.tied = self.weight
        self.small = nn.Parameter(torch.full((3,), fill, dtype=torch.bfloat16))
        self.register_buffer("flags", torch.tensor([fill > 0, True]))
        self.register_buffer("count", torch.tensor(int(fill)), persistent=False)
        self.register_buffer("nothing", torch.zeros(0))


def test_a_module_becomes_that_of_rank_0_bit_by_bit(tmp_path: Path) -> None:
    def work(channel: Channel) -> list[object]:
        module = Mixed(-7.3 if channel.place.rank == 0 else 1.0)
        weight = module.weight
        copy_weights(module, channel)
        assert module.weight is weight
        return [module.weight.tolist(), module.small.tolist(), module.flags.tolist(), module.count.tolist()]

    expected = Mixed(-7.3)
    for found in run_ranks(tmp_path, 3, work):
        assert found == [expected.weight.tolist(), expected.small.tolist(), [False, True], -7]


def test_modules_of_other_layout_are_refused(tmp_path: Path) -> None:
    def work(channel: Channel) -> None:
        copy_weights(nn.Linear(2, 3) if channel.place.rank else nn.Linear(3, 2), channel)

    for error in run_ranks(tmp_path, 2, work):
        assert isinstance(error, RanksDisagreeError)
