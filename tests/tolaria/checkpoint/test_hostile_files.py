"""Whole checkpoints made to do harm, or by chance: refused, at no more than the price of reading them.

Covers tolaria/checkpoint/reader.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from battery_rows import BatteryRecord
from esper.leyline import CheckpointError
from esper.tolaria.checkpoint.reader import read_checkpoint
from tolaria.checkpoint.faults import run_program, save_epochs
from tolaria.checkpoint.hostile import EMPTY_STATE, build_entry, build_tensor_bytes, write_sealed

pytestmark = pytest.mark.fault

CAP = 2**26
NUM_MANY = 10**6
MAX_EXTRA_BYTES = 200 * 2**20
SOAK_MINUTES_NAME = "ESPER_SOAK_MINUTES"


def many_tensors() -> bytes:
    """Return a file that announces a million tensors."""
    entries = b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(NUM_MANY))
    return build_tensor_bytes(b"{" + entries + b"}")


WHOLE = build_entry(0, 4, [1])
HOSTILE: dict[str, Callable[[], bytes]] = {
    "header of 2**63 bytes": lambda: build_tensor_bytes(b"{}", length=2**63),
    "header of 60 MB": lambda: build_tensor_bytes(bytes(60_000_000)),
    "header of 100 MB": lambda: build_tensor_bytes(bytes(100_000_000)),
    "overlapping offsets": lambda: build_tensor_bytes({"a": WHOLE, "b": build_entry(2, 6, [1])}, bytes(6)),
    "a hole": lambda: build_tensor_bytes({"a": WHOLE, "b": build_entry(5, 9, [1])}, bytes(9)),
    "a duplicate key": lambda: build_tensor_bytes(b'{"a":{},"a":{}}'),
    "an overflowing shape": lambda: build_tensor_bytes({"a": build_entry(0, 0, [2**62, 2**62])}),
    "an unknown type": lambda: build_tensor_bytes({"a": build_entry(0, 4, [1], "O")}, bytes(4)),
    "a million tensors": many_tensors,
}


def measure_refusals(root: str) -> None:
    """Read hostile checkpoints in this process; print for each whether it was refused and what that cost.

    Called in a process of its own: the peak of memory is a property of processes.
    """
    for path in sorted(Path(root).iterdir()):
        begin = time.perf_counter()
        for file in sorted(path.iterdir()):
            hashlib.sha256(file.read_bytes()).hexdigest()
        reading_s = time.perf_counter() - begin
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin = time.perf_counter()
        is_refused = False
        try:
            read_checkpoint(path, kind="run", max_tensor_bytes=CAP)
        except CheckpointError:
            is_refused = True
        refusing_s = time.perf_counter() - begin
        extra_bytes = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        sys.stdout.write(json.dumps([path.name, is_refused, reading_s, refusing_s, extra_bytes]) + "\n")


@pytest.mark.battery("T09")
@pytest.mark.slow
def test_a_hostile_checkpoint_costs_no_more_than_reading_it(tmp_path: Path, battery: BatteryRecord) -> None:
    for number, build in enumerate(HOSTILE.values()):
        write_sealed(tmp_path / str(number), build(), EMPTY_STATE)
    program = run_program("measure_refusals", tmp_path, module="test_hostile_files")
    said, errors = program.communicate(timeout=120)
    rows = [json.loads(line) for line in said.splitlines()]
    assert [row[0] for row in rows] == [str(number) for number in range(len(HOSTILE))], errors
    for case, (_, is_refused, reading_s, refusing_s, extra_bytes) in zip(HOSTILE, rows, strict=True):
        assert is_refused, case
        # Judged by the work of reading and hashing the same bytes, which a slow machine does as slowly.
        assert refusing_s <= 0.5 + 10 * reading_s, case
        assert extra_bytes < MAX_EXTRA_BYTES, case
        battery.record(worst_s=refusing_s)


# ---------------------------------------------------------------------- fuzzing


CORPUS = (0, 1, 2, 3, 5, 8, 13, 21, 1717, 65_537)
"""Seeds that are always tried; one that finds something is added."""


def mutate(generator: random.Random, data: bytes) -> bytes:
    """Return bytes with a few places changed, cut, doubled, or replaced by what parsers trip over."""
    changed = bytearray(data)
    for _ in range(generator.randrange(1, 5)):
        place = generator.randrange(len(changed) + 1)
        match generator.randrange(6):
            case 0 if place < len(changed):
                changed[place] ^= 1 << generator.randrange(8)
            case 1:
                del changed[place : place + generator.randrange(1, 64)]
            case 2:
                changed[place:place] = changed[place : place + generator.randrange(1, 64)]
            case 3:
                changed[place:place] = generator.choice(
                    (
                        b"[" * 99,
                        b'"',
                        b"{",
                        b"}",
                        b",",
                        b"\\u0000",
                        b"1e999",
                        b"NaN",
                        b"9" * 99,
                        b"-0",
                        b"\xff",
                    )
                )
            case 4:
                changed[place : place + 8] = generator.randrange(2**64).to_bytes(8, "little")
            case _:
                changed[place : place + 1] = generator.randbytes(generator.randrange(1, 16))
    return bytes(changed)


def try_one(seed: int, folder: Path, original: Path) -> None:
    """Change a checkpoint as a seed says, with or without a manifest that fits, and read it.

    Raises:
        Exception: If anything but a refusal of ours came out of it.
    """
    generator = random.Random(seed)
    files = {name: (original / name).read_bytes() for name in ("tensors.safetensors", "state.json")}
    manifest = (original / "MANIFEST.json").read_bytes()
    for name in generator.choice((["tensors.safetensors"], ["state.json"], list(files), [])):
        files[name] = mutate(generator, files[name])
    target = folder / str(seed)
    write_sealed(target, files["tensors.safetensors"], files["state.json"])
    if generator.randrange(3) == 0:
        (target / "MANIFEST.json").write_bytes(mutate(generator, manifest))
    try:
        read_checkpoint(target, kind="run", max_tensor_bytes=CAP)
    except CheckpointError:
        pass
    finally:
        for file in target.iterdir():
            file.unlink()
        target.rmdir()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint of ours."""
    root = tmp_path_factory.mktemp("original")
    save_epochs(root, 3)
    return root / "e0003-b00000"


@pytest.mark.battery("T10")
@pytest.mark.slow
def test_a_checkpoint_changed_in_any_way_is_read_or_refused_and_nothing_else(
    original: Path, tmp_path: Path, battery: BatteryRecord
) -> None:
    @settings(max_examples=300)
    @given(st.integers(0, 2**32 - 1))
    @example(CORPUS[0])
    def try_any(seed: int) -> None:
        begin = time.perf_counter()
        try_one(seed, tmp_path, original)
        battery.record(worst_s=time.perf_counter() - begin)

    try_any()
    for seed in CORPUS:
        try_one(seed, tmp_path, original)
        battery.record()


@pytest.mark.battery("T10")
@pytest.mark.soak
@pytest.mark.timeout(0)
def test_minutes_of_changes_find_nothing_but_refusals(
    original: Path, tmp_path: Path, battery: BatteryRecord
) -> None:
    minutes = float(os.environ.get(SOAK_MINUTES_NAME, "30"))
    end = time.monotonic() + 60 * minutes
    source = random.SystemRandom()
    while time.monotonic() < end:
        seed, begin = source.randrange(2**63), time.perf_counter()
        try:
            try_one(seed, tmp_path, original)
        except Exception as error:
            raise AssertionError(f"seed {seed} of the corpus: {error!r}") from error
        battery.record(worst_s=time.perf_counter() - begin, note=f"{minutes:g} minutes of changes")
