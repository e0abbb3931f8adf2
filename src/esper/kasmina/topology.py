"""A grown network's topology as plain data: what to rebuild before any weight is loaded, and its hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from esper.kasmina.seed_state import SeedState
from esper.leyline import JsonValue, canonical_hash

if TYPE_CHECKING:
    from torch import nn

_TOPOLOGY_FIELDS = (
    "stage",
    "seed_id",
    "blueprint",
    "blend",
    "alpha",
    "alpha_target",
    "tempo_epochs",
    "curve",
    "epochs_in_stage",
    "seed_age_epochs",
    "is_cull_pending",
)


def describe_topology(states: Sequence[SeedState], named_parameters: Mapping[str, nn.Parameter]) -> JsonValue:
    """Return slots (blueprint, stage, alpha, timers) and parameters (name, shape, dtype, requires_grad)."""
    slots: dict[str, JsonValue] = {}
    for state in states:
        record = state.to_dict()
        slots[state.slot] = {name: record[name] for name in _TOPOLOGY_FIELDS}
    parameters: list[JsonValue] = [
        [name, list(parameter.shape), str(parameter.dtype), parameter.requires_grad]
        for name, parameter in sorted(named_parameters.items())
    ]
    return {"slots": slots, "parameters": parameters}


def hash_topology(states: Sequence[SeedState], named_parameters: Mapping[str, nn.Parameter]) -> str:
    """Return the SHA-256 of the topology's canonical JSON; equal iff two models have the same topology."""
    return canonical_hash(describe_topology(states, named_parameters))
