"""What should seeds learn by in other people's loops: their true loss, or the regression?

    python benchmarks/loop_lessons.py OUT.jsonl [--seeds 1000-1009]

The small ResNet of `examples/own_fit.py` on digits, with 2 or 4 channels, trained by `esper.fit` at three
settings: never grown, grown under each objective, and grown without the heuristic's rule on credit. One row
per run, a table of means at the end; rows that are there are not run again. About a quarter of an hour on one
core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import esper
from esper.kasmina.seeded_build import seeded_streams
from esper.runtime.fit_batches import measure_accuracy
from esper.tamiyo import HeuristicConfig, HeuristicTamiyo

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from digits import load_digits  # type: ignore[import-not-found]

SETTINGS = ((4, 3e-3), (4, 5e-3), (2, 5e-3))
"""(channels, learning rate)."""
ARMS = ("never", "residual", "shadow", "shadow, no rule on credit")
EPOCHS = 50


class Block(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, width: int) -> None:
        """Keep the width."""
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(1, width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(1, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        return torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))


class TinyResNet(nn.Module):
    """Images [B, 1, 8, 8] to 10 logits."""

    def __init__(self, width: int) -> None:
        """Build stem, two stages and head."""
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.stages = nn.Sequential(nn.Sequential(Block(width), nn.MaxPool2d(2)), Block(width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, 10]."""
        out: Tensor = self.head(self.stages(self.stem(x)).mean(dim=(2, 3)))
        return out


def run(width: int, rate: float, arm: str, seed: int) -> dict[str, object]:
    """Train one network and return its row."""
    rules = HeuristicConfig(ransomware_threshold=1e9) if arm == ARMS[3] else HeuristicConfig()
    with seeded_streams(seed):
        train, validation = load_digits()
        loaders = DataLoader(train, 32, shuffle=True), DataLoader(validation, 360)
        grown = esper.grow(
            TinyResNet(width),
            at=["stem", "stages.*"],
            sample=validation.tensors[0][:2],
            blueprints=["conv", "norm"],
            policy="never" if arm == "never" else HeuristicTamiyo(rules),
            budget=esper.Budget(params=3.0, seeds=4),
        )
        result = esper.fit(
            grown,
            *loaders,
            loss=nn.CrossEntropyLoss(),
            metrics={"accuracy": measure_accuracy},
            optimizer=lambda named: torch.optim.AdamW(named, lr=rate),
            epochs=EPOCHS,
            incubation="residual" if arm == "residual" else "shadow",
            progress=False,
        )
    kept = sum(grown[slot].stage == "FOSSILIZED" for slot in grown.slot_ids)
    accuracy = result.score(loaders[1])["accuracy"]
    return {"width": width, "rate": rate, "arm": arm, "seed": seed, "accuracy": accuracy, "kept": kept}


def main() -> None:
    """Run what has no row yet, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default="1000-1009", help="first-last")
    given = parser.parse_args()
    first, last = map(int, given.seeds.split("-"))
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    done = {(row["width"], row["rate"], row["arm"], row["seed"]) for row in rows}
    for width, rate in SETTINGS:
        for arm in ARMS:
            for seed in range(first, last + 1):
                if (width, rate, arm, seed) not in done:
                    rows.append(run(width, rate, arm, seed))
                    with given.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    print("channels  rate   arm                        runs  accuracy  kept")
    for width, rate in SETTINGS:
        for arm in ARMS:
            found = [row for row in rows if (row["width"], row["rate"], row["arm"]) == (width, rate, arm)]
            mean = statistics.fmean(row["accuracy"] for row in found)
            kept = sum(row["kept"] for row in found)
            print(f"{width:8}  {rate:<5}  {arm:<25}  {len(found):4}  {mean:8.1%}  {kept:4}")


if __name__ == "__main__":
    main()
