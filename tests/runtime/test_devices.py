from __future__ import annotations

from pathlib import Path

import pytest
import torch

from esper.leyline import ConfigError
from esper.runtime.devices import available_devices, available_memory, resolve_device, set_threads


def _pretend(monkeypatch: pytest.MonkeyPatch, *, num_cuda: int = 0, has_mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)


def test_the_cpu_is_always_there(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch)
    assert available_devices() == ("cpu",)
    assert resolve_device("cpu") == resolve_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("num_cuda", "has_mps", "expected"), [(2, False, "cuda:0"), (0, True, "mps"), (1, True, "cuda:0")]
)
def test_auto_takes_the_first_accelerator(
    num_cuda: int, has_mps: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend(monkeypatch, num_cuda=num_cuda, has_mps=has_mps)
    assert resolve_device("auto") == torch.device(expected)


def test_cuda_without_a_number_is_the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, num_cuda=2)
    assert resolve_device("cuda") == torch.device("cuda:0")
    assert resolve_device("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize("text", ["cuda", "cuda:2", "mps", "tpu", "", "cuda:-1"])
def test_a_device_that_is_not_here_is_refused_with_what_is(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend(monkeypatch, num_cuda=0 if text == "cuda" else 2)
    with pytest.raises(ConfigError, match="this machine has auto, cpu"):
        resolve_device(text)


def test_threads_are_set_and_zero_leaves_them() -> None:
    before = torch.get_num_threads()
    try:
        set_threads(2)
        assert torch.get_num_threads() == 2
        set_threads(0)
        assert torch.get_num_threads() == 2
    finally:
        set_threads(before)


def test_a_negative_thread_count_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_threads=-1"):
        set_threads(-1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MemTotal:       24684084 kB\nMemAvailable:   23513344 kB\nBuffers: 1 kB\n", 23513344 * 1024),
        ("MemTotal:       24684084 kB\n", None),
        ("", None),
    ],
)
def test_free_memory_is_what_the_kernel_says(text: str, expected: int | None, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(text, encoding="ascii")
    assert available_memory(torch.device("cpu"), tmp_path / "meminfo") == expected


def test_free_memory_is_unknown_where_nobody_says(tmp_path: Path) -> None:
    assert available_memory(torch.device("cpu"), tmp_path / "none") is None
    assert available_memory(torch.device("meta")) is None


@pytest.mark.gpu
def test_free_memory_of_a_gpu_counts_what_the_allocator_holds_free() -> None:
    device = torch.device("cuda:0")
    held = torch.empty(64 * 2**20, dtype=torch.uint8, device=device)
    before = available_memory(device)
    del held
    after = available_memory(device)
    assert before is not None
    assert after is not None
    assert after - before >= 32 * 2**20
