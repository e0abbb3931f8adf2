from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from esper.leyline import ExitCode
from esper.runtime.ranks import RankVerdict, clear_verdicts, find_final, read_verdicts, write_verdict

VERDICT = RankVerdict(
    code=ExitCode.RANK_FAILURE, step=7, phase="rollout", reason="rank 1 stopped answering", rank=0, attempt=2
)


def test_a_verdict_is_read_back_as_written(tmp_path: Path) -> None:
    write_verdict(tmp_path, VERDICT)
    write_verdict(tmp_path, replace(VERDICT, rank=10, reason="x" * 5_000))
    write_verdict(tmp_path, replace(VERDICT, rank=2))
    found = read_verdicts(tmp_path)
    assert (tmp_path / "verdict-rank-0.json").exists()
    assert found.verdicts[0] == VERDICT
    assert [verdict.rank for verdict in found.verdicts] == [0, 2, 10]
    assert found.problems == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"code": 4',
        '{"code": "4"}',
        '{"code": 400, "step": 0, "phase": "", "reason": "", "rank": 1, "attempt": 0}',
        '{"code": 4, "step": 0, "phase": "", "reason": "", "rank": 3, "attempt": 0}',
    ],
)
def test_a_damaged_verdict_is_told_and_hides_no_other(text: str, tmp_path: Path) -> None:
    write_verdict(tmp_path, VERDICT)
    (tmp_path / "verdict-rank-1.json").write_text(text)
    found = read_verdicts(tmp_path)
    assert found.verdicts == (VERDICT,)
    assert len(found.problems) == 1
    assert "verdict-rank-1.json" in found.problems[0]


@pytest.mark.parametrize(
    ("code", "is_final"),
    [
        (0, False),
        (1, False),
        (2, True),
        (3, True),
        (4, False),
        (5, True),
        (6, True),
        (93, True),
        (130, True),
        (143, True),
        (77, False),
    ],
)
def test_the_table_of_codes_says_what_a_restart_cannot_help(
    code: int, is_final: bool, tmp_path: Path
) -> None:
    write_verdict(tmp_path, replace(VERDICT, code=code))
    final = find_final(tmp_path)
    assert (final is not None) is is_final
    assert final is None or final.code == code


def test_all_ranks_leave_with_the_code_that_tells_most(tmp_path: Path) -> None:
    for rank, code in enumerate((143, 4, 5, 3, 3)):
        write_verdict(tmp_path, replace(VERDICT, rank=rank, code=code))
    final = find_final(tmp_path)
    assert final is not None
    assert (final.code, final.rank) == (3, 3)


def test_clearing_removes_damaged_verdicts_too_and_nothing_else(tmp_path: Path) -> None:
    write_verdict(tmp_path, VERDICT)
    (tmp_path / "verdict-rank-1.json").write_text("{")
    (tmp_path / "heartbeat-rank-1.json").write_text("{}")
    clear_verdicts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["heartbeat-rank-1.json"]
    assert find_final(tmp_path) is None
    clear_verdicts(tmp_path / "missing")
