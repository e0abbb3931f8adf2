from __future__ import annotations

import threading

from torch.distributed import HashStore  # type: ignore[attr-defined]

from esper.runtime.ranks.notes import RankNotes


class _Gone(HashStore):
    """A store whose host died."""

    def add(self, key: str, amount: int) -> int:
        raise RuntimeError("Broken pipe")


class _Stopped(HashStore):
    """A store whose host answers no more."""

    def __init__(self) -> None:
        super().__init__()
        self.num_asked = 0
        self.over = threading.Event()

    def add(self, key: str, amount: int) -> int:
        self.num_asked += 1
        self.over.wait(30)
        return 4


def test_counters_start_at_zero_add_up_and_are_forgotten() -> None:
    store = HashStore()
    mine, other = RankNotes(store), RankNotes(store)
    assert mine.read("a") == 0
    mine.add("a", 2)
    assert other.add("a", 3) == 5
    mine.remove("a")
    assert other.read("a") == 0


def test_a_store_that_is_gone_gives_no_answer() -> None:
    notes = RankNotes(_Gone())
    assert notes.read("a") is None
    assert not notes.is_answering


def test_a_store_that_does_not_answer_is_asked_once() -> None:
    store = _Stopped()
    notes = RankNotes(store, answer_s=0.5)
    assert notes.read("a") is None
    assert notes.add("a", 1) is None
    notes.remove("a")
    store.over.set()
    assert (notes.is_answering, store.num_asked) == (False, 1)
