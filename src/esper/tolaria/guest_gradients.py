"""Norms of the gradients of host and seeds in somebody else's loop, and which of them are not finite.

Reads gradients; changes none. Knows owners by name; no optimiser, no scaler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from esper.tolaria.group_flags import GroupFlag
from esper.tolaria.optimizer_state import find_faulty


def measure_gradients(
    owners: Mapping[str, Sequence[nn.Parameter]],
    inverse_scale: float,
    name_parameters: Callable[[], Mapping[str, nn.Parameter]],
) -> dict[str, GroupFlag]:
    """Return what was seen of each owner's gradients, with one device sync.

    Args:
        owners: Parameters of the host and of each seed.
        inverse_scale: Factor on the norms: 1 / loss scale.
        name_parameters: Called only if one of them is faulty.
    """
    gradients = {
        owner: [_values(p.grad) for p in parameters if p.grad is not None]
        for owner, parameters in owners.items()
    }
    norms = {owner: nn.utils.get_total_norm(held).float() for owner, held in gradients.items() if held}
    device = next((norm.device for norm in norms.values()), torch.device("cpu"))
    # sync: the only one here, once a call
    values = torch.stack([norm.to(device) for norm in norms.values()]).tolist() if norms else []
    found = dict(zip(norms, values, strict=True))
    flags: dict[str, GroupFlag] = {}
    for owner, held in gradients.items():
        norm = found.get(owner, 0.0)
        size = sum(gradient.numel() for gradient in held)
        faulty = "" if math.isfinite(norm) else _name_faulty(norm, owners[owner], name_parameters())
        flags[owner] = GroupFlag(
            norm=norm * inverse_scale,
            rms=norm * inverse_scale / math.sqrt(max(1, size)),
            has_gradient=bool(held),
            faulty_name=faulty,
        )
    return flags


def _values(gradient: Tensor) -> Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _name_faulty(norm: float, parameters: Sequence[nn.Parameter], named: Mapping[str, nn.Parameter]) -> str:
    wanted = {id(parameter) for parameter in parameters}
    return find_faulty(
        norm,
        {n: _values(p.grad) for n, p in named.items() if id(p) in wanted and p.grad is not None},
    )
