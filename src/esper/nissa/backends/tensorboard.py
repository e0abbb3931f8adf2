"""Writes the numbers of a run as TensorBoard's event files, with TensorBoard's own writer and records.

`tensorboard --logdir runs` then shows every run. Needs the extra `tensorboard`; nothing is served here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, final

from esper.nissa.backends.scalars import compute_scalars, goes_back
from esper.nissa.record import Record

if TYPE_CHECKING:
    from tensorboard.summary.writer.record_writer import RecordWriter

FOLDER_NAME = "tensorboard"
"""Where its files lie in a run's directory."""
_FILE_VERSION = "brain.Event:2"
"""First record of every such file."""


@final
class TensorBoardBackend:
    """Writes one file per attempt; points that a resume or a rollback went back before are taken out."""

    def __init__(self, run_dir: Path) -> None:
        """Write nothing yet.

        Args:
            run_dir: The run's directory; files go to `tensorboard/` in it.
        """
        self._folder = run_dir / FOLDER_NAME
        self._file: BinaryIO | None = None
        self._writer: RecordWriter | None = None
        self._is_back = False

    @property
    def name(self) -> str:
        """Always "tensorboard"."""
        return "tensorboard"

    def write(self, record: Record) -> None:
        """Write the numbers of one record, if it has any.

        Raises:
            ImportError: If TensorBoard is not installed.
            OSError: If the file cannot be written.
        """
        self._is_back = self._is_back or goes_back(record.event)
        scalars = compute_scalars(record.event)
        if scalars is None:
            return
        if self._writer is None:
            self._open(record)
        if self._is_back:
            self._is_back = False
            self._write_start(record.wall_time, scalars.step)
        self._write_values(record.wall_time, scalars.step, scalars.values)

    def flush(self, *, durable: bool = False) -> None:
        """Hand everything to the operating system.

        Raises:
            OSError: If the file cannot be written.
        """
        del durable  # the run's own events are what must survive
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Close the file; a second call does nothing.

        Raises:
            OSError: If the last numbers cannot be written.
        """
        if self._file is not None:
            self._file.close()

    def _open(self, record: Record) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415 - an extra
        from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: PLC0415

        self._folder.mkdir(exist_ok=True)
        # Such files are read in the order of their names; no name of the machine stands in them.
        name = f"events.out.tfevents.{int(record.wall_time):010d}.{record.attempt}"
        self._file = (self._folder / name).open("ab")
        self._writer = RecordWriter(self._file)
        head = Event(wall_time=record.wall_time, file_version=_FILE_VERSION)
        self._writer.write(head.SerializeToString())

    def _write_start(self, wall_time: float, step: int) -> None:
        """Let readers forget what they know from this step on."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # noqa: PLC0415

        start = Event(wall_time=wall_time, step=step, session_log=SessionLog(status=SessionLog.START))
        self._put(start.SerializeToString())

    def _write_values(self, wall_time: float, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415
        from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: PLC0415

        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._put(Event(wall_time=wall_time, step=step, summary=summary).SerializeToString())
        self.flush()

    def _put(self, data: bytes) -> None:
        if self._writer is not None:
            self._writer.write(data)
