"""Growth by hand: no policy, you say when a seed is planted, let in, kept or removed.

Run: python examples/by_hand.py
"""

import torch
from digits import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import esper

torch.manual_seed(0)
train, validation = load_digits(shape=(64,))
images, classes = validation.tensors
loader = DataLoader(train, batch_size=32, shuffle=True)

model = nn.Sequential(nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 10))  # four units for ten classes are few
grown = esper.grow(model, sample=images[:2], at=["0"])
optimizer = torch.optim.AdamW(grown.parameters(), lr=5e-3)
controller = esper.Controller(grown, optimizer, policy="never")  # decides nothing, but the optimiser follows
slot = grown["0"]


def train_for(epochs: int) -> None:
    """Train, and say how the network does."""
    grown.train()
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(grown(x), y).backward()
            optimizer.step()
    with torch.no_grad():
        loss = F.cross_entropy(grown.eval()(images), classes).item()
    print(f"  loss {loss:.3f}; {slot}")


train_for(8)
print(slot.germinate("mlp"))  # learns beside the network, which does not notice it
train_for(4)
print(slot.blend(steps=3 * len(loader), shape="cosine"))  # alpha goes from 0 to 1
train_for(6)
print(slot.fossilize())  # kept for good
train_for(2)
print(slot.stage)

plain = grown.export()
difference = (plain(images) - grown.eval()(images)).abs().max().item()
assert difference < 1e-5, difference
print(grown.summary(), f"exported, equal to {difference:.1e}", sep="\n")
