"""Any bytes, and any data under fitting hashes: read as ours, or refused in our words.

The short forms draw the same cases every time; the long ones draw new ones for `ESPER_SOAK_MINUTES` (30).
"""

from __future__ import annotations

import copy
import gzip
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from battery_rows import BatteryRecord
from cli.calling import call
from data.formats import idx_bytes
from esper.data.cifar10 import read_python_file
from esper.data.reading import read_idx, read_npz
from esper.leyline import CheckpointError, DataError, ForeignCheckpointError, JsonValue
from esper.tolaria import StateRecord
from esper.tolaria.checkpoint.manifest import STATE_FILE, TENSOR_FILE
from esper.tolaria.checkpoint.reader import read_checkpoint
from tolaria.checkpoint.faults import save_epochs
from tolaria.checkpoint.hostile import write_sealed
from tolaria.small_run import drive, make_run, through_json

MAX_BYTES = 1 << 24
FILES = ("MANIFEST.json", STATE_FILE, TENSOR_FILE)
PLAIN: st.SearchStrategy[JsonValue] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["TRAINING", "block1", "host", "1e400", "-1"]),
)
JSON_VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
Build = Callable[[settings], Callable[[], None]]


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Draw the bytes with pieces overwritten, taken out, doubled or cut off; or something else altogether."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    data = whole
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(0, 12))
        piece = draw(st.binary(max_size=8) | st.just(data[start : start + length] * 2))
        data = data[:start] + piece + data[start + length :]
    return data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data


def run_cases(num_cases: int | None, build: Build, battery: BatteryRecord) -> None:
    """Run a check on that many drawn cases; None = on new ones until the time for soaking is over."""
    if num_cases is not None:
        build(settings(max_examples=num_cases))()
        battery.record(n=num_cases)
        return
    minutes = float(os.environ.get("ESPER_SOAK_MINUTES", "30"))
    until = time.monotonic() + 60 * minutes
    while time.monotonic() < until:
        new = settings(max_examples=500, derandomize=False, suppress_health_check=list(HealthCheck))
        build(new)()
        battery.record(n=500, note=f"{minutes:g} minutes")


long_and_short = pytest.mark.parametrize(
    "num_cases",
    [
        150,
        pytest.param(2000, marks=[pytest.mark.slow, pytest.mark.fault]),
        pytest.param(None, marks=[pytest.mark.soak, pytest.mark.timeout(24 * 3600)]),
    ],
)


@pytest.mark.battery("T10")
@long_and_short
def test_a_checkpoint_of_any_bytes_is_read_or_refused(
    num_cases: int | None, tmp_path: Path, battery: BatteryRecord
) -> None:
    save_epochs(tmp_path, 1)
    (good,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    whole = {name: (good / name).read_bytes() for name in FILES}
    kind = json.loads(whole["MANIFEST.json"])["kind"]

    def build(cases: settings) -> Callable[[], None]:
        @cases
        @given(data=st.data(), name=st.sampled_from(FILES), is_sealed=st.booleans())
        def check(data: st.DataObject, name: str, is_sealed: bool) -> None:
            files = whole | {name: data.draw(damaged(whole[name]))}
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "c"
                if is_sealed:
                    write_sealed(path, files[TENSOR_FILE], files[STATE_FILE], kind=kind)
                else:
                    path.mkdir()
                    for key, content in files.items():
                        (path / key).write_bytes(content)
                expect_read_or_refused(path, kind)

        return check

    run_cases(num_cases, build, battery)


def expect_read_or_refused(path: Path, kind: str) -> None:
    """Read, or be refused with the path."""
    try:
        read_checkpoint(path, kind=kind, max_tensor_bytes=MAX_BYTES)
    except CheckpointError as error:
        assert str(path) in str(error)  # noqa: PT017 - either outcome is right


@pytest.mark.battery("T10")
@pytest.mark.parametrize(
    "num_cases",
    [
        30,
        pytest.param(400, marks=[pytest.mark.slow, pytest.mark.fault]),
        pytest.param(None, marks=[pytest.mark.soak, pytest.mark.timeout(24 * 3600)]),
    ],
)
def test_a_state_of_any_data_is_taken_or_refused(num_cases: int | None, battery: BatteryRecord) -> None:
    """What stands in a checkpoint with fitting hashes is foreign, or a run can go on with it."""
    run = make_run()
    drive(run, 4)
    good = through_json(run.state())
    target = make_run()

    def build(cases: settings) -> Callable[[], None]:
        @cases
        @given(data=st.data())
        def check(data: st.DataObject) -> None:
            state = copy.deepcopy(good.state)
            for _ in range(data.draw(st.integers(1, 2))):
                change_one(data, state)
            tensors = dict(good.tensors)
            if data.draw(st.integers(0, 3)) == 0:
                name = data.draw(st.sampled_from(sorted(tensors)))
                tensors[name] = data.draw(
                    st.sampled_from([torch.zeros(2), torch.zeros(3, dtype=torch.uint8)])
                )
            try:
                target.restore(StateRecord(tensors=tensors, state=state))
            except ForeignCheckpointError:
                return
            target.observe()

        return check

    run_cases(num_cases, build, battery)


def change_one(data: st.DataObject, state: JsonValue) -> None:
    """Replace, remove or add one value somewhere in plain data."""
    here = state
    while True:
        keys = (
            list(here) if isinstance(here, dict) else list(range(len(here)) if isinstance(here, list) else ())
        )
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        inner = here[key]  # type: ignore[index]
        if isinstance(inner, dict | list) and inner and data.draw(st.integers(0, 4)):
            here = inner
            continue
        if data.draw(st.integers(0, 3)) == 0:
            del here[key]  # type: ignore[union-attr]
        else:
            here[key] = data.draw(JSON_VALUES)  # type: ignore[index]
        return


@pytest.mark.battery("T44")
@long_and_short
def test_a_data_file_of_any_bytes_is_read_or_refused(num_cases: int | None, battery: BatteryRecord) -> None:
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    plain = idx_bytes(images)
    wholes = [plain, gzip.compress(plain, mtime=0)]

    def build(cases: settings) -> Callable[[], None]:
        @cases
        @given(data=st.data(), whole=st.sampled_from(wholes))
        def check(data: st.DataObject, whole: bytes) -> None:
            content = data.draw(damaged(whole))
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "file"
                path.write_bytes(content)
                for read in (
                    lambda: read_idx(path, 3, MAX_BYTES),
                    lambda: read_npz(path, ("x",), MAX_BYTES),
                    lambda: read_python_file(path, 1),
                ):
                    expect_data_or_refused(read, path)

        return check

    run_cases(num_cases, build, battery)


def expect_data_or_refused(read: Callable[[], object], path: Path) -> None:
    """Read, or be refused with the path."""
    try:
        read()
    except DataError as error:
        assert str(path) in str(error)  # noqa: PT017 - either outcome is right


@pytest.mark.battery("T43")
@pytest.mark.soak
@pytest.mark.timeout(24 * 3600)
def test_a_configuration_of_any_bytes_is_read_or_refused(tmp_path: Path, battery: BatteryRecord) -> None:
    whole = call(["config", "show"]).out.encode()

    def build(cases: settings) -> Callable[[], None]:
        @cases
        @given(data=st.data())
        def check(data: st.DataObject) -> None:
            (tmp_path / "a.toml").write_bytes(data.draw(damaged(whole)))
            answer = call(["config", "show", "--config", str(tmp_path / "a.toml")])
            assert answer.code in (0, 2)
            assert len(answer.error_lines) == (1 if answer.code else 0)
            assert "Traceback" not in answer.err

        return check

    run_cases(None, build, battery)
