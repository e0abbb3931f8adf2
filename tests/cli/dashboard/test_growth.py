"""What is drawn of one host run: curves, strips, slots and seeds, thinned without losing their extremes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from esper.cli.dashboard.growth import (
    MAX_DRAWN_CLASSES,
    MAX_DRAWN_POINTS,
    MAX_GROUP_SERIES,
    MAX_MISTAKES,
    build_growth,
    thin,
)
from esper.cli.dashboard.store import Held
from esper.leyline import ClassesMeasured, Event, JsonValue, RunStarted, SharpnessMeasured
from nissa.sample_run import EPOCHS, SLOTS, finished_epoch, numbered, run_events


def held(events: list[Event]) -> list[Held]:
    return [Held(n, record) for n, record in enumerate(numbered(events))]


def table(value: JsonValue) -> dict[str, JsonValue]:
    assert isinstance(value, dict)
    return dict(value)


def rows(value: JsonValue) -> list[JsonValue]:
    assert isinstance(value, list)
    return list(value)


def test_curves_slots_and_seeds_share_the_epochs_of_the_run() -> None:
    growth = build_growth(held(list(run_events())), 0)
    assert growth["x"] == list(range(1, EPOCHS + 1))
    assert growth["metric_name"] == "accuracy"
    assert growth["horizon"] == EPOCHS
    assert [table(strip)["slot"] for strip in rows(growth["strips"])] == list(SLOTS)
    for strip in rows(growth["strips"]):
        spans = [table(span) for span in rows(table(strip)["spans"])]
        assert (spans[0]["start_epoch"], spans[-1]["end_epoch"]) == (0, EPOCHS)
    slots = table(growth["slots"])
    assert slots["x"] == [19, 21]
    assert table(table(slots["by_slot"])["block2"])["contribution"] == [0.02, None]
    assert {table(seed)["outcome"] for seed in rows(growth["seeds"])} == {"fossilized", "culled"}
    for name, values in table(growth["series"]).items():
        assert values is None or len(rows(values)) == EPOCHS, name


def test_a_run_that_has_only_begun_is_drawn_empty() -> None:
    growth = build_growth(held(list(run_events())[:1]), 0)
    assert growth["x"] == []
    assert growth["finished"] is None
    assert len(rows(growth["strips"])) == len(SLOTS)
    assert build_growth([], 0)["strips"] == []


def test_numbers_that_are_not_finite_leave_a_gap() -> None:
    events = [finished_epoch(1), replace(finished_epoch(2), validation_loss=math.nan), finished_epoch(3)]
    series = table(build_growth(held(list(events)), 0)["series"])
    assert rows(series["validation_loss"])[1] is None


def test_a_long_run_is_thinned() -> None:
    events: list[Event] = [finished_epoch(epoch) for epoch in range(1, 5_001)]
    growth = build_growth(held(events), 0)
    x = rows(growth["x"])
    assert len(x) <= MAX_DRAWN_POINTS + 2
    assert (x[0], x[-1]) == (1, 5_000)
    assert growth["num_epochs"] == 5_000


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400), st.integers(2, 60))
def test_thinning_keeps_both_ends_and_both_extremes(values: list[float], most: int) -> None:
    kept = thin(values, most)
    assert kept == sorted(set(kept))
    assert len(kept) <= most + 2
    assert {0, len(values) - 1} <= set(kept)
    shown = [values[index] for index in kept]
    assert (min(shown), max(shown)) == (min(values), max(values))


def test_a_resumed_start_and_other_trouble_is_marked() -> None:
    start = next(iter(run_events()))
    assert isinstance(start, RunStarted)
    growth = build_growth(held([start, finished_epoch(1), replace(start, is_resumed=True, epoch=1)]), 0)
    assert [table(mark)["kind"] for mark in rows(growth["markers"])] == ["RunStarted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientsMeasured(Event):
    """An event of diagnostics, in more or less detail."""

    health: float
    layers: Mapping[str, float]
    accuracy: tuple[float | None, ...] = ()


def test_diagnostics_are_drawn_by_field_whatever_their_detail() -> None:
    events: list[Event] = [
        GradientsMeasured(
            epoch=epoch, health=0.9, layers={"conv1": 1.0 * epoch, "conv2": math.nan}, accuracy=(0.5, None)
        )
        for epoch in (1, 2)
    ]
    groups = {
        str(table(group)["title"]): table(group) for group in rows(build_growth(held(events), 0)["measured"])
    }
    assert set(groups) == {"Gradients: health", "Gradients: layers", "Gradients: accuracy"}
    assert groups["Gradients: layers"]["x"] == [1, 2]
    assert groups["Gradients: layers"]["series"] == {"conv1": [1.0, 2.0]}
    assert groups["Gradients: accuracy"]["series"] == {"0": [0.5, 0.5]}


def test_a_group_of_very_many_curves_is_cut_and_counted() -> None:
    event = GradientsMeasured(epoch=1, health=1.0, layers={f"layer{index:03}": 1.0 for index in range(200)})
    (group,) = [
        table(group)
        for group in rows(build_growth(held([event]), 0)["measured"])
        if table(group)["title"] == "Gradients: layers"
    ]
    assert len(table(group["series"])) == MAX_GROUP_SERIES
    assert group["num_left_out"] == 200 - MAX_GROUP_SERIES


def confused(epoch: int, counts: tuple[tuple[int, ...], ...]) -> ClassesMeasured:
    items = tuple(map(sum, counts))
    none = tuple(None for _ in counts)
    return ClassesMeasured(epoch=epoch, num_items=items, accuracy=none, loss=none, confusion=counts)


def test_the_latest_confusion_is_told_with_its_most_frequent_mistakes() -> None:
    events = [confused(1, ((9, 0, 0),) * 3), confused(2, ((5, 1, 0), (4, 2, 4), (0, 0, 7))), confused(3, ())]
    assert build_growth(held(list(events)), 0)["confusion"] == {
        "epoch": 2,
        "num_classes": 3,
        "counts": [[5, 1, 0], [4, 2, 4], [0, 0, 7]],
        "mistakes": [
            {"true": 1, "guess": 0, "count": 4},
            {"true": 1, "guess": 2, "count": 4},
            {"true": 0, "guess": 1, "count": 1},
        ],
    }
    assert build_growth(held([finished_epoch(1)]), 0)["confusion"] is None


def test_of_very_many_classes_only_the_worst_mistakes_are_told() -> None:
    num_classes = MAX_DRAWN_CLASSES + 1
    told = table(build_growth(held([confused(1, ((1,) * num_classes,) * num_classes)]), 0)["confusion"])
    assert told["counts"] is None
    assert told["num_classes"] == num_classes
    assert len(rows(told["mistakes"])) == MAX_MISTAKES


def test_groups_stand_in_the_order_of_their_subjects_however_late_a_field_first_tells() -> None:
    sharp = SharpnessMeasured(epoch=1, sharpness=1.0, loss=0.5, sigma=0.01, num_draws=3, num_items=8)
    first = GradientsMeasured(epoch=1, health=1.0, layers={})
    later = GradientsMeasured(epoch=2, health=1.0, layers={"conv1": 1.0})
    groups = rows(build_growth(held([first, sharp, later]), 0)["measured"])
    titles = [table(group)["title"] for group in groups]
    assert titles == ["Gradients: health", "Gradients: layers", "Sharpness", "Sharpness: loss"]
