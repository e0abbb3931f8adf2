"""Long lists in pieces: events and decisions by place, filtered, and one decision in full.

Pure functions over a store; a browser asks for the rows that it shows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import final

from esper.cli.dashboard.plain import event_fields, list_row, to_plain
from esper.cli.dashboard.store import Held, RunStore
from esper.leyline import (
    DecisionMade,
    EpisodeFinished,
    Event,
    JsonValue,
    PolicyTrainingStarted,
    RewardGranted,
    RunStarted,
)

MAX_ROWS = 500
"""Rows per answer."""
MAX_FILTER_CHARS = 200
_STARTS = ("RunStarted", "PolicyTrainingStarted")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """Which rows are asked for."""

    start: int = 0
    """The first one, counted among those that pass the filter, >= 0."""
    count: int = 100
    """In [1, MAX_ROWS]."""
    instance: int | None = None
    """Which host run; None = all."""
    env: int | None = None
    """Which environment of a policy in training; None = all."""
    kind: str = ""
    """Which kind of event, or of operation; empty = all."""
    text: str = ""
    """Words that a row must hold, in any case; empty = any."""


def list_events(store: RunStore, query: ListQuery) -> JsonValue:
    """Return the rows of a list of events, the newest last."""
    found = _matching(store, query)
    return _page(found, query, [list_row(each.n, each.record) for each in _slice(found, query)])


def list_decisions(store: RunStore, query: ListQuery) -> JsonValue:
    """Return the rows of a list of decisions, the newest last; `kind` of the query is an operation."""
    found = [
        each
        for each in store.of_kind("DecisionMade")
        if _is_of(each, query) and (not query.kind or _op_of(each.record.event) == query.kind)
    ]
    return _page(found, query, [_decision_row(each) for each in _slice(found, query)])


def find_decision(store: RunStore, n: int) -> JsonValue:
    """Return one decision in full; None = it is not held.

    The reward is the one that the same host was granted before its next decision.
    """
    held = store.find(n)
    if held is None or not isinstance(held.record.event, DecisionMade):
        return None
    event = held.record.event
    return {
        "n": n,
        "time": held.record.wall_time,
        "fields": event_fields(event),
        "heads": _heads(store, held),
        "slots": list(_slots(store)),
        "reward": _reward(store, held),
    }


def _matching(store: RunStore, query: ListQuery) -> Sequence[Held]:
    if query.instance is not None:
        source = store.of_instance(query.instance)
    else:
        source = store.of_kind(query.kind) if query.kind else store.all()
    words = query.text.casefold().split()
    if not words and query.env is None and (not query.kind or query.instance is None):
        return source
    names: dict[type[Event], tuple[str, ...]] = {}
    return [
        each
        for each in source
        if (not query.kind or each.record.event.kind == query.kind)
        and _is_of(each, query)
        and (not words or _holds(each.record.event, words, names))
    ]


def _is_of(held: Held, query: ListQuery) -> bool:
    """Whether a record belongs to the host run and the environment that are asked for."""
    event = held.record.event
    return (query.instance is None or event.instance == query.instance) and (
        query.env is None or _env_of(event) == query.env
    )


def _env_of(event: Event) -> int | None:
    return event.env_id if isinstance(event, DecisionMade | RewardGranted | EpisodeFinished) else None


def _holds(event: Event, words: Sequence[str], names: dict[type[Event], tuple[str, ...]]) -> bool:
    """Whether the texts of an event hold every word; `names` remembers the fields of each type."""
    own = names.get(type(event))
    if own is None:
        own = names[type(event)] = tuple(item.name for item in fields(event))
    texts = [event.kind]
    for name in own:
        value = getattr(event, name)
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, tuple):
            texts += [item for item in value if isinstance(item, str)]
    text = " ".join(texts).casefold()
    return all(word in text for word in words)


def _slice(found: Sequence[Held], query: ListQuery) -> Sequence[Held]:
    return found[query.start : query.start + query.count]


def _page(found: Sequence[Held], query: ListQuery, rows: Sequence[JsonValue]) -> dict[str, JsonValue]:
    return {"total": len(found), "start": query.start, "rows": list(rows)}


def _op_of(event: Event) -> str:
    return event.op if isinstance(event, DecisionMade) else ""


def _decision_row(held: Held) -> dict[str, JsonValue]:
    own = event_fields(held.record.event)
    names = ("epoch", "instance", "round", "env_id", "op", "slot", "blueprint", "reason", "refusal", "value")
    return {"n": held.n, **{name: own[name] for name in names}}


def _heads(store: RunStore, held: Held) -> JsonValue:
    """Return head -> names of its options, as the last start before a decision says; None = it does not."""
    found: JsonValue = None
    for kind in _STARTS:
        for start in store.of_kind(kind):
            event = start.record.event
            heads = event.heads if isinstance(event, RunStarted | PolicyTrainingStarted) else {}
            if heads and start.n <= held.n and event.instance in (0, held.record.event.instance):
                found = to_plain(heads)
    return found


def _slots(store: RunStore) -> list[str]:
    """Return the names of slots that the starts of a run tell of."""
    names: dict[str, None] = {}
    for kind in _STARTS:
        for start in store.of_kind(kind):
            event = start.record.event
            if isinstance(event, RunStarted):
                names |= dict.fromkeys(event.slots)
            elif isinstance(event, PolicyTrainingStarted):
                names |= dict.fromkeys(event.heads.get("slot", ()))
    return list(names)


def _reward(store: RunStore, decision: Held) -> JsonValue:
    of_host = store.of_instance(decision.record.event.instance)
    for each in of_host[bisect_right(of_host, decision.n, key=lambda held: held.n) :]:
        event = each.record.event
        if _env_of(event) != _env_of(decision.record.event):
            continue
        if isinstance(event, DecisionMade):
            return None
        if isinstance(event, RewardGranted):
            return event_fields(event)
    return None


def describe_store(store: RunStore) -> dict[str, JsonValue]:
    """Return what is held of a run, and what is missing."""
    kinds: Mapping[str, int] = store.kinds()
    instances = store.instances()
    return {
        "kinds": dict(kinds),
        "instances": list(instances[:2_000]),
        "num_instances": len(instances),
        "num_held": len(store.all()),
        "num_read": store.next_n,
        "num_dropped": store.num_dropped,
        "num_missing": store.num_missing,
        "num_superseded": store.num_superseded,
        "num_bad": store.num_bad,
        "bad": list(store.bad),
        "is_behind": store.is_behind,
    }
