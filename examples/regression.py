"""A regression in pascals: a network for a smooth surface grows, with a decision every 200 batches.

Nothing here is a share or a nat: `grow` learns the size of a large difference from the first interval.
Run: python examples/regression.py
"""

import torch
from torch import nn
from torch.nn import functional as F

import esper

torch.manual_seed(0)
generator = torch.Generator().manual_seed(1)


def pressure(position: torch.Tensor) -> torch.Tensor:
    """Return pressures [N, 1] around 101,325 Pa at positions [N, 2]."""
    x, y = position.T
    return (101_325 + 800 * torch.sin(3 * x) * torch.cos(2 * y) + 300 * x * y).unsqueeze(1)


positions = 4 * torch.rand(4096, 2, generator=generator) - 2
train_x, train_y = positions[:3072], pressure(positions[:3072])
test_x, test_y = positions[3072:], pressure(positions[3072:])
mean, spread = train_y.mean(), train_y.std()

model = nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 1))
grown = esper.grow(model, sample=test_x[:2], at=["1", "3"])
optimizer = torch.optim.Adam(grown.parameters(), lr=3e-3)
controller = esper.Controller(grown, optimizer, metric="absolute_error", epochs=40)


def evaluate(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the error of each test position, in pascals."""
    network.eval()
    with torch.no_grad():
        return {"absolute_error": (network(test_x) * spread + mean - test_y).abs().squeeze(1)}


for batch in range(40 * 200):
    if batch % 200 == 0:
        for event in controller.act():
            print(event)
        grown.train()
    rows = torch.randint(0, len(train_x), (64,), generator=generator)
    optimizer.zero_grad()
    loss = F.mse_loss(grown(train_x[rows]), (train_y[rows] - mean) / spread)
    loss.backward()
    optimizer.step()
    controller.step(loss)
    if batch % 200 == 199:
        for event in controller.observe(evaluate=evaluate):
            print(event)
controller.finish()
print(grown.summary())

plain = grown.export()
difference = (plain(test_x) - grown.eval()(test_x)).abs().max().item()
assert difference < 1e-5, difference
error = evaluate(plain)["absolute_error"].mean()
print(f"exported, equal to {difference:.1e}; off by {error:.0f} Pa on average")
