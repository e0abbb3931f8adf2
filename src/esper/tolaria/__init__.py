"""The hands: training hosts with their seeds, measuring, judging, saving.

They are handed decisions and never ask who made them.
"""

from esper.tolaria.checkpoint import (
    BackgroundWriter,
    CheckpointStore,
    LoadedCheckpoint,
    SavedCheckpoint,
    SaveOutcome,
    SaveRequest,
    StateRecord,
    checkpoint_name,
    checkpoint_place,
    detach_record,
)
from esper.tolaria.coalitions import (
    MAX_EXACT,
    CoalitionReport,
    CoalitionValue,
    FossilShare,
    measure_coalitions,
)
from esper.tolaria.config import (
    AMP_MODES,
    CHECKPOINTING_MODES,
    COMPILE_MODES,
    ROLLBACK_MODES,
    HostRunConfig,
)
from esper.tolaria.epoch import EpochProgress, StopCheck
from esper.tolaria.fleet.config import FleetConfig
from esper.tolaria.fleet.fused import FusedFleet, FusedShare
from esper.tolaria.fleet.process import FleetWorkerError, ProcessFleet
from esper.tolaria.fleet.protocol import Fleet
from esper.tolaria.fleet.serial import SerialFleet
from esper.tolaria.fleet.worker import MakeBuilder
from esper.tolaria.governor import Governor, GovernorConfig, find_blamed
from esper.tolaria.group_flags import GroupFlag, GroupFlags
from esper.tolaria.guest_groups import describe_missing, missing_from, refuse_foreign
from esper.tolaria.guest_lessons import LoopLoss
from esper.tolaria.guest_optimizer import GuestOptimizer
from esper.tolaria.host_ranks import BatchShare, HostRanks, OneRank, SharedState
from esper.tolaria.host_run import HostRun
from esper.tolaria.ledger import FLOP_KINDS, FlopsLedger, train_flops
from esper.tolaria.loop_config import LoopConfig
from esper.tolaria.loop_controller import LoopController
from esper.tolaria.loop_state import add_extra, capture_loop, restore_loop, split_extra
from esper.tolaria.measuring import Evaluator, MeasuringConfig, SplitResult, estimate_mean
from esper.tolaria.memory import MemoryNeed, MemoryWatch, estimate_need, refuse_shortage
from esper.tolaria.objectives import Objective, build_objective, input_dtype
from esper.tolaria.offers import Budget
from esper.tolaria.optimizers import OPTIMIZER_NAMES, OptimizerConfig, TopologyOptimizer
from esper.tolaria.parts import HostRunParts, Workbench
from esper.tolaria.precision import Autocast, LossScaler
from esper.tolaria.reducer import (
    HOST,
    GradientReducer,
    NoReduce,
    PlanEntry,
    StepFlags,
    StepVerdict,
    check_plan,
    hash_layout,
)
from esper.tolaria.rng import OwnRng
from esper.tolaria.signals import SignalTracker, SignalTrackerConfig

__all__ = [
    "AMP_MODES",
    "CHECKPOINTING_MODES",
    "COMPILE_MODES",
    "FLOP_KINDS",
    "HOST",
    "MAX_EXACT",
    "OPTIMIZER_NAMES",
    "ROLLBACK_MODES",
    "Autocast",
    "BackgroundWriter",
    "BatchShare",
    "Budget",
    "CheckpointStore",
    "CoalitionReport",
    "CoalitionValue",
    "EpochProgress",
    "Evaluator",
    "Fleet",
    "FleetConfig",
    "FleetWorkerError",
    "FlopsLedger",
    "FossilShare",
    "FusedFleet",
    "FusedShare",
    "Governor",
    "GovernorConfig",
    "GradientReducer",
    "GroupFlag",
    "GroupFlags",
    "GuestOptimizer",
    "HostRanks",
    "HostRun",
    "HostRunConfig",
    "HostRunParts",
    "LoadedCheckpoint",
    "LoopConfig",
    "LoopController",
    "LoopLoss",
    "LossScaler",
    "MakeBuilder",
    "MeasuringConfig",
    "MemoryNeed",
    "MemoryWatch",
    "NoReduce",
    "Objective",
    "OneRank",
    "OptimizerConfig",
    "OwnRng",
    "PlanEntry",
    "ProcessFleet",
    "SaveOutcome",
    "SaveRequest",
    "SavedCheckpoint",
    "SerialFleet",
    "SharedState",
    "SignalTracker",
    "SignalTrackerConfig",
    "SplitResult",
    "StateRecord",
    "StepFlags",
    "StepVerdict",
    "StopCheck",
    "TopologyOptimizer",
    "Workbench",
    "add_extra",
    "build_objective",
    "capture_loop",
    "check_plan",
    "checkpoint_name",
    "checkpoint_place",
    "describe_missing",
    "detach_record",
    "estimate_mean",
    "estimate_need",
    "find_blamed",
    "hash_layout",
    "input_dtype",
    "measure_coalitions",
    "missing_from",
    "refuse_foreign",
    "refuse_shortage",
    "restore_loop",
    "split_extra",
    "train_flops",
]
