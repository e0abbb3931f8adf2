"""The senses: where events go, and how they come back as tables and pictures.

Knows the contracts and no other room; only the wiring and the doors know it. Imports neither torch nor a
drawing library: those come in when a report is drawn.
"""

from esper.nissa.alert_command import AlertCommand, check_command
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
)
from esper.nissa.analytics.history import (
    MetricCurves,
    SeedFate,
    StageSpan,
    compute_curves,
    compute_fates,
    compute_strips,
    effective_events,
)
from esper.nissa.analytics.report import ReportPaths, render_report, write_report
from esper.nissa.analytics.scoreboard import BlueprintScore, compute_scoreboard
from esper.nissa.analytics.summary import RunSummary, compute_summary, summary_to_plain, total_flops
from esper.nissa.analytics.tables import describe_summary
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
from esper.nissa.codec import SCHEMA_VERSION, Header, decode_line, encode_header, encode_record
from esper.nissa.config import PROGRESS_NAMES, TRACKER_NAMES, TelemetryConfig
from esper.nissa.event_chain import FileCaps
from esper.nissa.hub import EventHub
from esper.nissa.outputs import build_hub
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

__all__ = [
    "BLOCKS",
    "BOOKKEEPING_KINDS",
    "CLOCK_FIELDS",
    "EPOCH_AXIS",
    "PLAIN_LEVELS",
    "PROGRESS_NAMES",
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
    "ComparedRun",
    "EventHub",
    "FileCaps",
    "Header",
    "JsonConsole",
    "JsonlBackend",
    "LiveSeed",
    "MemoryBackend",
    "MetricCurves",
    "Narrator",
    "OutputBackend",
    "PlainConsole",
    "Record",
    "RedFlag",
    "ReportPaths",
    "RichConsole",
    "RoundNotice",
    "RunComparison",
    "RunDirectoryBackend",
    "RunEntry",
    "RunLog",
    "RunSummary",
    "RunWatch",
    "Scalars",
    "SeedFate",
    "SeedGroup",
    "SettingDifference",
    "Spread",
    "StageSpan",
    "TailBatch",
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
    "build_console",
    "build_hub",
    "build_trackers",
    "check_command",
    "check_trackers",
    "clean_text",
    "compare_runs",
    "compute_curves",
    "compute_fates",
    "compute_scalars",
    "compute_scoreboard",
    "compute_spread",
    "compute_strips",
    "compute_summary",
    "compute_training_curves",
    "compute_training_summary",
    "compute_view",
    "curves_to_plain",
    "decode_line",
    "describe_summary",
    "draw_sparkline",
    "drop_superseded",
    "effective_events",
    "effective_log",
    "encode_header",
    "encode_record",
    "event_files",
    "find_differences",
    "format_count",
    "format_estimate",
    "format_flops",
    "format_metric",
    "format_number",
    "format_percent",
    "format_seconds",
    "is_training",
    "read_first_event",
    "read_run",
    "render_report",
    "split_ends",
    "summary_to_plain",
    "tail",
    "tally_flags",
    "total_flops",
    "training_to_plain",
    "wall_clock",
    "watch_to_plain",
    "write_report",
    "write_summary",
]
