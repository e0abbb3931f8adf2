"""The senses: where events go, and how they come back as tables and pictures.

Knows the contracts and no other room; only the wiring and the doors know it. Imports neither torch nor a
drawing library: those come in when a report is drawn.
"""

from esper.nissa.alert_command import AlertCommand, check_command
from esper.nissa.analytics.coalitions import (
    COALITIONS_NAME,
    CoalitionRow,
    CoalitionTable,
    ShapleyRow,
    read_coalitions,
    write_coalitions,
)
from esper.nissa.analytics.comparison import (
    ComparedRun,
    RunComparison,
    RunEntry,
    SeedGroup,
    SettingDifference,
    Spread,
    compare_runs,
    compute_spread,
    find_differences,
    tells_apart,
)
from esper.nissa.analytics.comparison_document import build_comparison
from esper.nissa.analytics.decisions import (
    JoinedDecision,
    Option,
    decision_to_plain,
    join_decisions,
    pick_decisions,
)
from esper.nissa.analytics.document import Document, Section, render_fragment, render_html, render_markdown
from esper.nissa.analytics.history import (
    MetricCurves,
    SeedFate,
    StageSpan,
    compute_curves,
    compute_fates,
    compute_strips,
    effective_events,
    total_flops,
)
from esper.nissa.analytics.pareto import ParetoPoint, find_front
from esper.nissa.analytics.picture import build_picture
from esper.nissa.analytics.report import (
    REPORT_FORMATS,
    ReportFormat,
    ReportPaths,
    draw_images,
    render_report,
    write_document,
    write_report,
)
from esper.nissa.analytics.run_document import build_run_document, collect_picture
from esper.nissa.analytics.scoreboard import BlueprintScore, compute_scoreboard
from esper.nissa.analytics.summary import RunSummary, compute_summary, summary_to_plain
from esper.nissa.analytics.tables import describe_summary
from esper.nissa.analytics.task_comparison import (
    PolicyRow,
    RunRow,
    TaskComparison,
    compare_tasks,
    compute_run_row,
)
from esper.nissa.analytics.training import (
    AnomalyTally,
    RoundNotice,
    TrainingCurves,
    TrainingSummary,
    average_known,
    compute_training_curves,
    compute_training_summary,
    curves_to_plain,
    is_training,
    split_ends,
    training_to_plain,
)
from esper.nissa.analytics.training_document import build_training_document
from esper.nissa.analytics.watching import (
    LiveSeed,
    RedFlag,
    WatchedEnvironment,
    WatchedEvent,
    WatchedHost,
    WatchView,
    compute_view,
    tally_flags,
    watch_to_plain,
)
from esper.nissa.backends.alerts import AlertBackend
from esper.nissa.backends.base import OutputBackend
from esper.nissa.backends.buffered import BufferedBackend
from esper.nissa.backends.console import JsonConsole, PlainConsole, RichConsole, build_console
from esper.nissa.backends.jsonl import JsonlBackend
from esper.nissa.backends.memory import MemoryBackend
from esper.nissa.backends.run_directory import SUMMARY_NAME, RunDirectoryBackend, write_summary
from esper.nissa.backends.scalars import EPOCH_AXIS, STAGE_NUMBERS, STEP_AXIS, Scalars, compute_scalars
from esper.nissa.backends.tensorboard import TensorBoardBackend
from esper.nissa.backends.wandb import WandbBackend
from esper.nissa.codec import (
    SCHEMA_VERSION,
    Header,
    PlainTree,
    decode_event,
    decode_line,
    encode_header,
    encode_record,
    to_plain_tree,
)
from esper.nissa.config import PROGRESS_NAMES, TRACKER_NAMES, TelemetryConfig
from esper.nissa.event_chain import FileCaps
from esper.nissa.hub import EventHub
from esper.nissa.outputs import build_hub
from esper.nissa.profiles import (
    EVERY_BATCH,
    PROFILE_NAMES,
    PROFILES,
    RAISED,
    Escalation,
    Profile,
    is_batch_measured,
)
from esper.nissa.reader import (
    BOOKKEEPING_KINDS,
    CLOCK_FIELDS,
    BadLine,
    RunLog,
    TailBatch,
    drop_superseded,
    effective_log,
    event_files,
    read_first_event,
    read_run,
    tail,
)
from esper.nissa.record import Record, wall_clock
from esper.nissa.text import (
    BLOCKS,
    PLAIN_LEVELS,
    clean_text,
    draw_sparkline,
    format_count,
    format_estimate,
    format_flops,
    format_metric,
    format_number,
    format_percent,
    format_seconds,
)
from esper.nissa.trackers import TRACKERS, build_trackers, check_trackers
from esper.nissa.watch import RunWatch
from esper.nissa.wording import Narrator
from esper.nissa.wording_decisions import word_decision, word_reward
from esper.nissa.wording_diagnostics import narrate

__all__ = [
    "BLOCKS",
    "BOOKKEEPING_KINDS",
    "CLOCK_FIELDS",
    "COALITIONS_NAME",
    "EPOCH_AXIS",
    "EVERY_BATCH",
    "PLAIN_LEVELS",
    "PROFILES",
    "PROFILE_NAMES",
    "PROGRESS_NAMES",
    "RAISED",
    "REPORT_FORMATS",
    "SCHEMA_VERSION",
    "STAGE_NUMBERS",
    "STEP_AXIS",
    "SUMMARY_NAME",
    "TRACKERS",
    "TRACKER_NAMES",
    "AlertBackend",
    "AlertCommand",
    "AnomalyTally",
    "BadLine",
    "BlueprintScore",
    "BufferedBackend",
    "CoalitionRow",
    "CoalitionTable",
    "ComparedRun",
    "Document",
    "Escalation",
    "EventHub",
    "FileCaps",
    "Header",
    "JoinedDecision",
    "JsonConsole",
    "JsonlBackend",
    "LiveSeed",
    "MemoryBackend",
    "MetricCurves",
    "Narrator",
    "Option",
    "OutputBackend",
    "ParetoPoint",
    "PlainConsole",
    "PlainTree",
    "PolicyRow",
    "Profile",
    "Record",
    "RedFlag",
    "ReportFormat",
    "ReportPaths",
    "RichConsole",
    "RoundNotice",
    "RunComparison",
    "RunDirectoryBackend",
    "RunEntry",
    "RunLog",
    "RunRow",
    "RunSummary",
    "RunWatch",
    "Scalars",
    "Section",
    "SeedFate",
    "SeedGroup",
    "SettingDifference",
    "ShapleyRow",
    "Spread",
    "StageSpan",
    "TailBatch",
    "TaskComparison",
    "TelemetryConfig",
    "TensorBoardBackend",
    "TrainingCurves",
    "TrainingSummary",
    "WandbBackend",
    "WatchView",
    "WatchedEnvironment",
    "WatchedEvent",
    "WatchedHost",
    "average_known",
    "build_comparison",
    "build_console",
    "build_hub",
    "build_picture",
    "build_run_document",
    "build_trackers",
    "build_training_document",
    "check_command",
    "check_trackers",
    "clean_text",
    "collect_picture",
    "compare_runs",
    "compare_tasks",
    "compute_curves",
    "compute_fates",
    "compute_run_row",
    "compute_scalars",
    "compute_scoreboard",
    "compute_spread",
    "compute_strips",
    "compute_summary",
    "compute_training_curves",
    "compute_training_summary",
    "compute_view",
    "curves_to_plain",
    "decision_to_plain",
    "decode_event",
    "decode_line",
    "describe_summary",
    "draw_images",
    "draw_sparkline",
    "drop_superseded",
    "effective_events",
    "effective_log",
    "encode_header",
    "encode_record",
    "event_files",
    "find_differences",
    "find_front",
    "format_count",
    "format_estimate",
    "format_flops",
    "format_metric",
    "format_number",
    "format_percent",
    "format_seconds",
    "is_batch_measured",
    "is_training",
    "join_decisions",
    "narrate",
    "pick_decisions",
    "read_coalitions",
    "read_first_event",
    "read_run",
    "render_fragment",
    "render_html",
    "render_markdown",
    "render_report",
    "split_ends",
    "summary_to_plain",
    "tail",
    "tally_flags",
    "tells_apart",
    "to_plain_tree",
    "total_flops",
    "training_to_plain",
    "wall_clock",
    "watch_to_plain",
    "word_decision",
    "word_reward",
    "write_coalitions",
    "write_document",
    "write_report",
    "write_summary",
]
