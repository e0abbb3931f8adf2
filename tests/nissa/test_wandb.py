"""An offline run of W&B, read back as wandb's own records; nothing may leave this machine."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

from source_tree import SRC

WRITE = """
import sys
from pathlib import Path
from esper.nissa import WandbBackend
from nissa.sample_run import numbered, run_events
from nissa.sample_training import training_events

events = training_events(3) if sys.argv[2] == "training" else run_events()
backend = WandbBackend(Path(sys.argv[1]), "0123abcd")
for record in numbered(events):
    backend.write(record)
backend.flush(durable=True)
backend.close()
backend.close()
"""


def _write(folder: Path, kind: str, before: Sequence[str] = ()) -> None:
    """Write in a process of its own, with an environment that asks for the network."""
    folders = os.pathsep.join((str(SRC), str(Path(__file__).parents[1])))
    asked = {"WANDB_MODE": "online", "WANDB_API_KEY": "x" * 40, "WANDB_ERROR_REPORTING": "true"}
    answer = subprocess.run(
        [*before, sys.executable, "-c", WRITE, str(folder), kind],
        env={**os.environ, "PYTHONPATH": folders, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


def _records(path: Path) -> Iterator[Record]:
    """The library's own records from its file: pieces in blocks of 32 KiB behind a head of seven bytes."""
    data, place, whole = path.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while place < len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # all of a record, or its last piece
            yield Record.FromString(whole)
            whole = b""


def _read(folder: Path) -> list[tuple[str, dict[str, object]]]:
    """(kind, content) of what the one offline run of a folder holds."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    found: list[tuple[str, dict[str, object]]] = []
    for record in _records(path):
        kind = str(record.WhichOneof("record_type"))
        if kind == "history":
            items = record.history.item
            content = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
            found.append((kind, content))
        elif kind == "run":
            run = record.run
            found.append((kind, {"id": run.run_id, "project": run.project, "host": run.host}))
        elif kind == "config":
            content = {item.key or ".".join(item.nested_key): json.loads(item.value_json)
                       for item in record.config.update}  # fmt: skip
            found.append((kind, content))
    return found


@pytest.mark.slow
def test_an_offline_run_holds_every_curve_and_what_the_run_is(tmp_path: Path) -> None:
    _write(tmp_path, "host")
    found = _read(tmp_path)
    rows = [content for kind, content in found if kind == "history" and "validation/accuracy" in content]
    assert [row["epoch"] for row in rows] == list(range(1, 41))
    facts = {key: value for kind, content in found if kind == "config" for key, value in content.items()}
    assert (facts["task"], facts["policy"], facts["seed"]) == ("digits", "heuristic", 3)
    run = next(content for kind, content in found if kind == "run")
    assert (run["id"], run["project"], run["host"]) == ("0123abcd", "esper-lite", "")


@pytest.mark.slow
def test_a_training_lies_on_the_axis_of_steps(tmp_path: Path) -> None:
    _write(tmp_path, "training")
    rows = [content for kind, content in _read(tmp_path) if kind == "history"]
    assert [row["time/total_timesteps"] for row in rows] == [20, 40, 60]
    assert all({"rollout/ep_rew_mean", "train/approx_kl"} <= set(row) for row in rows)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_no_process_of_it_asks_for_another_machine(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    _write(tmp_path, "host", ["strace", "-f", "-qq", "-e", "trace=socket,connect", "-o", str(trace)])
    calls = trace.read_text(encoding="utf-8", errors="replace")
    assert "AF_UNIX" in calls
    assert "AF_INET" not in calls
