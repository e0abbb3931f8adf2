"""The demonstration grows digits by the heuristic's own decisions and exports them."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.runtime.demo import run_demo


@pytest.mark.slow
def test_the_demo_keeps_a_seed_and_exports_an_equal_model(tmp_path: Path) -> None:
    said: list[str] = []
    summary = run_demo(tmp_path / "run", say=said.append)
    assert [line[:6] for line in said] == ["1 of 3", "2 of 3", "3 of 3"]
    assert any(slot["stage"] == "FOSSILIZED" for slot in summary.grown.slots)
    assert summary.never.total_params == summary.never.host_params
    assert summary.export.max_difference <= 1e-5
    assert (tmp_path / "run" / "model.pt2").exists()
    assert set(summary.to_json()) == {"grown", "never", "export"}
