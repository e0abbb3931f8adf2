"""The sockets and the loop of the dashboard: this machine only unless told otherwise, ended by Ctrl-C.

The only file of the package that listens.
"""

from __future__ import annotations

import errno
import functools
import socket
import sys
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import uvicorn

from esper.cli.dashboard.app import Dashboard, build_dashboard
from esper.cli.dashboard.connections import CappedProtocol, ConnectionCaps
from esper.cli.dashboard.guard import LOOPBACK_NAMES, Access
from esper.cli.dashboard.index import RunIndex
from esper.cli.output import report_note, write_text
from esper.leyline import ConfigError

LOOPBACK = "127.0.0.1"
LOOPBACK_6 = "::1"
FIRST_PORT = 8521
"""Tried first where none is asked for."""
_NUM_PORTS = 50
"""Tried one after the other where one is in use."""
_MAX_HEADER_BYTES = 16 * 1024
_END_SECONDS = 1
_BACKLOG = 128


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Sockets that are bound, and the address that a person opens."""

    sockets: tuple[socket.socket, ...]
    host: str
    port: int

    @property
    def address(self) -> str:
        """Address of the page, without the token."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/"


def serve(
    index: RunIndex, host: str | None, port: int | None, open_page: Callable[[str], object] | None
) -> None:
    """Serve until a signal comes; print one line with the address.

    Args:
        index: The runs that are shown.
        host: Address to bind; None = this machine only.
        port: Port to try first, 0 = any; None = `FIRST_PORT`.
        open_page: Called with the address once it is bound; None = nobody is.

    Raises:
        ConfigError: If the address cannot be bound.
    """
    listening = listen(host, port)
    if host is not None and not _is_loopback(host):
        report_note(
            f"warning: {host} can be reached from other machines, without encryption: whoever reads the "
            "traffic can read the token. A tunnel is safer: ssh -L PORT:127.0.0.1:PORT this-machine"
        )
    dashboard = build_dashboard(index, access_for(host))
    address = f"{listening.address}?token={dashboard.access.token}"
    write_text(address)
    sys.stdout.flush()
    if open_page is not None:
        open_page(address)
    server = build_server(dashboard)
    try:
        server.run(sockets=list(listening.sockets))
    except KeyboardInterrupt:
        return
    finally:
        for each in listening.sockets:
            each.close()


def build_server(dashboard: Dashboard, caps: ConnectionCaps | None = None) -> uvicorn.Server:
    """Return the server of an application; nothing that it does is logged, so no token is either."""
    protocol = functools.partial(CappedProtocol, caps=caps or ConnectionCaps())
    config = uvicorn.Config(
        dashboard.app,
        http=protocol,  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        loop="asyncio",
        interface="asgi3",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=_END_SECONDS,
        backlog=_BACKLOG,
    )
    server = uvicorn.Server(config)
    dashboard.slots.is_ending = lambda: server.should_exit
    return server


def access_for(host: str | None) -> Access:
    """Return new secrets, and the names that a server at this address answers to."""
    if host is None or _is_loopback(host):
        return Access()
    names = {host.casefold(), socket.gethostname().casefold(), socket.getfqdn().casefold()}
    return Access(names=LOOPBACK_NAMES | names, accepts_addresses=True)


def listen(host: str | None, port: int | None) -> Listening:
    """Bind the sockets; a port that is in use is passed over for the next one, with a note.

    Raises:
        ConfigError: If none can be bound.
    """
    first = FIRST_PORT if port is None else port
    for tried in (0,) if first == 0 else range(first, min(first + _NUM_PORTS, 65_536)):
        try:
            sockets = _bind_all(host, tried)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            raise ConfigError(
                f"--host {host or LOOPBACK} --port {tried}: {error.strerror or error}"
            ) from error
        bound = int(sockets[0].getsockname()[1])
        if first not in (0, bound):
            report_note(f"port {first} is in use; {bound} is taken")
        return Listening(sockets=tuple(sockets), host=host or LOOPBACK, port=bound)
    raise ConfigError(f"--port {first}: it and the next {_NUM_PORTS - 1} are in use; --port 0 takes any")


def _bind_all(host: str | None, port: int) -> Sequence[socket.socket]:
    first = _bind(host or LOOPBACK, port)
    if host is not None:
        return (first,)
    bound = int(first.getsockname()[1])
    try:
        return (first, _bind(LOOPBACK_6, bound))
    except OSError as error:
        if error.errno == errno.EADDRINUSE and port:
            first.close()
            raise
        return (first,)  # this machine has no address of that kind


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)
    except OSError:
        bound.close()
        raise
    return bound


def open_in_browser(address: str) -> None:
    """Show the page in the browser of this machine, if it has one."""
    webbrowser.open(address)


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host == LOOPBACK_6 or host.startswith("127.")
