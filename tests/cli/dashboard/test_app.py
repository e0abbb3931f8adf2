"""The routes: every view answers, nothing outside of the root is reached, hostile names stay text."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from battery_rows import BatteryRecord
from cli.dashboard.sample_runs import decided_and_paid, make_run, make_training, open_client
from esper.cli.dashboard.app import MAX_NAMED_RUNS, build_dashboard, load_assets
from esper.cli.dashboard.index import RunIndex, run_id_of
from nissa.sample_run import run_events

SECRET = "outside of the root"
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "\u202egnp.exe",
    "\x1b[31mred\x1b[0m",
    "</script><script>alert(1)",
    "a&b='\"",
    "${7*7}{{7*7}}",
)
TRAVERSALS = (
    "../secret.txt", "..%2fsecret.txt", "%2e%2e%2fsecret.txt", "%2e%2e/%2e%2e/etc/passwd", "..\\secret.txt",
    "..%5csecret.txt", "/etc/passwd",
    "%2fetc%2fpasswd", "....//secret.txt", "secret.txt%00", "%00", ".", "..",
    "link", "~root", "file:///etc/passwd",
)  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text(SECRET, encoding="utf-8")
    root = tmp_path / "runs"
    make_run(root, "host", [*list(run_events())[:-1], *decided_and_paid()])
    make_training(root, "ppo")
    (root / "link").symlink_to(tmp_path)
    return root


def test_every_view_answers_with_json(root: Path) -> None:
    client = open_client(root)
    host, ppo = run_id_of(root / "host"), run_id_of(root / "ppo")
    for path in (
        "/api/runs", f"/api/runs/{host}", f"/api/runs/{host}/growth", f"/api/runs/{host}/growth?instance=3",
        f"/api/runs/{host}/events?start=2&count=5&kind=StageChanged&text=block2",
        f"/api/runs/{host}/decisions?op=CULL",
        f"/api/runs/{ppo}/training", f"/api/compare?runs={host},{ppo}", "/api/compare",
    ):  # fmt: skip
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-type"] == "application/json"
        answer.json()
    rows = client.get(f"/api/runs/{host}/decisions").json()["rows"]
    assert (
        client.get(f"/api/runs/{host}/decision", params={"n": rows[-1]["n"]}).json()["reward"]["total"] == 0.5
    )


def test_the_page_and_its_files_are_served_and_name_nothing_outside(root: Path) -> None:
    client = open_client(root)
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for name in re.findall(r'(?:src|href)="/static/([^"]+)"', page.text):
        assert client.get(f"/static/{name}").status_code == 200
    assert not re.search(r"<script(?![^>]*\bsrc=)[^>]*>", page.text), "no inline script"
    assert " style=" not in page.text
    assert not re.search(r"\bon[a-z]+=", page.text)


def test_scripts_build_text_nodes_only_and_load_nothing_from_elsewhere() -> None:
    for name, data in load_assets().items():
        if name.startswith("vendor/") or not name.endswith((".js", ".css", ".html")):
            continue
        text = data.decode("utf-8")
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "DOMParser",
        ):
            assert word not in text, f"{name} uses {word}"
        addresses = set(re.findall(r"https?://[^\s\"'`)]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, name


@pytest.mark.battery("T49")
@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_path_leads_out_of_the_root(path: str, root: Path, battery: BatteryRecord) -> None:
    client = open_client(root)
    answers = [
        client.get(prefix + path)
        for prefix in ("/", "/static/", "/static/vendor/", "/api/runs/", "/api/stream?run=")
    ]
    leaks = [answer for answer in answers if SECRET in answer.text or "root:" in answer.text]
    battery.record(n=len(answers), failures=len(leaks))
    assert not leaks
    assert all(answer.status_code in (200, 404) for answer in answers)


@pytest.mark.battery("T49")
@given(path=st.text(max_size=80))
def test_any_path_is_answered_without_an_error_and_without_a_leak(
    path: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp() / "any" / "runs"
    if not root.exists():
        make_run(root, "host")
        (root.parent / "secret.txt").write_text(SECRET, encoding="utf-8")
    client = open_client(root)
    for prefix in ("/static/", "/api/runs/"):
        answer = client.get(prefix + quote(path.encode("utf-8", "replace"), safe="/\\.%"))
        assert answer.status_code in (200, 404, 414)
        assert SECRET not in answer.text


@pytest.mark.battery("T49")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_arrives_as_it_is_inside_of_json(
    name: str, tmp_path: Path, battery: BatteryRecord
) -> None:
    folder = make_run(tmp_path, name.replace("/", "\u2215"), policy="x")
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    (folder / "meta.json").write_text(json.dumps(meta | {"policy": name, "task": name}), encoding="utf-8")
    answer = open_client(tmp_path).get("/api/runs")
    (row,) = answer.json()["runs"]
    is_same = (row["name"], row["policy"], row["task"]) == (folder.name, name, name)
    battery.record(failures=int(not is_same))
    assert is_same
    assert answer.headers["content-type"] == "application/json"
    assert answer.content.isascii()


@pytest.mark.parametrize(
    "query",
    ["instance=-1", "instance=x", "instance=1e9", "instance=99999999999999999999", "instance=\u0663"],
)
def test_numbers_that_are_none_are_refused(query: str, root: Path) -> None:
    answer = open_client(root).get(f"/api/runs/{run_id_of(root / 'host')}/growth?{query}")
    assert answer.status_code == 400
    assert "whole number" in answer.text


def test_filters_and_lists_have_a_limit(root: Path) -> None:
    client, host = open_client(root), run_id_of(root / "host")
    assert client.get(f"/api/runs/{host}/events", params={"text": "x" * 300}).status_code == 400
    assert len(client.get(f"/api/runs/{host}/events?count=1000000").json()["rows"]) <= 500
    named = ",".join(["0" * 16] * (MAX_NAMED_RUNS + 1))
    assert client.get(f"/api/compare?runs={named}").status_code == 400


def test_an_unknown_run_is_not_found(root: Path) -> None:
    client = open_client(root)
    for path in (
        "/api/runs/0123456789abcdef",
        "/api/runs/host",
        "/api/stream?run=host",
        "/api/runs/x/growth",
    ):
        assert client.get(path).status_code == 404


def test_too_many_streams_are_refused(root: Path) -> None:
    dashboard = build_dashboard(RunIndex(root))
    client = TestClient(dashboard.app, base_url="http://localhost:8521")
    client.get(f"/?token={dashboard.access.token}")
    dashboard.slots.num_open = dashboard.slots.max_streams
    assert client.get("/api/stream").status_code == 503


def test_a_run_that_grows_is_told_of_at_the_next_look(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "host", state="running")
    lines = (folder / "events-0.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "events-0.jsonl").write_bytes(b"".join(lines[:21]))
    client, path = open_client(tmp_path), f"/api/runs/{run_id_of(folder)}"
    assert client.get(path).json()["num_held"] == 20
    with (folder / "events-0.jsonl").open("ab") as file:
        file.write(b"".join(lines[21:]))
    deadline = time.monotonic() + 20
    while client.get(path).json()["num_held"] < len(lines) - 1:
        assert time.monotonic() < deadline
