"""What is shown and written about a run. Standard library only, so that a command line can show it fast."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from esper.leyline import ConfigError, suggest
from esper.nissa.alert_command import split_command

PROGRESS_NAMES = ("auto", "rich", "plain", "json", "none")
"""Ways to show progress on stderr."""

BYTES_PER_MB = 1_000_000
OBSERVATION_CHOICES = ("all", "first", "none")
"""Of which hosts what a decision was made from may be kept."""
_SMALLEST_FILE_MB = 0.01
_LONGEST_ALERT_SECONDS = 3600.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryConfig:
    """Console, event files and report."""

    progress: str = "auto"
    """What stderr shows: "rich" (bar and colours), "plain" (one line per epoch and growth event), "json"
    (every record as one line), "none"; "auto" = rich on a terminal, plain elsewhere and in CI. Auto, because
    logs and terminals want different things."""
    is_quiet: bool = False
    """Whether stderr shows only warnings and the end of the run. Off, because one came to see growth."""
    flush_interval_seconds: float = 1.0
    """Longest time that a sample may wait in memory before it reaches the event file, in [0, 1]; 0 = none.
    Lifecycle events never wait. One second bounds what a killed process can lose."""
    buffer_records: int = 4096
    """Records that may wait for a slow console, >= 16; then samples are dropped oldest first, and counted.
    About 2 MB, and hours of epochs."""
    max_event_file_mb: float = 20.0
    """Size at which an event file is closed and the next one begun, in megabytes of 1,000,000 bytes, >= 0.01.
    Twenty, which tools and people can still open: about ten thousand epochs."""
    max_events_mb: float = 200.0
    """Room for all event files of a process, in megabytes, at least twice max_event_file_mb; then the oldest
    samples are dropped and counted, lifecycle events never. Two hundred, because a report reads all of it
    into memory."""
    observations: str = "first"
    """Of which hosts events of decisions keep the features that the policy saw: "all", "first" (the first
    environment of a training, and the host of every other run), "none". Masks, probabilities and values are
    kept of all. First, because features are most of the bytes of a decision, and one host shows the way."""
    on_alert: str = ""
    """Command that is run when something needs a person: an anomaly, a rollback, a checkpoint that failed, a
    disk that is nearly full, a run that stopped. It gets the facts as JSON on stdin and in variables
    (ESPER_ALERT_KIND, ESPER_ALERT_TEXT, ESPER_RUN_DIR), and is no shell line. Empty, because only a user can
    say what calls them."""
    alert_timeout_seconds: float = 30.0
    """Longest time of one alert command, in (0, 3600]; then it is ended. Thirty seconds, because a mail or a
    web request takes less."""
    alert_interval_seconds: float = 60.0
    """Shortest time between two alerts of a kind, >= 0; those between are counted. A minute, because a sign
    of trouble can come back with every round."""
    has_report: bool = True
    """Whether report.md and report.png are written at the end. On, because it costs about a second."""

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            ConfigError: If a value is unknown or outside the range that its field states.
        """
        if self.progress not in PROGRESS_NAMES:
            raise ConfigError(
                f"telemetry.progress={self.progress!r}: {suggest(self.progress, PROGRESS_NAMES)}"
            )
        if self.observations not in OBSERVATION_CHOICES:
            raise ConfigError(
                f"telemetry.observations={self.observations!r}: "
                f"{suggest(self.observations, OBSERVATION_CHOICES)}"
            )
        interval = self.flush_interval_seconds
        if not (math.isfinite(interval) and 0.0 <= interval <= 1.0):
            raise ConfigError(f"telemetry.flush_interval_seconds={interval}: must be in [0, 1], e.g. 1.0")
        file, room = self.max_event_file_mb, self.max_events_mb
        if not (math.isfinite(file) and file >= _SMALLEST_FILE_MB):
            raise ConfigError(
                f"telemetry.max_event_file_mb={file}: must be >= {_SMALLEST_FILE_MB}, e.g. 20.0"
            )
        if not (math.isfinite(room) and room >= 2 * file):
            raise ConfigError(
                f"telemetry.max_events_mb={room}: must be at least twice max_event_file_mb ({file}), e.g. "
                f"{10 * file}"
            )
        split_command(self.on_alert)
        if not 0.0 < self.alert_timeout_seconds <= _LONGEST_ALERT_SECONDS:
            raise ConfigError(
                f"telemetry.alert_timeout_seconds={self.alert_timeout_seconds}: must be in "
                f"(0, {_LONGEST_ALERT_SECONDS:g}], e.g. 30.0"
            )
        if not (math.isfinite(self.alert_interval_seconds) and self.alert_interval_seconds >= 0.0):
            raise ConfigError(
                f"telemetry.alert_interval_seconds={self.alert_interval_seconds}: must be >= 0, e.g. 60.0"
            )
        if self.buffer_records < 16:
            raise ConfigError(f"telemetry.buffer_records={self.buffer_records}: must be >= 16, e.g. 4096")
