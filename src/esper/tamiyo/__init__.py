"""The gardener: policies that decide from an `Observation`, their masks, and its encoding as tensors.

This room sees no model, no data and no optimiser; it answers with the actions of leyline.
"""

from esper.tamiyo.action_layout import ActionLayout, build_action, build_growth_layout, build_indices
from esper.tamiyo.actor_critic import Memory, PolicyInputs, PolicyStep, SequenceEvaluation
from esper.tamiyo.baselines import ForcedCyclePolicy, NeverGrow
from esper.tamiyo.distributions import ActionLogits, ActionMask, EmptyMaskError, JointDistribution
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
    "ActionLayout",
    "ActionLogits",
    "ActionMask",
    "ActionMasks",
    "EmptyMaskError",
    "EncodedBatch",
    "EncodedObservation",
    "FixedSchedulePolicy",
    "ForcedCyclePolicy",
    "HeuristicConfig",
    "HeuristicTamiyo",
    "JointDistribution",
    "Memory",
    "NeverGrow",
    "PolicyInputs",
    "PolicyStep",
    "RandomPolicy",
    "ScheduledAction",
    "SequenceEvaluation",
    "build_action",
    "build_even_schedule",
    "build_growth_layout",
    "build_indices",
    "build_policy",
    "choosable_ops",
    "compute_masks",
    "encode",
    "encode_many",
    "growable_blueprints",
]
