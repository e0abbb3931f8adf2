"""The gardener: policies that decide from an `Observation`, their masks, and its encoding as tensors.

This room sees no model, no data and no optimiser; it answers with the actions of leyline.
"""

from esper.tamiyo.baselines import ForcedCyclePolicy, NeverGrow
from esper.tamiyo.encoding import EncodedBatch, EncodedObservation, encode, encode_many
from esper.tamiyo.heuristic import HeuristicTamiyo
from esper.tamiyo.heuristic_config import SLOT_ORDERS, HeuristicConfig
from esper.tamiyo.masks import ActionMasks, choosable_ops, compute_masks, growable_blueprints
from esper.tamiyo.random_policy import RandomPolicy
from esper.tamiyo.registry import POLICY_NAMES, build_policy
from esper.tamiyo.schedule import FixedSchedulePolicy, ScheduledAction, build_even_schedule

__all__ = [
    "POLICY_NAMES",
    "SLOT_ORDERS",
    "ActionMasks",
    "EncodedBatch",
    "EncodedObservation",
    "FixedSchedulePolicy",
    "ForcedCyclePolicy",
    "HeuristicConfig",
    "HeuristicTamiyo",
    "NeverGrow",
    "RandomPolicy",
    "ScheduledAction",
    "build_even_schedule",
    "build_policy",
    "choosable_ops",
    "compute_masks",
    "encode",
    "encode_many",
    "growable_blueprints",
]
