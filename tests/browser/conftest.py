"""Fixtures of the tests in a real browser: Chromium, recorded runs, a dashboard over them, a watched page.

Browser and Playwright live as long as one module: while they are open, the thread counts as one in which an
event loop runs, and other tests start loops of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from browser.chromium import TIMEOUT_MS, find_chromium, is_required, open_chromium
from browser.recorded import (
    FOLDER_NAME,
    made_once,
    record_training,
    write_hostile_run,
    write_many_events,
    write_sample_run,
)
from browser.serving import Dashboard, serving
from browser.watch import Watch

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = find_chromium()
    if path is None or not path.exists():
        reason = "needs Chromium: apt-get install chromium, or its path in ESPER_CHROMIUM"
        if is_required():
            pytest.fail(f"ESPER_REQUIRE_BROWSER is set, and there is no browser; it {reason}")
        pytest.skip(reason)
    with open_chromium(path) as browser:
        yield browser


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder for the whole session, the same in each of its worker processes."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "browser"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def recorded_runs(shared_folder: Path) -> Path:
    """A folder of three runs: "training" of 64 environments, "sample" of one host, one with hostile names."""
    return made_once(shared_folder / "runs", _record_all)


@pytest.fixture(scope="session")
def many_events_run(shared_folder: Path) -> Path:
    """A folder with "long", a run of 100,000 events."""
    return made_once(shared_folder / "long", _record_long)


@pytest.fixture(scope="module")
def dashboard(recorded_runs: Path) -> Iterator[Dashboard]:
    """A dashboard over the recorded runs."""
    with serving(recorded_runs) as served:
        yield served


@pytest.fixture
def watch() -> Iterator[Watch]:
    """What pages told of themselves; a test with a complaining page fails."""
    watched = Watch()
    yield watched
    assert watched.problems == []


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """A browser without cookies and cache, of a fixed size."""
    opened = chromium.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    opened.set_default_timeout(TIMEOUT_MS)
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def page(context: BrowserContext, watch: Watch) -> Page:
    """An empty page under watch."""
    opened = context.new_page()
    watch.follow(opened)
    return opened


@pytest.fixture
def home(page: Page, watch: Watch, dashboard: Dashboard) -> Page:
    """The dashboard's first page, as the printed address opens it."""
    watch.hosts.add(dashboard.host)
    page.goto(dashboard.url)
    return page


def _record_all(folder: Path) -> Path:
    folder.mkdir(parents=True)
    record_training(folder / "training")
    write_sample_run(folder / "sample")
    write_hostile_run(folder / FOLDER_NAME)
    return folder


def _record_long(folder: Path) -> Path:
    folder.mkdir(parents=True)
    write_many_events(folder / "long")
    return folder
