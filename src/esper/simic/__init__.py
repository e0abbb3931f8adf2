"""The gym: environments, rewards, and the learner that trains the gardener on them."""

from esper.simic.anomalies import METRIC_TABLE, Anomaly, find_anomalies
from esper.simic.batch_rows import join_batches, pack_batch, unpack_batch
from esper.simic.best_teacher import choose_best
from esper.simic.carry_rows import ToldStep
from esper.simic.config import EntropyConfig, PPOConfig, TrainingConfig
from esper.simic.decision_records import DecisionRecorder, TakenStep, TakingEnv
from esper.simic.evaluate import EpisodeResult, evaluate_policy, run_episode
from esper.simic.growth_env import GrowthEnvParts, GrowthRolloutEnv
from esper.simic.imitation import Demonstrator, ImitationReport, demonstrate, imitate
from esper.simic.instances import EpisodeStart, InstancePlan
from esper.simic.interfaces import ActorCritic, Bootstrap, EnvStep, RolloutEnv
from esper.simic.intervals import PairedInterval, estimate_paired_interval
from esper.simic.lone_reward import build_lone_reward
from esper.simic.minibatches import count_minibatches
from esper.simic.never_runs import NeverRun, NeverRuns
from esper.simic.ppo import LearnerParts, PPOLearner, UpdateReport
from esper.simic.rewards.config import REWARD_MODES, LossRewardConfig, RewardConfig, parse_extra_term
from esper.simic.rewards.contract import check_reward_term, require_reward_term
from esper.simic.rewards.facts import StepFacts
from esper.simic.rewards.gain import compute_objective
from esper.simic.rewards.modes import build_rubric
from esper.simic.rewards.rubric import (
    RewardBreakdown,
    RewardState,
    RewardTerm,
    RewardTermSpec,
    Rubric,
    TermMemory,
    WeightedTerm,
)
from esper.simic.rollout_buffer import FinishedEpisode, QuarantinedRow, RolloutBatch, TamiyoRolloutBuffer
from esper.simic.row_states import count_rows, join_rows, pick_rows
from esper.simic.trainer import PolicyTrainer, RoundReport, TrainerParts

__all__ = [
    "METRIC_TABLE",
    "REWARD_MODES",
    "ActorCritic",
    "Anomaly",
    "Bootstrap",
    "DecisionRecorder",
    "Demonstrator",
    "EntropyConfig",
    "EnvStep",
    "EpisodeResult",
    "EpisodeStart",
    "FinishedEpisode",
    "GrowthEnvParts",
    "GrowthRolloutEnv",
    "ImitationReport",
    "InstancePlan",
    "LearnerParts",
    "LossRewardConfig",
    "NeverRun",
    "NeverRuns",
    "PPOConfig",
    "PPOLearner",
    "PairedInterval",
    "PolicyTrainer",
    "QuarantinedRow",
    "RewardBreakdown",
    "RewardConfig",
    "RewardState",
    "RewardTerm",
    "RewardTermSpec",
    "RolloutBatch",
    "RolloutEnv",
    "RoundReport",
    "Rubric",
    "StepFacts",
    "TakenStep",
    "TakingEnv",
    "TamiyoRolloutBuffer",
    "TermMemory",
    "ToldStep",
    "TrainerParts",
    "TrainingConfig",
    "UpdateReport",
    "WeightedTerm",
    "build_lone_reward",
    "build_rubric",
    "check_reward_term",
    "choose_best",
    "compute_objective",
    "count_minibatches",
    "count_rows",
    "demonstrate",
    "estimate_paired_interval",
    "evaluate_policy",
    "find_anomalies",
    "imitate",
    "join_batches",
    "join_rows",
    "pack_batch",
    "parse_extra_term",
    "pick_rows",
    "require_reward_term",
    "run_episode",
    "unpack_batch",
]
