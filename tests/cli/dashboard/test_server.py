"""Sockets and the end: this machine only, the next free port, slow peers closed.

Covers cli/dashboard/connections.py, too.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from battery_rows import BatteryRecord
from cli.dashboard.sample_runs import make_run
from esper.cli.dashboard.app import Dashboard, build_dashboard
from esper.cli.dashboard.connections import ConnectionCaps
from esper.cli.dashboard.index import RunIndex
from esper.cli.dashboard.server import access_for, build_server, listen
from esper.leyline import ConfigError

SECONDS = 30.0


@contextlib.contextmanager
def serving(root: Path, caps: ConnectionCaps) -> Iterator[tuple[int, Dashboard]]:
    """Serve in a thread; gives the port."""
    listening = listen(None, 0)
    dashboard = build_dashboard(RunIndex(root))
    server = build_server(dashboard, caps)
    thread = threading.Thread(target=server.run, kwargs={"sockets": list(listening.sockets)})
    thread.start()
    try:
        until(lambda: server.started)
        yield listening.port, dashboard
    finally:
        server.should_exit = True
        thread.join(SECONDS)
        assert not thread.is_alive()


def until(condition: object) -> None:
    """Wait until a function is true."""
    assert callable(condition)
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), SECONDS)
    connection.settimeout(SECONDS)
    return connection


def ask(port: int, dashboard: Dashboard, path: str = "/api/runs") -> bytes:
    with connect(port) as connection:
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        request = f"{head}Authorization: Bearer {dashboard.access.token}\r\n\r\n"
        connection.sendall(request.encode())
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            data += chunk
    return data


@pytest.mark.battery("T49")
def test_only_this_machine_is_listened_to(battery: BatteryRecord) -> None:
    listening = listen(None, 0)
    hosts = {each.getsockname()[0] for each in listening.sockets}
    ports = {each.getsockname()[1] for each in listening.sockets}
    for each in listening.sockets:
        each.close()
    battery.record(n=len(listening.sockets), failures=int(not hosts <= {"127.0.0.1", "::1"}))
    assert "127.0.0.1" in hosts
    assert hosts <= {"127.0.0.1", "::1"}
    assert ports == {listening.port}


def test_a_port_that_is_in_use_is_passed_over_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    first = listen(None, 0)
    second = listen(None, first.port)
    for each in (*first.sockets, *second.sockets):
        each.close()
    assert second.port > first.port
    assert f"port {first.port} is in use" in capsys.readouterr().err


def test_an_address_of_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("192.0.2.1", 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: [elsewhere])
    with pytest.raises(ConfigError, match=r"--host 192\.0\.2\.1"):
        listen("192.0.2.1", 0)


def test_other_names_are_taken_only_where_another_address_is_bound() -> None:
    assert not access_for(None).accepts_addresses
    assert not access_for("localhost").accepts_addresses
    assert access_for("0.0.0.0").accepts_addresses


@pytest.mark.slow
@pytest.mark.battery("T49")
def test_a_thousand_idle_connections_do_not_keep_a_reader_out(tmp_path: Path, battery: BatteryRecord) -> None:
    make_run(tmp_path, "host")
    caps = ConnectionCaps(max_connections=50, request_seconds=60.0)
    idle: list[socket.socket] = []
    with serving(tmp_path, caps) as (port, dashboard), contextlib.ExitStack() as stack:
        for _ in range(1_000):
            idle.append(stack.enter_context(connect(port)))
        answer = ask(port, dashboard)
        battery.record(n=1_000, failures=int(not answer.startswith(b"HTTP/1.1 200")))
        assert answer.startswith(b"HTTP/1.1 200")
        assert caps.num_open <= 50
        assert caps.num_closed >= 900


@pytest.mark.slow
@pytest.mark.battery("T49")
def test_a_request_that_never_ends_is_closed(tmp_path: Path, battery: BatteryRecord) -> None:
    caps = ConnectionCaps(request_seconds=0.5)
    with serving(tmp_path, caps) as (port, dashboard):
        begun = time.monotonic()
        with connect(port) as slow, connect(port) as silent:
            slow.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: ")
            assert read_all(slow) == b""
            assert read_all(silent) == b""
        spent = time.monotonic() - begun
        battery.record(n=2, failures=int(spent > 10), worst_s=spent)
        assert ask(port, dashboard).startswith(b"HTTP/1.1 200")
        assert caps.num_closed == 2


@pytest.mark.slow
@pytest.mark.battery("T49")
def test_ten_megabytes_in_a_request_are_refused(tmp_path: Path, battery: BatteryRecord) -> None:
    with serving(tmp_path, ConnectionCaps()) as (port, dashboard):
        heads = [
            b"POST /api/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n",
            b"GET /api/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n",
            b"GET /api/runs HTTP/1.1\r\nHost: localhost\r\nX-Long: ",
            b"GET /",
        ]
        for head in heads:
            with connect(port) as connection:
                with contextlib.suppress(OSError):
                    connection.sendall(head + b"a" * 10_000_000)
                answer = read_all(connection)
            is_refused = re.match(rb"HTTP/1.1 4\d\d", answer) is not None or answer == b""
            battery.record(failures=int(not is_refused))
            assert is_refused, answer[:80]
        assert ask(port, dashboard).startswith(b"HTTP/1.1 200")


@pytest.mark.slow
@pytest.mark.battery("T49")
def test_one_line_is_printed_no_token_is_logged_and_a_signal_ends_open_streams(
    tmp_path: Path, battery: BatteryRecord
) -> None:
    make_run(tmp_path / "runs", "host")
    command = [sys.executable, "-m", "esper", "dash", str(tmp_path / "runs"), "--no-open", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        line = server.stdout.readline()
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=([\w-]{40,})\n", line)
        assert found is not None, line
        port, token = int(found[1]), found[2]
        until(lambda: _is_answering(port))
        with connect(port) as stream, connect(port) as page:
            request = f"GET /api/stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
            stream.sendall(request.encode())
            assert stream.recv(100).startswith(b"HTTP/1.1 200")
            page.sendall(f"GET /?token={token} HTTP/1.1\r\nHost: evil.example\r\n\r\n".encode())
            assert page.recv(100).startswith(b"HTTP/1.1 403")
            begun = time.monotonic()
            os.kill(server.pid, signal.SIGINT)
            code = server.wait(SECONDS)
            spent = time.monotonic() - begun
        rest, errors = server.stdout.read(), server.stderr.read()
    battery.record(n=3, failures=int(token in rest + errors) + int(code != 0), worst_s=spent)
    assert (code, rest, errors) == (0, "", "")
    assert spent < 5


def _is_answering(port: int) -> bool:
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return False
    return True
