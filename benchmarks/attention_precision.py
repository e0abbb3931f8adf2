"""In which precision is attention fastest? Forward and backward pass of torch's kernel, shape by shape.

    python benchmarks/attention_precision.py benchmarks/attention_precision.jsonl [--rounds 15] [--device cpu]

    float32   float32 queries, keys and values
    bf16      bf16 ones, as autocast hands them on
    cast      bf16 ones cast to float32 and the result cast back: what `CausalSelfAttention` does on a CPU

The three in turn, one thread, causal. One row per shape and way with the seconds of every round; the file is
written anew. On a CPU the times are CPU seconds, on an accelerator wall seconds up to the moment at which it
stands idle.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from roofline import read_clock
from torch import Tensor
from torch.nn import functional as F

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
SHAPES = (
    (32, 2, 64, 16),
    (32, 4, 64, 32),
    (32, 4, 64, 64),
    (8, 4, 256, 16),
    (8, 4, 256, 64),
    (4, 4, 512, 64),
    (2, 4, 1024, 64),
)
"""Items, heads, positions, size of a head; the first two are of the hosts of benchmarks/precision.py."""


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return causal attention [B, H, T, D] as torch computes it in the inputs' precision."""
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


def attend_cast(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the same, computed in float32."""
    return attend(query.float(), key.float(), value.float()).to(query.dtype)


WAYS: Mapping[str, tuple[torch.dtype, Attend]] = {
    "float32": (torch.float32, attend),
    "bf16": (torch.bfloat16, attend),
    "cast": (torch.bfloat16, attend_cast),
}


def time_way(way: str, shape: tuple[int, ...], device: torch.device) -> float:
    """Return the seconds of one forward and backward pass."""
    dtype, function = WAYS[way]
    generator = torch.Generator(device).manual_seed(0)
    inputs = [
        torch.randn(shape, generator=generator, device=device).to(dtype).requires_grad_() for _ in range(3)
    ]
    started = read_clock(device)
    function(*inputs).sum().backward()  # type: ignore[no-untyped-call]
    return read_clock(device) - started


def measure(num_rounds: int, device: torch.device) -> list[dict[str, object]]:
    """Return one row per shape and way; the first round warms up and is not in it."""
    rows: list[dict[str, object]] = []
    for shape in SHAPES:
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(num_rounds + 1):
            for way in WAYS:
                seconds[way].append(time_way(way, shape, device))
        for way in WAYS:
            row = {"shape": list(shape), "way": way, "seconds": seconds[way][1:]}
            rows.append(
                {**row, "device": str(device), "torch": torch.__version__, "threads": torch.get_num_threads()}
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Attention in float32, in bf16, and cast, in turn.")
    parser.add_argument("out", type=Path, help="JSON lines, written anew")
    parser.add_argument("--rounds", type=int, default=15, help="passes per shape and way, >= 1")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:<i> or mps")
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error(f"--rounds={given.rounds}: must be >= 1")
    torch.set_num_threads(1)
    rows = measure(given.rounds, torch.device(given.device))
    for row in rows:
        seconds = row["seconds"]
        assert isinstance(seconds, list)
        print(f"{row['shape']!s:<18} {row['way']:<8} {statistics.median(seconds) * 1e3:>8.2f} ms")
    given.out.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
