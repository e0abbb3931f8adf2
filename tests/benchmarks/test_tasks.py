"""Settings of the tasks: the grid of rates, what fixes a protocol, and sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from growth import tasks
from growth.tasks import TASK_NAMES, find_settings, load_bench_task

from esper.leyline import ConfigError


def test_the_grid_is_a_third_one_and_three_times_the_default() -> None:
    for name in TASK_NAMES:
        settings = find_settings(name)
        low, middle, high = settings.rates
        assert middle == settings.default_rate == settings.learning_rate
        assert low == pytest.approx(middle / 3, rel=1e-3)
        assert high == pytest.approx(3 * middle)


def test_an_unknown_task_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="digits"):
        find_settings("digit")


def test_every_setting_is_part_of_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = find_settings("digits")
    hashes = {settings.hash_protocol()}
    for change in ({"width": 9}, {"epochs": 3}, {"learning_rate": 0.2}, {"statistics_rows": 600}):
        hashes.add(replace(settings, **change).hash_protocol())
    monkeypatch.setattr(tasks, "LINE_SEARCH", (0.0, 1.0))
    hashes.add(settings.hash_protocol())
    assert len(hashes) == 6


def test_statistics_leave_the_rows_of_the_line_search_over() -> None:
    task = load_bench_task(find_settings("digits"))
    assert task.num_inputs == 64
    assert task.statistics_rows == 1_077 - 512
    assert task.params(task.big) <= 2_410 < task.params(tuple(width + 1 for width in task.big))
    assert task.epoch_flops((8, 8, 8)) == 3 * 2 * (64 * 8 + 8 * 8 + 8 * 8 + 8 * 10) * 1_077
