"""The block that seeds the global streams puts every one of them back (kasmina/seeded_build.py)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from esper.kasmina import build_seeded
from esper.kasmina.seeded_build import seeded_streams


def _build() -> nn.Linear:
    return nn.Linear(5, 7)


@pytest.mark.parametrize("other", [1, 2**32, 2**62], ids=["low bit", "bit 32", "bit 62"])
def test_seeds_that_differ_in_one_bit_give_other_weights(other: int) -> None:
    assert not torch.equal(build_seeded(_build, 0).weight, build_seeded(_build, other).weight)


def test_weights_do_not_depend_on_the_global_stream() -> None:
    first = build_seeded(_build, 3)
    torch.rand(11)
    assert torch.equal(first.weight, build_seeded(_build, 3).weight)


def test_nested_builds_leave_the_outer_stream_alone() -> None:
    with seeded_streams(1):
        expected = torch.rand(4)
    with seeded_streams(1):
        build_seeded(_build, 9)
        assert torch.equal(torch.rand(4), expected)


def test_cuda_in_use_is_forked_on_every_device_and_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[object] = []

    @contextmanager
    def fork(*, devices: Sequence[int]) -> Iterator[None]:
        log.append(list(devices))
        state = torch.get_rng_state()
        yield
        torch.set_rng_state(state)

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", log.append)
    monkeypatch.setattr(torch.random, "fork_rng", fork)
    with seeded_streams(2**32 + 5):
        pass
    assert log == [[0, 1], 4]


def test_cuda_not_in_use_is_neither_started_nor_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", log.append)
    build_seeded(_build, 1)
    assert log == []


@pytest.mark.gpu
def test_a_build_on_the_gpu_is_seeded_and_leaves_its_stream() -> None:
    torch.rand(1, device="cuda")
    before = torch.cuda.get_rng_state()
    first, second = (build_seeded(lambda: nn.Linear(5, 7, device="cuda"), 4) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(torch.cuda.get_rng_state(), before)
