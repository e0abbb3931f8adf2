"""The dashboard in other lights, on small screens, and without a mouse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from browser.looking import expect_drawn, find_wide_elements, open_run_page

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from browser.serving import Dashboard

pytestmark = pytest.mark.slow


def test_the_theme_turns_and_is_remembered(home: Page) -> None:
    root, toggle = home.locator("html"), home.get_by_test_id("theme-toggle")
    expect(root).to_have_attribute("data-theme", "light")
    light = home.evaluate("getComputedStyle(document.body).backgroundColor")
    toggle.click()
    expect(root).to_have_attribute("data-theme", "dark")
    assert home.evaluate("getComputedStyle(document.body).backgroundColor") != light
    home.reload()
    expect(root).to_have_attribute("data-theme", "dark")
    open_run_page(home, "sample")
    expect_drawn(home.get_by_test_id("metric-chart"))
    toggle.click()
    expect(root).to_have_attribute("data-theme", "light")
    expect_drawn(home.get_by_test_id("metric-chart"))


def test_the_theme_of_the_system_is_taken_first(page: Page, home: Page) -> None:
    page.emulate_media(color_scheme="dark")
    expect(home.locator("html")).to_have_attribute("data-theme", "dark")


@pytest.mark.parametrize("width", [360, 768])
def test_no_page_is_wider_than_a_small_screen(home: Page, dashboard: Dashboard, width: int) -> None:
    host_run, training = (
        home.locator(f"[data-run={name}]").get_attribute("data-id") for name in ("sample", "training")
    )
    home.set_viewport_size({"width": width, "height": 720})
    places = [f"run/{host_run}/{tab}" for tab in ("growth", "decisions", "events")]
    places += [f"run/{training}/{tab}" for tab in ("training", "decisions")]
    for place in ["", *places, "compare"]:
        home.goto(f"{dashboard.origin}/#/{place}")
        expect(home.get_by_test_id("live-state")).to_have_attribute("data-live", "live")
        assert find_wide_elements(home) == [], place


def test_the_skip_link_leads_to_the_content(home: Page) -> None:
    expect(home.get_by_test_id("run-row").first).to_be_visible()
    home.keyboard.press("Tab")
    expect(home.get_by_test_id("skip-link")).to_be_focused()
    home.keyboard.press("Enter")
    expect(home.locator("#main")).to_be_focused()


def test_a_run_is_found_and_opened_with_keys_alone(home: Page) -> None:
    links = home.get_by_test_id("run-row").get_by_role("link")
    expect(links).to_have_count(3)
    links.first.focus()
    home.keyboard.press("ArrowDown")
    expect(links.nth(1)).to_be_focused()
    home.keyboard.press("ArrowUp")
    expect(links.first).to_be_focused()
    home.keyboard.press("Enter")
    expect(home.get_by_test_id("run-title")).to_be_visible()
