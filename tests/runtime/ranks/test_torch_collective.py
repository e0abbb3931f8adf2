from __future__ import annotations

import math
from pathlib import Path

import pytest

from esper.leyline import Collective, RanksDisagreeError
from esper.runtime.ranks.channel import Channel
from esper.runtime.ranks.torch_collective import TorchCollective
from runtime.ranks.thread_ranks import run_ranks

PARTS = [0.1, 1e16, -0.7]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_sums_maxima_and_copies_are_right_and_have_the_same_bits_on_all_ranks(
    world_size: int, tmp_path: Path
) -> None:
    def work(channel: Channel) -> list[list[str]]:
        collective: Collective = TorchCollective(channel)
        assert (collective.rank, collective.world_size) == (channel.place.rank, world_size)
        values = [float(collective.rank), PARTS[collective.rank], 2.0**60]
        answers = (collective.all_sum(values), collective.all_max(values), collective.broadcast(values))
        return [[value.hex() for value in answer] for answer in answers]

    first, *rest = run_ranks(tmp_path, world_size, work)
    assert isinstance(first, list)
    total, most, copy = ([float.fromhex(text) for text in texts] for texts in first)
    parts = PARTS[:world_size]
    assert total == [sum(range(world_size)), pytest.approx(math.fsum(parts)), world_size * 2.0**60]
    assert most == [world_size - 1, max(parts), 2.0**60]
    assert copy == [0.0, 0.1, 2.0**60]
    assert all(other == first for other in rest)


def test_empty_sequences_are_allowed(tmp_path: Path) -> None:
    def work(channel: Channel) -> list[list[float]]:
        collective = TorchCollective(channel)
        return [collective.all_sum([]), collective.all_max([]), collective.broadcast([])]

    assert run_ranks(tmp_path, 2, work) == [[[], [], []]] * 2


@pytest.mark.parametrize("texts", [[b"", b"\x00\xff" * 5000, b"a"], [b"", b"", b""], [b"x", b"y", b"z"]])
def test_bytes_of_any_length_arrive_whole_and_in_the_order_of_the_ranks(
    texts: list[bytes], tmp_path: Path
) -> None:
    def work(channel: Channel) -> list[bytes]:
        return TorchCollective(channel).gather_bytes(texts[channel.place.rank])

    assert run_ranks(tmp_path, 3, work) == [texts] * 3


def test_nan_on_one_rank_is_the_maximum_on_all(tmp_path: Path) -> None:
    def work(channel: Channel) -> list[float]:
        mine = math.nan if channel.place.rank == 1 else 5.0
        return TorchCollective(channel).all_max([mine, -math.inf])

    for answer in run_ranks(tmp_path, 3, work):
        assert isinstance(answer, list)
        assert math.isnan(answer[0])
        assert answer[1] == -math.inf


def test_ranks_agree_only_if_all_texts_are_equal(tmp_path: Path) -> None:
    def work(channel: Channel) -> list[bool]:
        collective = TorchCollective(channel)
        odd = "other" if channel.place.rank == 2 else "same"
        return [collective.all_agree("same" * 1000), collective.all_agree(odd), collective.all_agree("")]

    assert run_ranks(tmp_path, 3, work) == [[True, False, True]] * 3


@pytest.mark.parametrize("name", ["all_sum", "all_max", "broadcast"])
def test_unequal_lengths_are_refused_by_every_rank(name: str, tmp_path: Path) -> None:
    def work(channel: Channel) -> None:
        call = getattr(TorchCollective(channel), name)
        call([1.0] * channel.place.rank)

    for error in run_ranks(tmp_path, 2, work):
        assert isinstance(error, RanksDisagreeError)
        assert str(error) == f"{name} got sequences of unequal length: 0 on rank 0; 1 on rank 1"
