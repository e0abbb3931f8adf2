"""Which device and how many threads: names to torch objects, refused here if this machine lacks them."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from esper.leyline import ConfigError

MEMINFO = Path("/proc/meminfo")
"""Where Linux says how much memory can be had without swapping."""


def available_devices() -> tuple[str, ...]:
    """Return the device names that work here: "cpu" first, then "cuda:<i>" and "mps"."""
    names = ["cpu"]
    if torch.cuda.is_available():
        names += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return tuple(names)


def resolve_device(text: str) -> torch.device:
    """Return the device of a name.

    Args:
        text: "cpu", "cuda" (the first one), "cuda:<i>", "mps", or "auto": the first of cuda, mps, cpu
            that works here.

    Raises:
        ConfigError: If the name is unknown or this machine lacks the device; lists what it has.
    """
    names = available_devices()
    if text == "auto":
        return torch.device(names[1] if len(names) > 1 else names[0])
    name = "cuda:0" if text == "cuda" else text
    if name not in names:
        listing = ", ".join(("auto", *names))
        raise ConfigError(f"host.device={text!r}: not available here; this machine has {listing}")
    return torch.device(name)


def available_memory(device: torch.device, meminfo: Path = MEMINFO) -> int | None:
    """Return the bytes that can still be allocated on a device; None where nobody says.

    Args:
        device: On CUDA its own word, with what torch's allocator holds free; on the CPU the kernel's estimate
            for the whole machine, which knows nothing of a limit on this process.
        meminfo: Where the kernel tells.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    try:
        text = meminfo.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE)
    return None if found is None else 1024 * int(found[1])


def set_threads(num_threads: int) -> None:
    """Set torch's CPU threads for this process; 0 leaves torch's own choice.

    Raises:
        ConfigError: If the number is negative.
    """
    if num_threads < 0:
        raise ConfigError(f"num_threads={num_threads}: must be >= 0")
    if num_threads:
        torch.set_num_threads(num_threads)
