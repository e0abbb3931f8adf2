"""Cost of one epoch of batches: SharedBatchIterator against DataLoader and against bare tensors.

    python benchmarks/data_path.py OUT.json [ROUNDS]

Five ways deal normalised float32 batches of the same items, in turn (A B C D E A B C D E ...):

    shared      SharedBatchIterator.row, one instance
    fleet       SharedBatchIterator.batch, four instances, per instance
    loader      torch.utils.data.DataLoader, num_workers=0, each item converted, normalised and stacked
    indexing    items[order[a:b]] of a normalised float32 tensor in memory
    select      items.index_select(0, order[a:b]) of the same tensor

The arrays are random and have the shapes of the sets. Ratios of medians of CPU time are what
counts: a single absolute time says nothing about another machine, and wall time measures the neighbours too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from esper.data import ArraySplit, SharedBatchIterator, compute_channel_stats, epoch_order

FLEET_SIZE = 4
WAYS = ("shared", "fleet", "loader", "indexing", "select")
SHAPES = (
    ("digits", 1_077, (8, 8, 1), 64),
    ("fashion_mnist", 10_000, (28, 28, 1), 128),
    ("emoji9", 5_363, (32, 32, 3), 128),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    wall_seconds: float
    cpu_seconds: float


class ItemDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    def __init__(self, split: ArraySplit, mean: torch.Tensor, std: torch.Tensor) -> None:
        self.split = split
        self.mean = mean
        self.std = std

    def __len__(self) -> int:
        return self.split.num_items

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.split.inputs[row].permute(2, 0, 1).to(torch.float32).div_(255.0)
        return image.sub_(self.mean).div_(self.std), self.split.targets[row]


def build_split(num_items: int, shape: tuple[int, ...]) -> ArraySplit:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(256, (num_items, *shape), generator=generator).to(torch.uint8)
    return ArraySplit(inputs=inputs, targets=torch.randint(10, (num_items,), generator=generator))


def build_ways(split: ArraySplit, batch_size: int) -> dict[str, Callable[[int], int]]:
    """One function per way; each deals an epoch and returns how many items one instance got."""
    mean, std = compute_channel_stats(split)
    cpu = torch.device("cpu")
    single = SharedBatchIterator(split, [0], batch_size, device=cpu, mean=mean, std=std)
    fleet = SharedBatchIterator(split, range(FLEET_SIZE), batch_size, device=cpu, mean=mean, std=std)
    mean_c11, std_c11 = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)
    loader = DataLoader(
        ItemDataset(split, mean_c11, std_c11),
        batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(0),
    )
    images = split.inputs.permute(0, 3, 1, 2).to(torch.float32).div_(255.0).sub_(mean_c11).div_(std_c11)

    def deal_shared(epoch: int) -> int:
        return sum(single.row(epoch, index, 0).targets.shape[0] for index in range(single.num_batches))

    def deal_fleet(epoch: int) -> int:
        return sum(fleet.batch(epoch, index).targets.shape[1] for index in range(fleet.num_batches))

    def deal_loader(_epoch: int) -> int:
        return sum(int(targets.shape[0]) for _, targets in loader)

    def deal_rows(epoch: int, take: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> int:
        order = epoch_order(0, epoch, split.num_items)
        count = 0
        for start in range(0, split.num_items, batch_size):
            rows = order[start : start + batch_size]
            batch, targets = take(images, rows), take(split.targets, rows)
            count += min(int(batch.shape[0]), int(targets.shape[0]))
        return count

    def deal_indexing(epoch: int) -> int:
        return deal_rows(epoch, lambda items, rows: items[rows])

    def deal_select(epoch: int) -> int:
        return deal_rows(epoch, lambda items, rows: items.index_select(0, rows))

    return dict(zip(WAYS, (deal_shared, deal_fleet, deal_loader, deal_indexing, deal_select), strict=True))


def measure(split: ArraySplit, batch_size: int, num_rounds: int) -> dict[str, Timing]:
    """Medians per way over rounds in turn; the first round is not counted."""
    ways = build_ways(split, batch_size)
    taken: dict[str, list[Timing]] = {way: [] for way in ways}
    for epoch in range(num_rounds + 1):
        for way, deal in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            count = deal(epoch)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if count != split.num_items:
                raise RuntimeError(f"{way} dealt {count} items of {split.num_items}")
            share = FLEET_SIZE if way == "fleet" else 1
            if epoch:
                taken[way].append(Timing(wall_seconds=wall / share, cpu_seconds=cpu / share))
    return {
        way: Timing(
            wall_seconds=statistics.median(timing.wall_seconds for timing in timings),
            cpu_seconds=statistics.median(timing.cpu_seconds for timing in timings),
        )
        for way, timings in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of one epoch of batches, five ways in turn.")
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("rounds", type=int, nargs="?", default=15, help="epochs per way, >= 1")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"rounds={arguments.rounds}: must be >= 1")
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    print(f"{'set':<14} {'way':<9} {'ms/epoch':>9} {'CPU ms':>9} {'shared = 1':>11}")
    for name, num_items, shape, batch_size in SHAPES:
        timings = measure(build_split(num_items, shape), batch_size, arguments.rounds)
        base = timings["shared"].cpu_seconds
        for way, timing in timings.items():
            ratio = timing.cpu_seconds / base
            wall, cpu = timing.wall_seconds * 1e3, timing.cpu_seconds * 1e3
            print(f"{name:<14} {way:<9} {wall:>9.3f} {cpu:>9.3f} {ratio:>11.2f}")
            rows.append({"set": name, "way": way, "wall_ms": wall, "cpu_ms": cpu, "ratio_to_shared": ratio})
    document = {
        "format": 1,
        "torch": torch.__version__,
        "threads": 1,
        "rounds": arguments.rounds,
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
