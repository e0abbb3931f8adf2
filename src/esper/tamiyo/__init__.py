"""The gardener: policies that decide from an `Observation`, their masks, and its encoding as tensors.

This room sees no model, no data and no optimiser; it answers with the actions of leyline.
"""

from esper.tamiyo.action_layout import ActionLayout, build_action, build_growth_layout, build_indices
from esper.tamiyo.actor_critic import (
    NUM_PRIVILEGED,
    PRIVILEGED,
    Memory,
    PolicyInputs,
    PolicyStep,
    SequenceEvaluation,
)
from esper.tamiyo.baselines import ForcedCyclePolicy, NeverGrow
from esper.tamiyo.batch_encoding import EncodedBatch, encode_many
from esper.tamiyo.distributions import ActionLogits, ActionMask, EmptyMaskError, JointDistribution
from esper.tamiyo.encoding import EncodedObservation, encode
from esper.tamiyo.greedy import GreedyConfig, GreedyScorePolicy
from esper.tamiyo.heuristic import HeuristicTamiyo
from esper.tamiyo.heuristic_config import SLOT_ORDERS, HeuristicConfig
from esper.tamiyo.inputs import build_inputs, describe_contract, observation_contract
from esper.tamiyo.inspection import (
    add_evidence,
    count_options,
    describe_features,
    describe_legal,
    list_used_heads,
    name_heads,
    round_number,
)
from esper.tamiyo.masks import ActionMasks, choosable_ops, compute_masks, growable_blueprints
from esper.tamiyo.network import NetworkConfig, PolicyView, RecurrentActorCritic, build_network
from esper.tamiyo.noise import draw_noise
from esper.tamiyo.policy_contract import check_policy, require_policy
from esper.tamiyo.policy_file import LoadedPolicy, load_policy, save_policy
from esper.tamiyo.random_policy import RandomPolicy
from esper.tamiyo.recurrent import NonFinitePolicyError, RecurrentPolicy
from esper.tamiyo.registry import POLICY_NAMES, build_policy
from esper.tamiyo.schedule import FixedSchedulePolicy, ScheduledAction, build_even_schedule

__all__ = [
    "NUM_PRIVILEGED",
    "POLICY_NAMES",
    "PRIVILEGED",
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
    "GreedyConfig",
    "GreedyScorePolicy",
    "HeuristicConfig",
    "HeuristicTamiyo",
    "JointDistribution",
    "LoadedPolicy",
    "Memory",
    "NetworkConfig",
    "NeverGrow",
    "NonFinitePolicyError",
    "PolicyInputs",
    "PolicyStep",
    "PolicyView",
    "RandomPolicy",
    "RecurrentActorCritic",
    "RecurrentPolicy",
    "ScheduledAction",
    "SequenceEvaluation",
    "add_evidence",
    "build_action",
    "build_even_schedule",
    "build_growth_layout",
    "build_indices",
    "build_inputs",
    "build_network",
    "build_policy",
    "check_policy",
    "choosable_ops",
    "compute_masks",
    "count_options",
    "describe_contract",
    "describe_features",
    "describe_legal",
    "draw_noise",
    "encode",
    "encode_many",
    "growable_blueprints",
    "list_used_heads",
    "load_policy",
    "name_heads",
    "observation_contract",
    "require_policy",
    "round_number",
    "save_policy",
]
