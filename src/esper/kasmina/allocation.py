"""Which errors say that memory ran out: there are several, and one has no class of its own."""

from __future__ import annotations

import torch

_WORDS = ("defaultcpuallocator", "not enough memory", "can't allocate memory", "out of memory")


def is_allocation_failure(error: BaseException) -> bool:
    """Whether an error means that memory could not be had.

    The CPU allocator of torch raises a plain RuntimeError, which only its words tell from others.

    Example:
        >>> is_allocation_failure(MemoryError()), is_allocation_failure(ValueError())
        (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)
