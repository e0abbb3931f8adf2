"""A run of 100,000 events does not make the page slow or large."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from browser.looking import count_elements, expect_drawn, open_run_page
from browser.recorded import NUM_EVENTS
from browser.serving import Dashboard, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Page

    from browser.watch import Watch

pytestmark = pytest.mark.slow
MAX_ELEMENTS = 2_000
MAX_ANSWER_SECONDS = 2.0


@pytest.fixture(scope="module")
def long_dashboard(many_events_run: Path) -> Iterator[Dashboard]:
    with serving(many_events_run) as served:
        yield served


@pytest.fixture
def long_home(page: Page, watch: Watch, long_dashboard: Dashboard) -> Page:
    watch.hosts.add(long_dashboard.host)
    page.goto(long_dashboard.url)
    return page


def test_a_hundred_thousand_events_are_listed_with_few_elements(long_home: Page) -> None:
    open_run_page(long_home, "long", tab="events")
    events = long_home.get_by_test_id("event-list")
    expect(long_home.get_by_text(f"{NUM_EVENTS:,} events")).to_be_visible(timeout=60_000)
    expect(long_home.get_by_test_id("event-row").first).to_be_visible()
    assert count_elements(long_home) < MAX_ELEMENTS
    events.focus()
    for key in ("End", "PageUp", "ArrowUp", "Home", "PageDown"):
        long_home.keyboard.press(key)
        expect(long_home.locator("[data-testid=event-list] [aria-selected=true]")).to_have_count(1)
        assert count_elements(long_home) < MAX_ELEMENTS
    long_home.keyboard.press("End")
    expect(long_home.locator("[aria-selected=true]")).to_contain_text("RunFinished")


def test_the_page_of_a_long_run_answers_while_its_files_are_read(long_home: Page) -> None:
    open_run_page(long_home, "long")
    expect_drawn(long_home.get_by_test_id("metric-chart"))
    expect(long_home.get_by_text("still reading")).to_have_count(0, timeout=60_000)
    assert count_elements(long_home) < MAX_ELEMENTS
    begun = time.monotonic()
    long_home.get_by_test_id("theme-toggle").click()
    expect(long_home.locator("html")).to_have_attribute("data-theme", "dark")
    assert time.monotonic() - begun < MAX_ANSWER_SECONDS
