"""Nothing leaves the machine: one file of the package listens, and none imports anything that connects."""

from __future__ import annotations

import ast
import re
import socket
from pathlib import Path

import pytest

from conftest import NetworkBlockedError, is_local_host, is_loopback
from source_tree import SRC, dotted, imported_modules, plant, read_sources

NETWORK = frozenset(
    {
        "socket", "ssl", "urllib", "urllib3", "http", "requests", "httpx", "aiohttp", "ftplib", "smtplib",
        "poplib", "imaplib", "xmlrpc", "socketserver", "websockets", "webbrowser", "huggingface_hub",
    }
)  # fmt: skip
LISTENS = frozenset({"cli/dashboard/server.py imports socket", "cli/dashboard/server.py imports webbrowser"})
"""The server of the dashboard: it binds loopback unless told otherwise, and shows its own address."""
DOWNLOADS = ("torch.hub", "torchvision", "sklearn.datasets.fetch_")


def find_network_imports(root: Path) -> list[str]:
    """Name imports of modules that connect, serve or download."""
    return sorted(
        {
            f"{file.name}:{line} imports {module}"
            for file in read_sources(root)
            for line, module in imported_modules(file.tree)
            if module.split(".")[0] in NETWORK or module.startswith(DOWNLOADS)
        }
    )


def test_source_imports_nothing_that_connects() -> None:
    found = {re.sub(r":\d+", "", problem) for problem in find_network_imports(SRC)}
    assert found == LISTENS


def test_the_file_that_listens_never_connects() -> None:
    tree = ast.parse((SRC / "esper" / "cli" / "dashboard" / "server.py").read_text(encoding="utf-8"))
    called = {dotted(node.func).split(".")[-1] for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not called & {"connect", "connect_ex", "create_connection", "sendto", "urlopen"}
    assert "bind" in called


def test_network_imports_are_found(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "data/a.py": "import socket\nimport urllib.request\n\ndef f():\n    import requests\n",
            "data/b.py": "from sklearn.datasets import fetch_openml, load_digits\nimport sockets\n",
        },
    )
    assert find_network_imports(tmp_path) == [
        "data/a.py:1 imports socket",
        "data/a.py:2 imports urllib.request",
        "data/a.py:5 imports requests",
        "data/b.py:1 imports sklearn.datasets.fetch_openml",
    ]


@pytest.mark.parametrize("address", [("127.0.0.1", 80), ("localhost", 80), ("::1", 80, 0, 0), "/run/x.sock"])
def test_loopback_addresses_pass_the_guard(address: object) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize("host", ["192.0.2.1", "example.org", "10.0.0.1", "2001:db8::1"])
def test_other_hosts_are_refused_by_the_guard(host: str) -> None:
    assert not is_local_host(host)
    assert not is_loopback((host, 443))


def test_a_test_cannot_connect_outside() -> None:
    with socket.socket() as connection, pytest.raises(NetworkBlockedError):
        connection.connect(("192.0.2.1", 9))
    with socket.socket(type=socket.SOCK_DGRAM) as connection, pytest.raises(NetworkBlockedError):
        connection.sendto(b"", ("192.0.2.1", 9))
    with pytest.raises(NetworkBlockedError):
        socket.create_connection(("example.org", 80))


def test_a_test_can_connect_to_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass
