"""For every test: no network but loopback, one torch thread, one hypothesis profile, Ctrl-C heeded."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

pytest_plugins = ("battery_rows",)

settings.register_profile(
    "esper",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],  # it measures time, and time differs between machines
)
settings.load_profile("esper")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell lets what it starts in the background ignore Ctrl-C; so would every process that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


class NetworkBlockedError(RuntimeError):
    """Raised when a test reaches for an address outside this machine."""


def is_loopback(address: object) -> bool:
    """Whether a socket address stays on this machine: a file path, localhost, 127.0.0.0/8 or ::1."""
    if isinstance(address, str | bytes):  # AF_UNIX
        return True
    host = address[0] if isinstance(address, tuple) and address else None
    return is_local_host(host)


def is_local_host(host: object) -> bool:
    """Whether a host name or literal address means this machine."""
    if isinstance(host, bytes):
        host = host.decode()
    if host in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


def _guard(original: Callable[..., object], place: int) -> Callable[..., object]:
    """Wrap a socket method whose address is the positional argument `place`, counted after self."""

    def guarded(self: socket.socket, *args: object) -> object:
        address = args[place if place >= 0 else len(args) + place]
        if not is_loopback(address):
            raise NetworkBlockedError(f"a test tried to reach {address!r}; tests run offline")
        return original(self, *args)

    return guarded


@pytest.fixture(scope="session", autouse=True)
def offline() -> Iterator[None]:
    """Let sockets reach this machine only, for the whole session."""
    resolve = socket.getaddrinfo

    def resolve_locally(host: object, *args: object, **kwargs: object) -> object:
        if not is_local_host(host):
            raise NetworkBlockedError(f"a test tried to resolve {host!r}; tests run offline")
        return resolve(host, *args, **kwargs)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolve_locally)
        patch.setattr(socket.socket, "connect", _guard(socket.socket.connect, 0))
        patch.setattr(socket.socket, "connect_ex", _guard(socket.socket.connect_ex, 0))
        patch.setattr(socket.socket, "sendto", _guard(socket.socket.sendto, -1))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """One torch thread, here and in every process that a test starts: sums then have one order."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason shown, what this machine cannot run."""
    missing = {
        "gpu": None if torch.cuda.is_available() else "needs a GPU",
        "soak": None if os.environ.get("ESPER_SOAK") else "takes minutes to hours: make soak",
        "full_data": None if os.environ.get("ESPER_DATA") else "needs ESPER_DATA with the full data sets",
    }
    for item in items:
        for marker, reason in missing.items():
            if reason is not None and item.get_closest_marker(marker) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))
