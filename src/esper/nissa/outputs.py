"""Telemetry wired in one place: a configuration becomes a hub with its backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from esper.leyline import ConfigError
from esper.nissa.alert_command import AlertCommand, split_command
from esper.nissa.backends.alerts import AlertBackend
from esper.nissa.backends.base import OutputBackend
from esper.nissa.backends.buffered import BufferedBackend
from esper.nissa.backends.console import build_console
from esper.nissa.backends.run_directory import RunDirectoryBackend
from esper.nissa.config import BYTES_PER_MB, TelemetryConfig
from esper.nissa.event_chain import FileCaps
from esper.nissa.hub import EventHub
from esper.nissa.trackers import build_trackers


def build_hub(
    config: TelemetryConfig,
    *,
    run_id: str,
    stream: TextIO,
    environ: Mapping[str, str],
    directory: Path | None = None,
    rank: int = 0,
    watchers: Sequence[OutputBackend] = (),
) -> EventHub:
    """Build the hub of one process; a directory that holds events already is continued.

    The event file is written directly, so that a lifecycle event is on its way to the disk when `emit`
    returns; the console and the trackers stand behind buffers, because a stopped terminal must not stop
    training.

    Args:
        config: What is shown and written.
        run_id: Name of the run.
        stream: Where progress goes: stderr.
        environ: Environment variables: NO_COLOR, CI and TERM are read.
        directory: The run's directory; None writes no files.
        rank: This process; only rank 0 shows progress and feeds trackers.
        watchers: Further backends; they see every event after it was written.

    Raises:
        ConfigError: If trackers are asked for without a directory, or are not installed.
        RunDirectoryError: If the directory is missing, cannot be written, or belongs to another run.
        DataError: If the event file is damaged beyond a torn last line.

    Example:
        >>> import io
        >>> hub = build_hub(TelemetryConfig(progress="none"), run_id="a", stream=io.StringIO(), environ={})
        >>> hub.next_seq
        0
    """
    backends: list[OutputBackend] = []
    attempt = first_seq = 0
    if directory is not None:
        files = RunDirectoryBackend(
            directory,
            run_id=run_id,
            rank=rank,
            flush_interval_seconds=config.flush_interval_seconds,
            caps=FileCaps(
                part_bytes=int(config.max_event_file_mb * BYTES_PER_MB),
                total_bytes=int(config.max_events_mb * BYTES_PER_MB),
            ),
        )
        attempt, first_seq = files.next_attempt, files.next_seq
        backends.append(files)
    if rank == 0:
        command = split_command(config.on_alert)
        if command:  # first of all, so that the others are told of its failures until the end
            runner = AlertCommand(command, timeout_seconds=config.alert_timeout_seconds)
            alerts = AlertBackend(runner, run_dir=directory, interval_seconds=config.alert_interval_seconds)
            backends.insert(0, alerts)
        console = build_console(config.progress, stream=stream, environ=environ, is_quiet=config.is_quiet)
        if console is not None:
            backends.append(BufferedBackend(console, capacity=config.buffer_records))
        backends += _buffered_trackers(config, directory, run_id)
    backends += watchers
    return EventHub(backends, run_id, attempt=attempt, rank=rank, first_seq=first_seq)


def _buffered_trackers(
    config: TelemetryConfig, directory: Path | None, run_id: str
) -> Sequence[OutputBackend]:
    if not config.trackers:
        return ()
    if directory is None:
        raise ConfigError("telemetry.trackers: they write below the run's directory, and this run has none")
    trackers = build_trackers(config.trackers, folder=directory, run_id=run_id)
    return [BufferedBackend(tracker, capacity=config.buffer_records) for tracker in trackers]
