"""A count is made once for the facts that it follows from, and the oldest one makes room."""

from __future__ import annotations

import pytest

from esper.kasmina import PriceBook


def test_what_was_counted_is_not_counted_again() -> None:
    book, asked = PriceBook(), list[str]()

    def count() -> int:
        asked.append("counted")
        return 7

    assert [book.look_up("a", count), book.look_up("a", count), book.look_up("b", count)] == [7, 7, 7]
    assert len(asked) == 2


def test_the_least_recently_used_count_goes_first() -> None:
    book = PriceBook(max_entries=2)
    for facts in ("a", "b", "a", "c"):
        book.look_up(facts, lambda: 1)
    assert len(book) == 2
    assert book.look_up("a", lambda: 2) == 1
    assert book.look_up("b", lambda: 3) == 3


def test_a_count_that_fails_keeps_nothing() -> None:
    book = PriceBook()

    def fail() -> int:
        raise RuntimeError("no values on meta")

    with pytest.raises(RuntimeError, match="no values"):
        book.look_up("a", fail)
    assert len(book) == 0
