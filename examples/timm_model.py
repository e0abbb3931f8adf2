"""A model of timm grows: a small ResNet, built without download, on digits.

Run: python examples/timm_model.py   (pip install timm)
"""

import torchvision_operators  # noqa: F401  where torchvision fails to import; see there

# isort: split
import timm
import torch
from digits import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import esper

torch.manual_seed(0)
train, validation = (
    TensorDataset(F.interpolate(x, 32), y) for x, y in (part.tensors for part in load_digits())
)
train_loader, validation_loader = DataLoader(train, 64, shuffle=True), DataLoader(validation, 360)
images, classes = validation.tensors

# Two channels per stage on purpose: there must be something to grow for.
model = timm.create_model(
    "resnet10t", pretrained=False, in_chans=1, num_classes=10, stem_width=4, channels=(2, 2, 2, 2)
)
grown = esper.grow(model, sample=images[:2])  # at=None: slots where they seem best
for point in grown.points:
    print(point.point.path, point.reason)

esper.fit(grown, train_loader, validation_loader, loss=nn.CrossEntropyLoss(), epochs=50,
          optimizer=lambda named: torch.optim.AdamW(named, lr=2e-3))  # fmt: skip
print(grown.summary())

plain = grown.export()  # timm's class and torch's
difference = (plain(images) - grown.eval()(images)).abs().max().item()
assert difference < 1e-5, difference
accuracy = (plain(images).argmax(1) == classes).float().mean().item()
print(f"exported, equal to {difference:.1e}; validation accuracy {accuracy:.1%}")
