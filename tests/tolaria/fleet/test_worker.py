"""The rows of a worker, asked without a process: same answers as the hosts themselves, and plain ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from multiprocessing.reduction import ForkingPickler

import pytest
import torch

from esper.leyline import Decision
from esper.tolaria.fleet.messages import Request, RowArgument, RowStart, Verb
from esper.tolaria.fleet.worker import WorkerRows, WorkerStart

from .fleets import Strike, decide_row, small_hosts

STEP = (Verb.START, Verb.OBSERVE, Verb.APPLY, Verb.TRAIN, Verb.CONCLUDE, Verb.FINISH)


def make_rows(strike: Strike | None = None) -> WorkerRows:
    return WorkerRows(WorkerStart(make_builder=small_hosts(strike), has_sink=True, core=None))


def ask_for(verb: Verb, rows: tuple[int, ...] = (2, 3)) -> Request:
    arguments: dict[Verb, RowArgument] = {Verb.START: RowStart(instance=7), Verb.APPLY: decide_row(0, 0)}
    return Request(verb=verb, rows=dict.fromkeys(rows, arguments.get(verb)))


def walk(thing: object) -> Iterator[object]:
    """Yield a message and everything inside it."""
    yield thing
    if is_dataclass(thing):
        for part in fields(thing):
            yield from walk(getattr(thing, part.name))
    elif isinstance(thing, Mapping):
        for key, value in thing.items():
            yield from walk(key)
            yield from walk(value)
    elif isinstance(thing, tuple | list):
        for value in thing:
            yield from walk(value)


def test_no_message_of_a_step_holds_a_tensor() -> None:
    rows = make_rows()
    for verb in STEP:
        request = ask_for(verb)
        reply = rows.answer(request)
        assert reply.failure is None
        for message in (request, reply):
            assert not [part for part in walk(message) if isinstance(part, torch.Tensor)]
            assert b"torch" not in bytes(ForkingPickler.dumps(message))


def test_a_state_travels_as_bytes() -> None:
    rows = make_rows()
    rows.answer(ask_for(Verb.START))
    reply = rows.answer(ask_for(Verb.STATE))
    assert not [part for part in walk(reply) if isinstance(part, torch.Tensor)]
    assert [part for part in walk(reply) if isinstance(part, bytes)]


def test_rows_take_their_turns_in_order_and_an_error_ends_it_there() -> None:
    rows = make_rows(Strike(instance=8, epoch=0, what="raise"))
    starts = {2: RowStart(instance=7), 3: RowStart(instance=8), 4: RowStart(instance=9)}
    assert list(rows.answer(Request(verb=Verb.START, rows=starts)).rows) == [2, 3, 4]
    rows.answer(Request(verb=Verb.APPLY, rows=dict.fromkeys(starts, Decision())))
    reply = rows.answer(Request(verb=Verb.TRAIN, rows=dict.fromkeys(starts)))
    assert list(reply.rows) == [2]
    assert reply.failure is not None
    assert reply.failure.row == 3


def test_events_come_with_the_row_that_caused_them() -> None:
    rows = make_rows()
    rows.answer(Request(verb=Verb.START, rows={0: RowStart(instance=7), 1: RowStart(instance=9)}))
    reply = rows.answer(Request(verb=Verb.APPLY, rows={0: decide_row(0, 0), 1: decide_row(1, 0)}))
    assert [{event.instance for event in reply.rows[row].events} for row in (0, 1)] == [{7}, {9}]


def test_what_cannot_build_hosts_is_told_once_asked() -> None:
    def refuse(sink: object) -> None:
        raise ValueError("no hosts here")

    rows = WorkerRows(WorkerStart(make_builder=refuse, has_sink=False, core=None))  # type: ignore[arg-type]
    failure = rows.answer(ask_for(Verb.START)).failure
    assert failure is not None
    assert (failure.error_type, failure.row) == (ValueError, None)


def test_nobody_looks_at_a_host_that_is_about_to_train() -> None:
    rows = make_rows()
    rows.answer(ask_for(Verb.START))
    assert rows.answer(ask_for(Verb.APPLY)).rows[2].observation is None
    assert rows.answer(ask_for(Verb.TRAIN)).rows[2].observation is not None


@pytest.mark.parametrize("verb", [Verb.APPLY, Verb.TRAIN])
def test_a_finished_host_waits(verb: Verb) -> None:
    rows = make_rows()
    rows.answer(ask_for(Verb.START))
    while not rows.answer(ask_for(Verb.TRAIN)).rows[2].is_finished:
        pass
    reply = rows.answer(Request(verb=verb, rows=dict.fromkeys((2, 3), decide_row(0, 0))))
    assert reply.failure is None
    assert verb is Verb.APPLY or reply.rows[2].value is None
