"""A run that is being written shows up in an open page, soon, and without a reload."""

from __future__ import annotations

import statistics
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from browser.looking import expect_drawn, open_run_page
from browser.recorded import esper, open_run, started
from browser.serving import serving
from esper.leyline import Notice
from nissa.sample_run import finished_epoch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Page

    from browser.watch import Watch

pytestmark = pytest.mark.slow
NUM_UPDATES = 9
MAX_SECONDS = 2.0
PANELS = ("metric-chart", "loss-chart", "contribution-chart", "alpha-chart", "gradient-panel")


@pytest.fixture
def empty_home(page: Page, watch: Watch, tmp_path: Path) -> Iterator[Page]:
    """The first page of a dashboard over a folder without runs."""
    with serving(tmp_path) as served:
        watch.hosts.add(served.host)
        page.goto(served.url)
        expect(page.get_by_test_id("live-state")).to_have_attribute("data-live", "live")
        yield page
        page.close()  # a stream that the server ends is a failed request for a page that still listens


def test_what_is_recorded_reaches_the_page_within_two_seconds(empty_home: Page, tmp_path: Path) -> None:
    took = []
    with open_run(tmp_path / "growing") as run:
        run.hub.emit(started(1000))
        run.hub.emit(finished_epoch(1))
        open_run_page(empty_home, "growing")
        expect(empty_home.get_by_text("1 of 1000", exact=True)).to_be_visible()
        for epoch in range(2, 2 + NUM_UPDATES):
            run.hub.emit(finished_epoch(epoch))
            begun = time.monotonic()
            empty_home.get_by_text(f"{epoch} of 1000", exact=True).wait_for()
            took.append(time.monotonic() - begun)
        run.hub.emit(Notice(epoch=NUM_UPDATES + 1, text="a last word"))
        expect(empty_home.get_by_text("a last word")).to_be_visible()
    assert statistics.median(took) < MAX_SECONDS, took


def test_a_host_that_grows_fills_every_panel_of_an_open_page(empty_home: Page, tmp_path: Path) -> None:
    with training(tmp_path / "grown", num_epochs=60) as process:
        expect(empty_home.locator("[data-run=grown]")).to_have_attribute(
            "data-state", "running", timeout=60_000
        )
        open_run_page(empty_home, "grown")
        for panel in PANELS:
            expect_drawn(empty_home.get_by_test_id(panel), timeout_ms=60_000)
        expect(empty_home.get_by_test_id("slot-strip").first).to_contain_text("training", timeout=60_000)
        assert process.wait(timeout=120) == 0
    expect(empty_home.get_by_test_id("run-title")).to_contain_text("finished")
    expect(empty_home.get_by_text("60 of 60", exact=True)).to_be_visible()
    expect(empty_home.get_by_test_id("seed-table").locator("tbody tr").first).to_be_visible()
    empty_home.get_by_test_id("tab-decisions").click()
    expect(empty_home.get_by_test_id("decision-row").first).to_be_visible()


def test_the_page_says_when_the_dashboard_is_gone(page: Page, watch: Watch, tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        page.goto(served.url)
        expect(page.get_by_test_id("live-state")).to_have_attribute("data-live", "live")
    expect(page.get_by_test_id("live-state")).to_have_attribute("data-live", "offline")
    # That it asks in vain while nobody answers is what is wanted here.
    assert all(served.host in problem for problem in watch.problems)
    watch.problems.clear()
    page.close()


@contextmanager
def training(path: Path, *, num_epochs: int) -> Iterator[subprocess.Popen[bytes]]:
    """A host that grows on digits in a process of its own; ended on leaving."""
    command = esper("train", "heuristic", "--task", "digits", "--epochs", num_epochs, "--run-dir", path)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
