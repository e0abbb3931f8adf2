from __future__ import annotations

import pytest
import torch

from esper.kasmina import is_allocation_failure


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
        ),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("MPS backend out of memory"),
    ],
    ids=lambda error: f"{type(error).__name__} {error}"[:40],
)
def test_what_allocators_say_is_recognised(error: BaseException) -> None:
    assert is_allocation_failure(error)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shapes differ"), ValueError("not enough memory"), KeyError("out of memory")],
    ids=str,
)
def test_other_errors_are_not_taken_for_it(error: BaseException) -> None:
    assert not is_allocation_failure(error)


def test_a_real_failure_of_the_cpu_allocator_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_allocation_failure(caught.value)
