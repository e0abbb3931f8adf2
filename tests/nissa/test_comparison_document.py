"""The document of several runs: tables by policy, by seed, one by one, and the fronts."""

from __future__ import annotations

from dataclasses import replace

from esper.nissa import build_comparison, compare_tasks, render_markdown
from nissa.test_task_comparison import ROW, row


def test_every_run_policy_and_seed_is_told() -> None:
    rows = [row("a", "never", 0, 0.90), row("b", "never", 1, 0.92), row("c", "greedy", 0, 0.95)]
    document = build_comparison(compare_tasks(rows))
    text = render_markdown(document, {"fronts-0": "fronts-0.svg"})
    assert "# 3 growth runs: digits" in text
    assert "| never | 2 | 91.0 \u00b1 1.4 % | 7,622 | 5.16 GFLOPs | 1.0 |" in text
    assert "| 0 | 95.0 % | 90.0 % |" in text
    assert "| 1 | - | 92.0 % |" in text
    assert "| all | 95.0 % | 91.0 \u00b1 1.4 % |" in text
    assert "| c | greedy | 0 | 95.0 % | 7,622 | 5.16 GFLOPs | 1 | horizon |" in text
    assert "| parameters | c | 95.0 % | 7,622 |" in text
    assert "](fronts-0.svg)" in text


def test_a_run_without_numbers_is_told_as_such() -> None:
    blank = replace(ROW, test_metric=None, validation_metric=None, task="", total_params=0)
    text = render_markdown(build_comparison(compare_tasks([blank, replace(blank, name="b")])), {})
    assert "unnamed task" in text
    assert "Not every run has read the test split." in text
    assert "| heuristic | 0 | - | 0 |" in text
    assert "None." in text  # an empty front


def test_two_tasks_have_two_figures() -> None:
    document = build_comparison(compare_tasks([ROW, replace(ROW, task="other", total_flops=1)]))
    assert [figure.name for figure in document.figures] == ["fronts-0", "fronts-1"]
