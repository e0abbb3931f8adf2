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
from esper.tolaria.config import (
    AMP_MODES,
    CHECKPOINTING_MODES,
    COMPILE_MODES,
    ROLLBACK_MODES,
    HostRunConfig,
)
from esper.tolaria.epoch import EpochProgress, StopCheck
from esper.tolaria.fleet.protocol import Fleet
from esper.tolaria.fleet.serial import SerialFleet
from esper.tolaria.governor import Governor, GovernorConfig
from esper.tolaria.host_ranks import BatchShare, HostRanks, OneRank, SharedState
from esper.tolaria.host_run import HostRun
from esper.tolaria.ledger import FLOP_KINDS, FlopsLedger, train_flops
from esper.tolaria.measuring import Evaluator, MeasuringConfig, SplitResult, estimate_mean
from esper.tolaria.memory import MemoryNeed, MemoryWatch, estimate_need, refuse_shortage
from esper.tolaria.objectives import Objective, build_objective, input_dtype
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
    "OPTIMIZER_NAMES",
    "ROLLBACK_MODES",
    "Autocast",
    "BackgroundWriter",
    "BatchShare",
    "CheckpointStore",
    "EpochProgress",
    "Evaluator",
    "Fleet",
    "FlopsLedger",
    "Governor",
    "GovernorConfig",
    "GradientReducer",
    "HostRanks",
    "HostRun",
    "HostRunConfig",
    "HostRunParts",
    "LoadedCheckpoint",
    "LossScaler",
    "MeasuringConfig",
    "MemoryNeed",
    "MemoryWatch",
    "NoReduce",
    "Objective",
    "OneRank",
    "OptimizerConfig",
    "OwnRng",
    "PlanEntry",
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
    "build_objective",
    "check_plan",
    "checkpoint_name",
    "checkpoint_place",
    "detach_record",
    "estimate_mean",
    "estimate_need",
    "hash_layout",
    "input_dtype",
    "refuse_shortage",
    "train_flops",
]
