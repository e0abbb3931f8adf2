"""A model of one's own grows in ten lines: `esper.grow`, `esper.fit`, `export`.

Run: python examples/own_fit.py
"""

import torch
from digits import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader

import esper


class Block(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(1, width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(1, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        return torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))


class TinyResNet(nn.Module):
    """Images [B, 1, 8, 8] to 10 logits; three channels are too few on purpose: growth must pay."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1)
        self.stages = nn.Sequential(nn.Sequential(Block(3), nn.MaxPool2d(2)), Block(3))
        self.head = nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, 10]."""
        return self.head(self.stages(self.stem(x)).mean(dim=(2, 3)))


torch.manual_seed(0)
train, validation = load_digits()
train_loader, validation_loader = DataLoader(train, 32, shuffle=True), DataLoader(validation, 360)

model = TinyResNet()
grown = esper.grow(model, at=["stem", "stages.*"], sample=next(iter(validation_loader))[0][:2],
                   blueprints=["conv"], budget=esper.Budget(params=5.0, seeds=4))  # fmt: skip
esper.fit(grown, train_loader, validation_loader, loss=nn.CrossEntropyLoss(), epochs=50,
          optimizer=lambda named: torch.optim.AdamW(named, lr=5e-3))  # fmt: skip
print(grown.summary())
plain = grown.export()  # nn.Module: torch's classes and yours

images, classes = validation.tensors
difference = (plain(images) - grown.eval()(images)).abs().max().item()
assert difference < 1e-5, difference
accuracy = (plain(images).argmax(1) == classes).float().mean().item()
print(f"exported, equal to {difference:.1e}; validation accuracy {accuracy:.1%}")
