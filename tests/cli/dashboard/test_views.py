"""The answers of the dashboard: what a browser is told of what is new, and of what it missed."""

from __future__ import annotations

from pathlib import Path

from cli.dashboard.sample_runs import entry_of, make_run, make_training, open_views
from esper.cli.dashboard.lists import ListQuery
from esper.cli.dashboard.views import MAX_SENT_EVENTS
from nissa.sample_run import decided, run_events


def test_the_overview_lists_the_newest_first(tmp_path: Path) -> None:
    make_run(tmp_path, "a")
    make_training(tmp_path, "b")
    told = open_views(tmp_path).overview()
    rows = told["runs"]
    assert isinstance(rows, list)
    assert [row["name"] for row in rows if isinstance(row, dict)] == ["b", "a"]
    assert not told["is_behind"]


def test_news_tell_what_is_behind_the_last_known_place(tmp_path: Path) -> None:
    views = open_views(tmp_path)
    entry = entry_of(views, make_run(tmp_path, "a"))
    everything = views.news(entry, -1)
    last = everything["n"]
    assert isinstance(last, int)
    told = views.news(entry, last - 1)
    assert told["n"] == last
    events = told["events"]
    assert isinstance(events, list)
    assert [event["kind"] for event in events if isinstance(event, dict)] == ["RunFinished"]
    assert views.news(entry, last)["events"] == []


def test_more_news_than_are_told_are_counted(tmp_path: Path) -> None:
    start = next(iter(run_events()))
    folder = make_run(tmp_path, "a", [start, *(decided(epoch, "WAIT") for epoch in range(500))])
    views = open_views(tmp_path)
    told = views.news(entry_of(views, folder), 0)
    events = told["events"]
    assert isinstance(events, list)
    assert len(events) == MAX_SENT_EVENTS
    assert told["num_missed"] == 500 - MAX_SENT_EVENTS


def test_every_view_of_a_run_answers(tmp_path: Path) -> None:
    views = open_views(tmp_path)
    host = entry_of(views, make_run(tmp_path, "a"))
    assert views.head(host)["num_held"]
    assert isinstance(views.growth(host, 0), dict)
    assert isinstance(views.events(host, ListQuery()), dict)
    assert isinstance(views.decisions(host, ListQuery()), dict)
    assert isinstance(views.training(host), dict)
    assert views.decision(host, 10**6) is None
