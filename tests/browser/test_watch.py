"""The watch over pages sees what it is there for, and pages that behave pass: tests/browser/watch.py,
chromium.py and conftest.py."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from browser.chromium import find_chromium, is_required
from browser.watch import Watch

pytestmark = pytest.mark.slow

_PAGES = {
    "/calm": "<h1>calm</h1>",
    "/loud": "<script>console.error('broken')</script>",
    "/throws": "<script>throw new Error('oh no')</script>",
    "/picture": "<img src='/missing.png'>",
    "/refused": "<script>fetch('http://127.0.0.1:9/').catch(() => {})</script>",
    "/abroad": "<img src='http://elsewhere.invalid/pixel.png'>",
}


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        text = "" if self.path == "/favicon.ico" else _PAGES.get(self.path)
        self.send_response(404 if text is None else 200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[str]:
    """A small site with pages that do one thing wrong."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_page_that_behaves_has_no_problems(page: Page, watch: Watch, site: str) -> None:
    watch.hosts.add(urlsplit(site).netloc)
    page.goto(f"{site}/calm")
    expect(page.locator("h1")).to_have_text("calm")
    assert watch.addresses[0] == f"{site}/calm"


@pytest.mark.parametrize(
    ("place", "sign"),
    [
        ("/loud", "console error: broken"),
        ("/throws", "page error: oh no"),
        ("/picture", "console error: Failed to load resource"),
        ("/refused", "failed request: http://127.0.0.1:9/"),
        ("/abroad", "request to another host: http://elsewhere.invalid/pixel.png"),
    ],
)
def test_a_page_that_misbehaves_is_noticed(context: BrowserContext, site: str, place: str, sign: str) -> None:
    watched, opened = Watch(hosts={urlsplit(site).netloc}), context.new_page()
    watched.follow(opened)
    opened.goto(f"{site}{place}", wait_until="networkidle")
    assert any(problem.startswith(sign) for problem in watched.problems), watched.problems


def test_the_browser_that_is_named_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPER_CHROMIUM", "/somewhere/chromium")
    assert str(find_chromium()) == "/somewhere/chromium"


@pytest.mark.parametrize(("text", "expected"), [("", False), ("0", False), ("1", True)])
def test_a_missing_browser_fails_only_where_one_is_required(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: bool
) -> None:
    monkeypatch.setenv("ESPER_REQUIRE_BROWSER", text)
    assert is_required() is expected
