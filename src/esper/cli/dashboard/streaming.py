"""Server-sent events: what changed since the browser last heard, and nothing that waits for a slow one.

A browser that is slow, or comes back, is told the newest state and how many events lie between; there is no
queue per browser. The id of a message is the place of the last record that it tells of, behind the id of the
server: `Last-Event-ID` goes on there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, final

from starlette.concurrency import run_in_threadpool

from esper.cli.dashboard.plain import dump
from esper.leyline import JsonValue

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

POLL_SECONDS = 0.5
"""Between two looks at the files."""
SEND_SECONDS = 15.0
"""A browser that takes nothing for so long is let go."""
BEAT_SECONDS = 15.0
"""A comment is sent at least so often, so that a dead connection is noticed."""
MAX_STREAMS = 32
_MAX_PLACE_DIGITS = 15

News = Callable[[int], dict[str, JsonValue]]
"""Last known place -> what is told; "n" is the new place, the rest is compared to see whether it changed."""


@final
class StreamSlots:
    """How many streams are open, and whether the server is about to end."""

    def __init__(self, max_streams: int = MAX_STREAMS) -> None:
        """Start with none."""
        self.max_streams = max_streams
        self.num_open = 0
        self.is_ending: Callable[[], bool] = _never
        """Whether the server is about to end; streams end with it."""


@final
class EventStream:
    """One open stream, as an ASGI application."""

    def __init__(self, news: News, slots: StreamSlots, server_id: str, last_n: int) -> None:
        """Prepare to tell.

        Args:
            news: What is told; called in a thread.
            slots: Of this server.
            server_id: Stands before every id.
            last_n: Place of the last record that the browser knows of; -1 = none.
        """
        self._news = news
        self._slots = slots
        self._server_id = server_id
        self._last_n = last_n

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell until the browser leaves, stops reading, or the server ends."""
        self._slots.num_open += 1
        gone = asyncio.ensure_future(_wait_for_end(receive))
        try:
            await self._tell(send, gone)
        except (TimeoutError, OSError):
            return
        finally:
            self._slots.num_open -= 1
            gone.cancel()

    async def _tell(self, send: Send, gone: asyncio.Future[None]) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        put = partial(_send, send)
        await put({"type": "http.response.start", "status": 200, "headers": headers})
        await put(_body(b"retry: 1000\n\n"))
        told: dict[str, JsonValue] | None = None
        silent_seconds = 0.0
        while not gone.done() and not self._slots.is_ending():
            found = await run_in_threadpool(self._news, self._last_n)
            place = found["n"]
            state = {key: value for key, value in found.items() if key not in ("events", "num_missed")}
            if state != told:
                self._last_n = place if isinstance(place, int) else -1
                head = f"id: {self._server_id}.{self._last_n}\nevent: news\ndata: ".encode()
                await put(_body(head + dump(found) + b"\n\n"))
                told, silent_seconds = state, 0.0
            elif silent_seconds >= BEAT_SECONDS:
                await put(_body(b": still here\n\n"))
                silent_seconds = 0.0
            await asyncio.wait([gone], timeout=POLL_SECONDS)
            silent_seconds += POLL_SECONDS
        await put({"type": "http.response.body", "body": b"", "more_body": False})


def parse_last_id(given: str, server_id: str) -> int:
    """Return the place in a Last-Event-ID header; -1 where it is missing, broken, or of another server."""
    head, _, place = given.partition(".")
    if head != server_id or not (place.isascii() and place.isdigit()) or len(place) > _MAX_PLACE_DIGITS:
        return -1
    return int(place)


def _never() -> bool:
    return False


def _body(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}


async def _send(send: Send, message: Message) -> None:
    await asyncio.wait_for(send(message), SEND_SECONDS)


async def _wait_for_end(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
