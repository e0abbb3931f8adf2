"""Models and loaders as a practitioner has them, small."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper.kasmina import build_seeded
from esper.runtime.api import grow
from esper.runtime.growable import Growable
from esper.tolaria import Budget
from tolaria.loop_toys import TRAIN, VALIDATION, Net

Batches = list[tuple[Tensor, Tensor]]


def train_batches(size: int = 32) -> Batches:
    """Return the training part as (inputs, classes)."""
    return list(zip(TRAIN[0].split(size), TRAIN[1].split(size), strict=True))


def validation_batches(size: int = 50) -> Batches:
    """Return the validation part, always in the same order."""
    return list(zip(VALIDATION[0].split(size), VALIDATION[1].split(size), strict=True))


def grow_net(*, norm: bool = False, policy: object = "never", seed: int = 0, **wishes: object) -> Growable:
    """Return `Net` with slots at `body` and `neck`."""
    host = build_seeded(lambda: Net(norm=norm), seed)
    return grow(host, sample=TRAIN[0][:2], at=["body", "neck"], policy=policy, **wishes)  # type: ignore[arg-type]


def item_losses(model: nn.Module) -> Tensor:
    """Return the validation loss of each item."""
    model.eval()
    with torch.no_grad():
        return nn.functional.cross_entropy(model(VALIDATION[0]), VALIDATION[1], reduction="none")


class TokenModel(nn.Module):
    """As Hugging Face models are: arguments by name, a mapping with its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.GELU()) for _ in range(2)])
        self.classifier = nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden = hidden + layer(hidden)
        logits = self.classifier(hidden.mean(dim=1))
        found = {"logits": logits}
        if labels is not None:
            found["loss"] = nn.functional.cross_entropy(logits, labels)
        return found


def token_batches(count: int, seed: int) -> list[dict[str, Tensor]]:
    """Return batches of 16 token rows with labels."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 12, (16 * count, 5), generator=generator)
    return [{"input_ids": rows, "labels": (rows.sum(dim=1) % 3)} for rows in ids.split(16)]


__all__ = [
    "Budget",
    "TokenModel",
    "grow_net",
    "item_losses",
    "token_batches",
    "train_batches",
    "validation_batches",
]
