"""Server-sent events: what changed, from where the browser stopped, and nothing queued for a slow one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from battery_rows import BatteryRecord
from esper.cli.dashboard import streaming
from esper.cli.dashboard.streaming import EventStream, StreamSlots, parse_last_id
from esper.leyline import JsonValue

if TYPE_CHECKING:
    from starlette.types import Message

SERVER = "0123456789abcdef"


class Browser:
    """The other end: takes what is sent and leaves after so many messages."""

    def __init__(self, num_messages: int) -> None:
        self.sent: list[Message] = []
        self.left = asyncio.Event()
        self._num_messages = num_messages

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if len(self.told) >= self._num_messages:
            self.left.set()

    @property
    def told(self) -> list[tuple[str, dict[str, JsonValue]]]:
        """(id, data) of every event."""
        found = []
        for message in self.sent:
            lines = message.get("body", b"").decode().splitlines()
            fields = dict(line.split(": ", 1) for line in lines if ": " in line)
            if "data" in fields:
                found.append((fields["id"], json.loads(fields["data"])))
        return found


def run(stream: EventStream, browser: Browser) -> None:
    asyncio.run(asyncio.wait_for(stream({"type": "http"}, browser.receive, browser.send), 30))


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "POLL_SECONDS", 0.001)


def counting(asked: list[int]) -> Callable[[int], dict[str, JsonValue]]:
    def news(last_n: int) -> dict[str, JsonValue]:
        asked.append(last_n)
        return {"n": last_n + 5, "events": [], "num_missed": 0}

    return news


def test_every_change_is_told_with_the_place_to_go_on_from() -> None:
    asked: list[int] = []
    browser = Browser(3)
    run(EventStream(counting(asked), StreamSlots(), SERVER, -1), browser)
    assert [identity for identity, _ in browser.told] == [f"{SERVER}.{n}" for n in (4, 9, 14)]
    assert asked[:3] == [-1, 4, 9]
    assert browser.sent[0]["headers"][0] == (b"content-type", b"text/event-stream; charset=utf-8")


def test_nothing_is_told_twice() -> None:
    num_asked = 0

    def news(last_n: int) -> dict[str, JsonValue]:
        nonlocal num_asked
        num_asked += 1
        if num_asked > 20:
            browser.left.set()
        return {"n": 7, "events": [num_asked], "state": "running"}

    browser = Browser(99)
    run(EventStream(news, StreamSlots(), SERVER, -1), browser)
    assert len(browser.told) == 1


def test_a_browser_that_comes_back_goes_on_where_it_stopped() -> None:
    asked: list[int] = []
    last = parse_last_id(f"{SERVER}.41", SERVER)
    run(EventStream(counting(asked), StreamSlots(), SERVER, last), Browser(1))
    assert asked[0] == 41


@pytest.mark.parametrize(
    "given",
    [
        "",
        "x",
        SERVER,
        f"{SERVER}.",
        f"{SERVER}.-1",
        f"{SERVER}.1e3",
        "other.5",
        f"{SERVER}.{'9' * 400}",
        f"{SERVER}.\u0663",
    ],
)
def test_an_id_that_is_not_ours_starts_anew(given: str) -> None:
    assert parse_last_id(given, SERVER) == -1


def test_the_end_of_the_server_ends_every_stream() -> None:
    slots = StreamSlots()

    def news(last_n: int) -> dict[str, JsonValue]:
        slots.is_ending = lambda: True
        return {"n": 1}

    browser = Browser(99)
    run(EventStream(news, slots, SERVER, -1), browser)
    assert browser.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert slots.num_open == 0


@pytest.mark.battery("T49")
def test_a_browser_that_takes_nothing_is_let_go(
    monkeypatch: pytest.MonkeyPatch, battery: BatteryRecord
) -> None:
    monkeypatch.setattr(streaming, "SEND_SECONDS", 0.02)
    slots, asked = StreamSlots(), list[int]()

    async def never(message: Message) -> None:
        await asyncio.Event().wait()

    async def silent() -> Message:
        await asyncio.Event().wait()
        return {}

    send: Callable[[Message], Awaitable[None]] = never
    asyncio.run(
        asyncio.wait_for(EventStream(counting(asked), slots, SERVER, -1)({"type": "http"}, silent, send), 30)
    )
    battery.record(failures=slots.num_open)
    assert slots.num_open == 0
    assert len(asked) == 0, "nothing is prepared for somebody who does not read"
