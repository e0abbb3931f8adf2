"""The senses: where events go, and how they come back as tables and pictures.

Knows the contracts and no other room; only the wiring and the doors know it. Imports neither torch nor a
drawing library: those come in when a report is drawn.
"""

from esper.nissa.alert_command import AlertCommand, check_command
from esper.nissa.analytics.decisions import (
    JoinedDecision,
    Option,
    decision_to_plain,
    join_decisions,
    pick_decisions,
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
from esper.nissa.backends.alerts import AlertBackend
from esper.nissa.backends.base import OutputBackend
from esper.nissa.backends.buffered import BufferedBackend
from esper.nissa.backends.console import JsonConsole, PlainConsole, RichConsole, build_console
from esper.nissa.backends.jsonl import JsonlBackend
from esper.nissa.backends.memory import MemoryBackend
from esper.nissa.backends.run_directory import SUMMARY_NAME, RunDirectoryBackend, write_summary
from esper.nissa.codec import SCHEMA_VERSION, Header, decode_event, decode_line, encode_header, encode_record
from esper.nissa.config import PROGRESS_NAMES, TelemetryConfig
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
from esper.nissa.record import Record
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
from esper.nissa.wording import Narrator
from esper.nissa.wording_decisions import word_decision, word_reward

__all__ = [
    "BLOCKS",
    "BOOKKEEPING_KINDS",
    "CLOCK_FIELDS",
    "PLAIN_LEVELS",
    "PROGRESS_NAMES",
    "SCHEMA_VERSION",
    "SUMMARY_NAME",
    "AlertBackend",
    "AlertCommand",
    "AnomalyTally",
    "BadLine",
    "BlueprintScore",
    "BufferedBackend",
    "EventHub",
    "FileCaps",
    "Header",
    "JoinedDecision",
    "JsonConsole",
    "JsonlBackend",
    "MemoryBackend",
    "MetricCurves",
    "Narrator",
    "Option",
    "OutputBackend",
    "PlainConsole",
    "Record",
    "ReportPaths",
    "RichConsole",
    "RoundNotice",
    "RunDirectoryBackend",
    "RunLog",
    "RunSummary",
    "SeedFate",
    "StageSpan",
    "TailBatch",
    "TelemetryConfig",
    "TrainingCurves",
    "TrainingSummary",
    "average_known",
    "build_console",
    "build_hub",
    "check_command",
    "clean_text",
    "compute_curves",
    "compute_fates",
    "compute_scoreboard",
    "compute_strips",
    "compute_summary",
    "compute_training_curves",
    "compute_training_summary",
    "curves_to_plain",
    "decision_to_plain",
    "decode_event",
    "decode_line",
    "describe_summary",
    "draw_sparkline",
    "drop_superseded",
    "effective_events",
    "effective_log",
    "encode_header",
    "encode_record",
    "event_files",
    "format_count",
    "format_estimate",
    "format_flops",
    "format_metric",
    "format_number",
    "format_percent",
    "format_seconds",
    "is_training",
    "join_decisions",
    "pick_decisions",
    "read_first_event",
    "read_run",
    "render_report",
    "split_ends",
    "summary_to_plain",
    "tail",
    "total_flops",
    "training_to_plain",
    "word_decision",
    "word_reward",
    "write_report",
    "write_summary",
]
