"""What the table says of telemetry profiles, by hand, and that the benchmark runs.

Covers scripts/telemetry_tables.py and benchmarks/telemetry.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from performance_rows import Row
from source_tree import REPO
from telemetry_tables import add_blocks, build_profiles


def row(profile: str, factor: float) -> Row:
    cpu = [0.1 * factor, 0.3 * factor] * 3
    return {
        "host": "digits",
        "profile": profile,
        "host_params": 1234,
        "num_batches": 10,
        "block_epochs": 2,
        "wall": [2 * seconds for seconds in cpu],
        "cpu": cpu,
        "device": "cpu",
    }


def test_profiles_are_held_against_minimal_by_blocks_beside_each_other() -> None:
    rows = [row("minimal", 1.0), row("standard", 1.02), row("diagnostic", 1.1), row("research", 2.0)]
    table = build_profiles(rows)
    assert "| minimal | 20.00 | 1 | 1 | 3 | - |  |" in table
    assert "1.020 [1.020, 1.020] | 1.020 [1.020, 1.020] | 3 | <= 1.01 | **missed** |" in table
    assert "| diagnostic | 22.00 | 1.100 [1.100, 1.100]" in table
    assert "| research | 40.00 | 2.000 [2.000, 2.000] | 2.000 [2.000, 2.000] | 3 | - |  |" in table
    assert "| <= 1.10 | met |" in build_profiles([row("minimal", 1.0), row("diagnostic", 1.05)])


def test_what_makes_no_block_is_left_out_and_nothing_is_refused() -> None:
    assert add_blocks([1.0, 2.0, 3.0, 4.0, 5.0], 2) == [3.0, 7.0]
    with pytest.raises(ValueError, match="no block of 3"):
        add_blocks([1.0, 2.0], 3)


@pytest.mark.slow
def test_the_benchmark_runs_and_its_rows_make_a_table(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    script = REPO / "benchmarks" / "telemetry.py"
    subprocess.run(
        [sys.executable, str(script), str(out), "--hosts", "digits", "--epochs", "5"],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [found["profile"] for found in rows] == ["minimal", "standard", "diagnostic", "research"]
    assert all(len(found["cpu"]) == 5 and {"device", "torch", "threads"} <= set(found) for found in rows)
    assert build_profiles(rows).count("| digits, ") == 4
