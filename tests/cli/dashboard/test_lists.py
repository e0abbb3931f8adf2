"""Lists in pieces: what passes a filter, counted and numbered, and one decision with its reward."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cli.dashboard.sample_runs import decided_and_paid
from esper.cli.dashboard.lists import ListQuery, describe_store, find_decision, list_decisions, list_events
from esper.cli.dashboard.store import RunStore
from esper.leyline import DecisionMade, Event, JsonValue, RewardGranted, RunStarted
from nissa.sample_run import numbered, run_events


def store_of(events: list[Event]) -> RunStore:
    store = RunStore(Path("nowhere"))
    store.add(numbered(events))
    return store


def page(value: JsonValue) -> tuple[JsonValue, list[dict[str, JsonValue]]]:
    assert isinstance(value, dict)
    rows = value["rows"]
    assert isinstance(rows, list)
    return value["total"], [dict(row) for row in rows if isinstance(row, dict)]


def test_pieces_together_are_the_whole_list() -> None:
    store = store_of(list(run_events()))
    found: list[dict[str, JsonValue]] = []
    for start in range(0, len(store.all()), 7):
        total, rows = page(list_events(store, ListQuery(start=start, count=7)))
        assert total == len(store.all())
        found += rows
    assert [row["n"] for row in found] == list(range(len(store.all())))


def test_a_kind_and_words_filter_together() -> None:
    store = store_of(list(run_events()))
    total, rows = page(list_events(store, ListQuery(kind="StageChanged", text="block2 FOSSILIZED")))
    assert total == 1
    assert rows[0]["kind"] == "StageChanged"
    assert page(list_events(store, ListQuery(text="no such words")))[0] == 0
    assert page(list_events(store, ListQuery(kind="StageChanged", instance=4)))[0] == 0


def test_decisions_are_filtered_by_operation_and_environment() -> None:
    first, paid = decided_and_paid(10)
    other, _ = decided_and_paid(11)
    assert isinstance(first, DecisionMade)
    assert isinstance(other, DecisionMade)
    events = [replace(first, round=1, env_id=0), paid, replace(other, round=1, env_id=1, op="WAIT")]
    store = store_of(events)
    assert [row["n"] for row in page(list_decisions(store, ListQuery(env=1)))[1]] == [2]
    assert [row["n"] for row in page(list_decisions(store, ListQuery(kind="GERMINATE")))[1]] == [0]
    assert [row["n"] for row in page(list_events(store, ListQuery(env=0)))[1]] == [0]


def test_a_decision_is_shown_with_what_it_saw_and_the_reward_that_followed() -> None:
    start = next(iter(run_events()))
    assert isinstance(start, RunStarted)
    decision, paid = decided_and_paid()
    store = store_of([replace(start, heads={"op": ("WAIT", "GERMINATE")}), decision, paid])
    found = find_decision(store, 1)
    assert isinstance(found, dict)
    fields, reward = found["fields"], found["reward"]
    assert isinstance(fields, dict)
    assert isinstance(reward, dict)
    assert fields["observation"] == {"epoch": 0.1, "block1/depth": 0.5}
    assert fields["legal"] == {"op": [True, True]}
    assert found["heads"] == {"op": ["WAIT", "GERMINATE"]}
    assert found["slots"] == list(start.slots)
    assert reward["total"] == 0.5


def test_the_reward_of_the_next_decision_or_another_host_is_not_taken() -> None:
    decision, paid = decided_and_paid()
    assert isinstance(paid, RewardGranted)
    elsewhere = replace(paid, instance=5)
    store = store_of([decision, elsewhere, decision, paid])
    first, second = find_decision(store, 0), find_decision(store, 2)
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert first["reward"] is None
    assert second["reward"] is not None


def test_a_place_that_holds_no_decision_gives_none() -> None:
    store = store_of(list(run_events()))
    assert find_decision(store, 0) is None
    assert find_decision(store, 10**9) is None


def test_what_is_held_is_told_with_what_is_missing() -> None:
    told = describe_store(store_of(list(run_events())))
    assert told["num_held"] == told["num_read"]
    assert (told["num_dropped"], told["num_bad"], told["instances"]) == (0, 0, [0])
