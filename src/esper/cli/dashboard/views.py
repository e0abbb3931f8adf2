"""Every answer of the dashboard as JSON, by the name of what is asked; the server and the export share it.

Knows runs and views, nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from esper.cli.dashboard.comparison import view_comparison
from esper.cli.dashboard.growth import build_growth
from esper.cli.dashboard.index import Entry, RunIndex, describe_entry
from esper.cli.dashboard.lists import ListQuery, describe_store, find_decision, list_decisions, list_events
from esper.cli.dashboard.plain import list_row
from esper.cli.dashboard.store import RunStore
from esper.cli.dashboard.training_panel import build_training
from esper.leyline import EsperError, EventClass, JsonValue

MAX_SENT_EVENTS = 40
"""Of those that came since a browser was last told; it is told how many more there were."""


@final
class Views:
    """Answers about the runs below a root."""

    def __init__(self, index: RunIndex) -> None:
        """Answer about these runs."""
        self.index = index

    def overview(self) -> dict[str, JsonValue]:
        """Return every run in one row.

        Raises:
            RunDirectoryError: If the root cannot be listed.
        """
        entries = list(self.index.entries().values())
        return {
            "root": self.index.root.name or "/",
            "num_unlisted": self.index.num_unlisted,
            "is_behind": any(entry.digest.is_behind and not entry.problem for entry in entries),
            "runs": [describe_entry(entry) for entry in reversed(entries)],
        }

    def read(self, entry: Entry) -> RunStore:
        """Return the store of a run with what its files hold by now, as far as time allows."""
        store = self.index.open(entry)
        try:
            store.refresh()
        except (EsperError, OSError) as error:
            entry.problem = str(error)
        return store

    def head(self, entry: Entry) -> dict[str, JsonValue]:
        """Return what is known of a run: its row, and what is held of it."""
        store = self.read(entry)
        with store.lock:
            return {**describe_entry(entry), **describe_store(store)}

    def growth(self, entry: Entry, instance: int) -> JsonValue:
        """Return one host run; see `build_growth`."""
        store = self.read(entry)
        return store.cached(("growth", instance), lambda: build_growth(store.of_instance(instance), instance))

    def training(self, entry: Entry) -> JsonValue:
        """Return the training of a policy; see `build_training`."""
        store = self.read(entry)
        return store.cached(("training",), lambda: build_training(store))

    def events(self, entry: Entry, query: ListQuery) -> JsonValue:
        """Return a piece of the list of events."""
        store = self.read(entry)
        return store.cached(("events", query), lambda: list_events(store, query))

    def decisions(self, entry: Entry, query: ListQuery) -> JsonValue:
        """Return a piece of the list of decisions."""
        store = self.read(entry)
        return store.cached(("decisions", query), lambda: list_decisions(store, query))

    def decision(self, entry: Entry, n: int) -> JsonValue:
        """Return one decision in full; None = it is not held."""
        store = self.read(entry)
        with store.lock:
            return find_decision(store, n)

    def compare(self, run_ids: Sequence[str]) -> JsonValue:
        """Return a comparison of runs; of all that can be read where none is named."""
        entries = self.index.entries()
        chosen = [entry for entry in entries.values() if not run_ids or entry.id in run_ids]
        return view_comparison([entry for entry in chosen if not entry.problem])

    def news(self, entry: Entry, last_n: int) -> dict[str, JsonValue]:
        """Return what happened in a run behind a place: the last few events, and how many are not among them.

        Points of curves are not told one by one: they are drawn from the views.

        Args:
            entry: The run.
            last_n: Place of the last record that the asker knows of; -1 = none.
        """
        store = self.read(entry)
        with store.lock:
            new = [
                held for held in store.after(last_n) if held.record.event.event_class is not EventClass.SAMPLE
            ]
            told = new[-MAX_SENT_EVENTS:]
            return {
                "n": store.next_n - 1,
                "num_missed": len(new) - len(told) if last_n >= 0 else 0,
                "num_dropped": store.num_dropped,
                "num_missing": store.num_missing,
                "revision": store.revision,
                "is_behind": store.is_behind,
                "state": entry.info.state or "unreadable",
                "epoch": max(entry.digest.points, default=0),
                "events": [list_row(held.n, held.record) for held in told],
            }
