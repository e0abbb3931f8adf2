"""A network grows in a plain PyTorch training loop: three calls are added to it.

Run: python examples/own_loop.py
"""

import torch
from digits import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import esper

torch.manual_seed(0)
train, validation = load_digits()
images, classes = validation.tensors
loader = DataLoader(train, batch_size=32, shuffle=True)

# Too narrow for ten classes on purpose: there must be something to grow for.
model = nn.Sequential(
    nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
    nn.Flatten(),
    nn.Linear(8, 10),
)

grown = esper.grow(model, sample=images[:2], at=["0.0", "1.0"])
optimizer = torch.optim.AdamW(grown.parameters(), lr=5e-3)
controller = esper.Controller(grown, optimizer, epochs=40)


def evaluate(network: nn.Module) -> torch.Tensor:
    """Return one loss per validation image, so that seeds are compared image by image."""
    network.eval()
    with torch.no_grad():
        return F.cross_entropy(network(images), classes, reduction="none")


for _ in range(40):
    for event in controller.act():  # 1: before the epoch, the network may grow
        print(event)
    grown.train()
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(grown(x), y)
        loss.backward()
        optimizer.step()
        controller.step(loss)  # 2: after each batch
    for event in controller.observe(evaluate=evaluate):  # 3: after the epoch, seeds are measured
        print(event)
controller.finish()  # what has not proved itself by now goes

print(grown.summary())
plain = grown.export()  # nn.Module of torch alone
difference = (plain(images) - grown.eval()(images)).abs().max().item()
assert difference < 1e-5, difference
accuracy = (plain(images).argmax(1) == classes).float().mean().item()
print(f"exported, equal to {difference:.1e}; validation accuracy {accuracy:.1%}")
