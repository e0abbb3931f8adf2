"""One host run as its page shows it: curves, slots, seeds and signs of trouble, thinned to what can be drawn.

Pure functions over held records.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict

from esper.cli.dashboard.plain import event_fields, finite, finite_all, list_row
from esper.cli.dashboard.store import Held, events_of
from esper.leyline import (
    ClassesMeasured,
    EpochCompleted,
    Event,
    JsonValue,
    RunFinished,
    RunStarted,
    SlotMeasured,
)
from esper.nissa import compute_curves, compute_fates, compute_strips, effective_events

MAX_DRAWN_POINTS = 1_200
"""Of one curve: more than a screen has columns."""
MAX_MARKERS = 200
MAX_SEEDS = 500
MAX_GROUP_SERIES = 24
"""Curves in one chart; further ones are counted."""
_MARKED = frozenset({"RolledBack", "UpdateSkipped", "CheckpointFailed", "BackendFailed", "EventsDropped"})
_RED_FLAG = "RedFlagRaised"
_DIAGNOSTICS = ("GradientsMeasured", "WeightsMeasured", "ClassesMeasured", "SharpnessMeasured")
"""In the order in which they are drawn."""
_NOT_DRAWN = frozenset(
    {"epoch", "instance", "num_batches", "num_items", "num_draws", "sigma", "since_epoch", "confusion"}
)
MAX_DRAWN_CLASSES = 32
"""Of a table of classes; of more only the worst mistakes are told."""
MAX_MISTAKES = 10
_MAX_DIAGNOSTICS = 4_000
_SLOT_NUMBERS = ("alpha", "contribution", "contribution_error", "shadow_gain", "credit", "gradient_ratio")
_EPOCH_NUMBERS = ("learning_rate", "host_gradient_norm", "num_skipped_batches", "seconds")


def build_growth(held: Sequence[Held], instance: int) -> dict[str, JsonValue]:
    """Return everything that is drawn of one host run.

    Args:
        held: What is held of it, by place.
        instance: Which host run of a fleet.
    """
    events = effective_events(events_of(held), instance)
    curves = compute_curves(events)
    by_epoch = {event.epoch: event for event in events if isinstance(event, EpochCompleted)}
    kept = thin(list(curves.metric), MAX_DRAWN_POINTS)
    epochs = [by_epoch[curves.epochs[index]] for index in kept]
    series: dict[str, JsonValue] = {
        "metric": finite_all(curves.metric[index] for index in kept),
        "train_metric": None
        if curves.train_metric is None
        else finite_all(curves.train_metric[index] for index in kept),
        "train_loss": finite_all(event.train_loss for event in epochs),
        "validation_loss": finite_all(event.validation_loss for event in epochs),
        "total_params": finite_all(event.total_params for event in epochs),
        **{name: finite_all(getattr(event, name) for event in epochs) for name in _EPOCH_NUMBERS},
    }
    start = next((event for event in events if isinstance(event, RunStarted)), None)
    end = next((event for event in reversed(events) if isinstance(event, RunFinished)), None)
    return {
        "instance": instance,
        "metric_name": curves.metric_name,
        "horizon": start.horizon_epochs if start else max(curves.epochs, default=0),
        "host_params": start.host_params if start else None,
        "num_epochs": len(curves.epochs),
        "x": [event.epoch for event in epochs],
        "series": series,
        "strips": [
            {"slot": slot, "spans": [asdict(span) for span in spans]}
            for slot, spans in compute_strips(events).items()
        ],
        "slots": _slot_curves(events),
        "seeds": [_to_json(asdict(fate)) for fate in compute_fates(events)[-MAX_SEEDS:]],
        "markers": [list_row(each.n, each.record) for each in held if _is_marked(each)][-MAX_MARKERS:],
        "measured": _measured(events),
        "confusion": _confusion(events),
        "red_flags": [event_fields(event) for event in events if event.kind == _RED_FLAG][-MAX_MARKERS:],
        "finished": None if end is None else event_fields(end),
    }


def thin(values: Sequence[float], max_points: int) -> list[int]:
    """Return which points of a curve to draw: of every stretch the lowest and the highest, and both ends.

    Args:
        values: The curve.
        max_points: About how many points stay; all of them where there are no more.
    """
    if len(values) <= max_points:
        return list(range(len(values)))
    num_stretches = max(1, max_points // 2)
    kept = {0, len(values) - 1}
    for stretch in range(num_stretches):
        first = stretch * len(values) // num_stretches
        places = range(first, (stretch + 1) * len(values) // num_stretches)
        kept |= {min(places, key=values.__getitem__), max(places, key=values.__getitem__)}
    return sorted(kept)


def _slot_curves(events: Sequence[Event]) -> dict[str, JsonValue]:
    measured = [event for event in events if isinstance(event, SlotMeasured)]
    x = sorted({event.epoch for event in measured})
    step = max(1, -(-len(x) // MAX_DRAWN_POINTS))
    x = x[::-step][::-1]
    place = {epoch: index for index, epoch in enumerate(x)}
    curves: dict[str, dict[str, list[JsonValue]]] = defaultdict(
        lambda: {name: [None] * len(x) for name in _SLOT_NUMBERS}
    )
    for event in measured:
        index = place.get(event.epoch)
        if index is not None:
            for name in _SLOT_NUMBERS:
                curves[event.slot][name][index] = finite(getattr(event, name))
    return {"x": list(x), "by_slot": {slot: dict(of_slot) for slot, of_slot in sorted(curves.items())}}


def _measured(events: Sequence[Event]) -> list[JsonValue]:
    """Return every number that diagnostics measured, a group of curves per field of an event.

    Fields are taken as they are found: an event that is told in more detail is drawn in more detail.
    """
    points: dict[tuple[str, str], dict[str, dict[int, JsonValue]]] = defaultdict(lambda: defaultdict(dict))
    places: dict[tuple[str, str], tuple[int, int]] = {}
    for event in [event for event in events if event.kind in _DIAGNOSTICS][-_MAX_DIAGNOSTICS:]:
        for place, (name, value) in enumerate(event_fields(event).items()):
            if name not in _NOT_DRAWN:
                places[event.kind, name] = (_DIAGNOSTICS.index(event.kind), place)
                for label, number in _numbers(name, value):
                    points[event.kind, name][label][event.epoch] = number
    found = sorted(points, key=places.__getitem__)
    return [_describe_group(_title(*group), points[group]) for group in found]


def _title(kind: str, name: str) -> str:
    subject, field = kind.removesuffix("Measured"), name.replace("_", " ")
    return subject if field == subject.lower() else f"{subject}: {field}"


def _confusion(events: Sequence[Event]) -> JsonValue:
    """Return which class was taken for which when that was told last, and the most frequent mistakes."""
    told = [event for event in events if isinstance(event, ClassesMeasured) and event.confusion]
    if not told:
        return None
    counts = told[-1].confusion
    mistakes = [
        (count, true, guess)
        for true, row in enumerate(counts)
        for guess, count in enumerate(row)
        if guess != true and count
    ]
    mistakes.sort(key=lambda each: (-each[0], each[1:]))
    return {
        "epoch": told[-1].epoch,
        "num_classes": len(counts),
        "counts": [list(row) for row in counts] if len(counts) <= MAX_DRAWN_CLASSES else None,
        "mistakes": [
            {"true": true, "guess": guess, "count": count} for count, true, guess in mistakes[:MAX_MISTAKES]
        ],
    }


def _describe_group(title: str, by_label: Mapping[str, Mapping[int, JsonValue]]) -> dict[str, JsonValue]:
    x = sorted({epoch for of_label in by_label.values() for epoch in of_label})
    x = x[:: -max(1, -(-len(x) // MAX_DRAWN_POINTS))][::-1]
    kept = sorted(by_label)[:MAX_GROUP_SERIES]
    return {
        "title": title,
        "x": list(x),
        "series": {label: [by_label[label].get(epoch) for epoch in x] for label in kept},
        "num_left_out": len(by_label) - len(kept),
    }


def _numbers(name: str, value: JsonValue) -> Iterator[tuple[str, float]]:
    """Yield (label, number) of a field: of itself, of its keys, or of its places."""
    items: Iterable[tuple[str, JsonValue]]
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, Sequence) and not isinstance(value, str):
        items = ((str(index), item) for index, item in enumerate(value))
    else:
        items = ((name.replace("_", " "), value),)
    for label, item in items:
        number = finite(item)
        if number is not None:
            yield label, number


def _is_marked(held: Held) -> bool:
    event = held.record.event
    return event.kind in _MARKED or (isinstance(event, RunStarted) and event.is_resumed)


def _to_json(row: Mapping[str, object]) -> dict[str, JsonValue]:
    return {
        name: finite(value) if isinstance(value, float) else value  # type: ignore[misc]
        for name, value in row.items()
    }
