"""A model of timm grows: a small ResNet, built without download, on digits.

Run: python examples/timm_model.py
"""

import torch
import torchvision_operators  # noqa: F401  where torchvision fails to import; see there
from digits import load_digits
from torch import nn
from torch.utils.data import DataLoader

import esper
import timm

torch.manual_seed(0)
train, validation = load_digits()
images, classes = validation.tensors

# A tenth of the usual width on purpose: there must be something to grow for.
model = timm.create_model("resnet10t", pretrained=False, in_chans=1, num_classes=10, channels=(4, 4, 8, 8), stem_width=4)
print(*esper.suggest(model, images[:2]), sep="\n")
