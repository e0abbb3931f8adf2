"""Connections that say nothing are closed: a time limit for requests, and a cap that idle ones give way to.

One object per server counts connections; uvicorn has no limit of its own for a peer that sends slowly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, final

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

REQUEST_SECONDS = 10.0
"""From the connection, or the end of the last answer, to the end of a request's headers."""
MAX_CONNECTIONS = 200


@final
class ConnectionCaps:
    """Every open connection of one server, oldest first."""

    def __init__(
        self, max_connections: int = MAX_CONNECTIONS, request_seconds: float = REQUEST_SECONDS
    ) -> None:
        """Start with none."""
        self.request_seconds = request_seconds
        self.num_closed = 0
        """Connections that were closed for saying nothing."""
        self._max = max_connections
        self._open: dict[CappedProtocol, None] = {}

    @property
    def num_open(self) -> int:
        """Connections open now."""
        return len(self._open)

    def enter(self, protocol: CappedProtocol) -> None:
        """Count a connection in; over the cap the one that has been idle for longest is closed."""
        self._open[protocol] = None
        if len(self._open) > self._max:
            idle = next((each for each in self._open if each.is_idle), protocol)
            self.close(idle)

    def leave(self, protocol: CappedProtocol) -> None:
        """Count a connection out."""
        self._open.pop(protocol, None)

    def close(self, protocol: CappedProtocol) -> None:
        """End a connection at once."""
        self.num_closed += 1
        self.leave(protocol)
        protocol.transport.abort()


class CappedProtocol(H11Protocol):
    """One connection under the caps."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: Mapping[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        caps: ConnectionCaps,
    ) -> None:
        super().__init__(config, server_state, dict(app_state), _loop)
        self._caps = caps
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        cycle: RequestResponseCycle | None = self.cycle  # None until the first request
        return cycle is None or cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit."""
        super().connection_made(transport)
        self._start_clock()
        self._caps.enter(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes; a request that is whole stops the clock."""
        if self.is_idle and self._deadline is None:
            self._start_clock()
        super().data_received(data)
        if not self.is_idle:
            self._stop_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_clock()
        self._caps.leave(self)
        super().connection_lost(exc)

    def _start_clock(self) -> None:
        self._deadline = self.loop.call_later(self._caps.request_seconds, self._close_if_idle)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close_if_idle(self) -> None:
        self._deadline = None
        if self.is_idle:
            self._caps.close(self)
