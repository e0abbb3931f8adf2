"""What a page must not do while a test looks at it: complain, fail to load, or speak to another host."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page, Request

_LOCAL_SCHEMES = frozenset({"file", "data", "blob", "about"})
"""What such an address names is on this machine or inside the page."""
_LEFT = "net::ERR_ABORTED"
"""How a request ends whose page was left: a stream of events has no other end."""


@final
@dataclass(slots=True)
class Watch:
    """Everything that pages told of themselves."""

    hosts: set[str] = field(default_factory=set)
    """Host and port that may be spoken to, e.g. {"127.0.0.1:8600"}; empty = none."""
    problems: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    """Of every request, in order."""

    def follow(self, page: Page) -> None:
        """Listen to a page from now on."""
        # Playwright notes on an object whose methods it is handed, and one with slots takes no notes.
        page.on("console", lambda message: self._hear(message))
        page.on("pageerror", lambda error: self.problems.append(f"page error: {error}"))
        page.on("request", lambda request: self._note(request))
        page.on("requestfailed", lambda request: self._note_failure(request))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            where = message.location.get("url", "")
            self.problems.append(f"console {message.type}: {message.text} ({where})")

    def _note(self, request: Request) -> None:
        self.addresses.append(request.url)
        parts = urlsplit(request.url)
        if parts.scheme not in _LOCAL_SCHEMES and parts.netloc not in self.hosts:
            self.problems.append(f"request to another host: {request.url}")

    def _note_failure(self, request: Request) -> None:
        if request.failure != _LEFT:
            self.problems.append(f"failed request: {request.url}: {request.failure}")
