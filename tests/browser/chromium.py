"""The machine's own Chromium, found and driven; nothing is downloaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TIMEOUT_MS = 20_000
"""Longest wait of one step in a page; the machine may be busy with other tests."""


def find_chromium() -> Path | None:
    """Return the browser that ESPER_CHROMIUM names, or the first one that is installed; None = none."""
    named = os.environ.get("ESPER_CHROMIUM")
    if named:
        return Path(named)
    found = (shutil.which(name) for name in NAMES)
    return next((Path(path) for path in found if path is not None), None)


def is_required() -> bool:
    """Whether a missing browser is a failure rather than a reason to skip."""
    return os.environ.get("ESPER_REQUIRE_BROWSER", "") not in ("", "0")


@contextmanager
def open_chromium(path: Path) -> Iterator[Browser]:
    """Start the browser with a fresh profile; ended on leaving."""
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()
