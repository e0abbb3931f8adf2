"""The plant: hosts, slots, seeds and their lifecycle. Mechanism only: it decides and prints nothing."""

from esper.kasmina.allocation import is_allocation_failure
from esper.kasmina.blending import AlphaRamp, Seed, apply_blend, build_seed, compute_curve
from esper.kasmina.blueprints.contract import ContractReport, check_blueprint, require_contract
from esper.kasmina.blueprints.registry import BlueprintRegistry, builtin_registry
from esper.kasmina.blueprints.spec import BlueprintSpec, SlotSpec
from esper.kasmina.config import INCUBATION_NAMES, GateConfig, LifecycleConfig
from esper.kasmina.cost import SavedBytes, count_flops, count_saved_bytes, count_trainable
from esper.kasmina.difference import MAX_DIFFERENCE, list_tensors, measure_largest
from esper.kasmina.export import export_model
from esper.kasmina.gates import GateResult, QualityGates
from esper.kasmina.graft import Exported, GraftRecord, KeptSlot, export_grafted
from esper.kasmina.growth_points import GrowthPoint, PointWishes, find_growth_points
from esper.kasmina.hosts.cnn import CNNHost, CNNHostConfig
from esper.kasmina.hosts.mlp import MLPHost, MLPHostConfig
from esper.kasmina.hosts.protocol import HostProtocol, InjectionPoint, SegmentedHost
from esper.kasmina.hosts.transformer import TransformerHost, TransformerHostConfig
from esper.kasmina.incubation import (
    Incubation,
    NormWithStatistics,
    apply_seed_gradient,
    compute_residual_target,
    norms_with_statistics,
    untouched_rng,
    untouched_statistics,
)
from esper.kasmina.inputs import (
    Inputs,
    call_host,
    count_items,
    describe_inputs,
    each_tensor,
    map_tensors,
    run_on_copies,
    split_arguments,
    to_device,
)
from esper.kasmina.isolation import join_loss
from esper.kasmina.lifecycle import Birth, Clock, Lifecycle
from esper.kasmina.model import MorphogeneticModel, find_incubating
from esper.kasmina.offer_prices import describe
from esper.kasmina.plain_source import WEIGHTS_NAME, LayerSource, PlainSource, build_plain_source
from esper.kasmina.price_book import PriceBook
from esper.kasmina.pricing import price_items, price_saved
from esper.kasmina.recomputing import RecomputeRule
from esper.kasmina.seed_state import SeedState, SlotScores
from esper.kasmina.seeded_build import build_seeded
from esper.kasmina.slot import NORMAL_PLAN, ForwardPlan, SeedSlot, SlotMode
from esper.kasmina.stacking import (
    RowPartition,
    StackArrangement,
    StackContext,
    Stacked,
    UnstackableError,
    blend_rows,
    build_stacked,
    join_stacked,
    signature,
    take_rows,
    to_arrangement,
)
from esper.kasmina.summary import SlotRow, Summary, SummaryDiff, diff, summarize
from esper.kasmina.tap import CANONICAL, Arrangement, Tap

__all__ = [
    "CANONICAL",
    "INCUBATION_NAMES",
    "MAX_DIFFERENCE",
    "NORMAL_PLAN",
    "WEIGHTS_NAME",
    "AlphaRamp",
    "Arrangement",
    "Birth",
    "BlueprintRegistry",
    "BlueprintSpec",
    "CNNHost",
    "CNNHostConfig",
    "Clock",
    "ContractReport",
    "Exported",
    "ForwardPlan",
    "GateConfig",
    "GateResult",
    "GraftRecord",
    "GrowthPoint",
    "HostProtocol",
    "Incubation",
    "InjectionPoint",
    "Inputs",
    "KeptSlot",
    "LayerSource",
    "Lifecycle",
    "LifecycleConfig",
    "MLPHost",
    "MLPHostConfig",
    "MorphogeneticModel",
    "NormWithStatistics",
    "PlainSource",
    "PointWishes",
    "PriceBook",
    "QualityGates",
    "RecomputeRule",
    "RowPartition",
    "SavedBytes",
    "Seed",
    "SeedSlot",
    "SeedState",
    "SegmentedHost",
    "SlotMode",
    "SlotRow",
    "SlotScores",
    "SlotSpec",
    "StackArrangement",
    "StackContext",
    "Stacked",
    "Summary",
    "SummaryDiff",
    "Tap",
    "TransformerHost",
    "TransformerHostConfig",
    "UnstackableError",
    "apply_blend",
    "apply_seed_gradient",
    "blend_rows",
    "build_plain_source",
    "build_seed",
    "build_seeded",
    "build_stacked",
    "builtin_registry",
    "call_host",
    "check_blueprint",
    "compute_curve",
    "compute_residual_target",
    "count_flops",
    "count_items",
    "count_saved_bytes",
    "count_trainable",
    "describe",
    "describe_inputs",
    "diff",
    "each_tensor",
    "export_grafted",
    "export_model",
    "find_growth_points",
    "find_incubating",
    "is_allocation_failure",
    "join_loss",
    "join_stacked",
    "list_tensors",
    "map_tensors",
    "measure_largest",
    "norms_with_statistics",
    "price_items",
    "price_saved",
    "require_contract",
    "run_on_copies",
    "signature",
    "split_arguments",
    "summarize",
    "take_rows",
    "to_arrangement",
    "to_device",
    "untouched_rng",
    "untouched_statistics",
]
