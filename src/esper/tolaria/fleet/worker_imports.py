"""What torch imports only when shapes are first asked for (about a second), imported ahead of the copies.

Only the clean process that workers are copied from imports this file; anybody else would pay for nothing.
"""

from __future__ import annotations

import torch
from torch import nn

with torch.no_grad():
    nn.Linear(1, 1, device="meta")(torch.empty(1, 1, device="meta"))
