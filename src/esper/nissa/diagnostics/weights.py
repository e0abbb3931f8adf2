"""Weights of a network: norms, how far they came from where they were, effective ranks. One read each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch import nn

MAX_RANK_SIDE = 512
"""Matrices whose smaller side is larger are left out: their singular values take too long."""


def copy_weights(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """Return copies to measure drift from, on the parameters' device."""
    return [parameter.detach().clone() for parameter in parameters]


def measure_weights(
    groups: Mapping[str, Sequence[nn.Parameter]], births: Mapping[str, Sequence[Tensor]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return group -> L2 norm, and group -> drift.

    ```
    drift = |w - w0| / |w0|; the distance itself where w0 is 0
    ```

    Args:
        groups: Name -> parameters.
        births: Name -> copies from `copy_weights` of the same parameters; a group without is left out.
    """
    values: list[Tensor] = []
    names = [name for name, members in groups.items() if members]
    for name in names:
        members = [parameter.detach() for parameter in groups[name]]
        known = births.get(name, members)
        values.append(_norm(members))
        values.append(_norm([now - then for now, then in zip(members, known, strict=True)]))
        values.append(_norm(known))
    if not values:
        return {}, {}
    read = torch.stack(values).tolist()  # sync: one for all groups
    norms = {name: float(read[3 * place]) for place, name in enumerate(names)}
    drift = {
        name: float(read[3 * place + 1]) / (float(read[3 * place + 2]) or 1.0)
        for place, name in enumerate(names)
        if name in births
    }
    return norms, drift


def measure_ranks(parameters: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the effective rank of every matrix and kernel by name.

    Args:
        parameters: Qualified name -> [O, ...]; fewer than two axes, or a smaller side over 512, is left out.
    """
    products: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        matrix = parameter.detach().flatten(1).float() if parameter.dim() > 1 else None
        if matrix is None or min(matrix.shape) > MAX_RANK_SIDE or not matrix.numel():
            continue
        wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
        products[name] = wide @ wide.mT
    if not products:
        return {}
    # sync: one read, because eigenvalues of small matrices are faster found on the CPU.
    read = torch.cat([product.flatten() for product in products.values()]).cpu().double()
    ranks: dict[str, float] = {}
    place = 0
    for name, product in products.items():
        square = read[place : place + product.numel()].view(product.shape)
        place += product.numel()
        if bool(square.isfinite().all()):
            values = torch.linalg.eigvalsh(square).clamp(min=0.0).sqrt()
            ranks[name] = compute_effective_rank([float(value) for value in values.tolist()])
    return ranks


def compute_effective_rank(singular_values: Sequence[float]) -> float:
    """Return exp(-sum p ln p) with p = s / sum(s), after Roy and Vetterli (2007); 0 for a zero matrix.

    Args:
        singular_values: >= 0.
    """
    total = sum(singular_values)
    if total <= 0.0:
        return 0.0
    shares = [value / total for value in singular_values if value > 0.0]
    return math.exp(-sum(share * math.log(share) for share in shares))


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    norms = [torch.linalg.vector_norm(tensor, dtype=torch.float32) for tensor in tensors]
    whole: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return whole
