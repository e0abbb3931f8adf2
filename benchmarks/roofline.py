"""The two ceilings of a machine: operations per second of a product, bytes per second of a copy and a sum.

    python benchmarks/roofline.py benchmarks/roofline.jsonl [--rounds 15] [--device cpu]

    product   C = A B of square matrices, 2 n^3 operations, in float32 and bf16
    copy      y = x, 2 n bytes moved
    sum       z = x + y, 3 n bytes moved

Sizes in turn, one thread. The working sets of copy and sum are 0.5, 12 and 384 MiB: they fit the second
cache of a core, the third one, or neither. One row per kind, type and size, with the rate of every round; the
file is written anew. No training step of a host can be faster than its operations over the first rate, or its
bytes over the second: docs/performance.md divides. On a CPU the times are CPU seconds, on an accelerator wall
seconds up to the moment at which it stands idle.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
PRODUCT_SIZES = (64, 256, 1024, 2048)
WORKING_SETS = (512 * 2**10, 12 * 2**20, 384 * 2**20)
MIN_SECONDS = 0.05
"""A round repeats its kernel for at least so long, so that the clock's grain does not show."""


@dataclass(slots=True, kw_only=True)
class Kernel:
    """One kernel at one size."""

    kind: str
    dtype: str
    size: int
    """Side of the matrices, or bytes of the working set."""
    work: int
    """Operations of a product; bytes moved by a copy or a sum."""
    call: Callable[[], object]
    repeats: int = 1
    rates: list[float] = field(default_factory=list)
    """Work per second, by round."""


def build_kernels(device: torch.device) -> list[Kernel]:
    """Return all kernels with their operands in place."""
    kernels = []
    for name, dtype in DTYPES.items():
        for side in PRODUCT_SIZES:
            left, right = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
            out = torch.empty(side, side, device=device, dtype=dtype)
            call = bind(torch.mm, left, right, out)
            kernels.append(Kernel(kind="product", dtype=name, size=side, work=2 * side**3, call=call))
    for num_bytes in WORKING_SETS:
        for kind, num_operands in (("copy", 2), ("sum", 3)):
            parts = [torch.rand(num_bytes // num_operands // 4, device=device) for _ in range(num_operands)]
            moved = sum(part.nbytes for part in parts)
            call = bind(torch.add, *parts) if kind == "sum" else bind_copy(*parts)
            kernels.append(Kernel(kind=kind, dtype="float32", size=num_bytes, work=moved, call=call))
    return kernels


def bind(
    function: Callable[..., object], left: torch.Tensor, right: torch.Tensor, out: torch.Tensor
) -> Callable[[], object]:
    """Return a call that writes `function(left, right)` to `out`."""
    return lambda: function(left, right, out=out)


def bind_copy(source: torch.Tensor, target: torch.Tensor) -> Callable[[], object]:
    """Return a call that copies."""
    return lambda: target.copy_(source)


def time_kernel(kernel: Kernel, device: torch.device) -> float:
    """Return the seconds of one round."""
    started = read_clock(device)
    for _ in range(kernel.repeats):
        kernel.call()
    return read_clock(device) - started


def read_clock(device: torch.device) -> float:
    """Return CPU seconds, or on an accelerator wall seconds once it stands idle."""
    if device.type == "cpu":
        return time.process_time()
    torch.accelerator.synchronize(device)
    return time.perf_counter()


def measure(kernels: list[Kernel], num_rounds: int, device: torch.device) -> None:
    """Find how often each kernel must be called, then time all of them in turn."""
    for kernel in kernels:
        while time_kernel(kernel, device) < MIN_SECONDS:
            kernel.repeats *= 2
    for _ in range(num_rounds):
        for kernel in kernels:
            kernel.rates.append(kernel.repeats * kernel.work / time_kernel(kernel, device))


def main() -> None:
    parser = argparse.ArgumentParser(description="Rates of matrix products, copies and sums.")
    parser.add_argument("out", type=Path, help="JSON lines, written anew")
    parser.add_argument("--rounds", type=int, default=15, help="times per kernel, >= 1")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:<i> or mps")
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error(f"--rounds={given.rounds}: must be >= 1")
    torch.set_num_threads(1)
    device = torch.device(given.device)
    kernels = build_kernels(device)
    measure(kernels, given.rounds, device)
    lines = []
    for kernel in kernels:
        rate = statistics.median(kernel.rates) / 1e9
        print(f"{kernel.kind:<8} {kernel.dtype:<8} {kernel.size:>10} {rate:>8.1f} G/s")
        row = {name: getattr(kernel, name) for name in ("kind", "dtype", "size", "work", "rates")}
        row |= {"device": str(device), "torch": torch.__version__, "threads": torch.get_num_threads()}
        lines.append(json.dumps(row, sort_keys=True) + "\n")
    given.out.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
