"""The set of handwritten digits that comes with the package, as plain tensors; used by the other examples."""

from importlib.resources import as_file, files

import numpy as np
import torch
from torch.utils.data import TensorDataset


def load_digits(shape: tuple[int, ...] = (1, 8, 8)) -> tuple[TensorDataset, TensorDataset]:
    """Return 1,077 training and 360 validation images in [0, 1] with their classes."""
    with as_file(files("esper.data") / "files" / "digits.csv.gz") as path:
        table = torch.from_numpy(np.loadtxt(path, delimiter=",", dtype=np.float32))
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))
    images, classes = table[order, :-1].reshape(-1, *shape) / 16, table[order, -1].long()
    return TensorDataset(images[:1077], classes[:1077]), TensorDataset(images[1077:1437], classes[1077:1437])
