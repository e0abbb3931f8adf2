"""Names that want to be more than text are shown as text: nothing of them runs, in any page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from browser.recorded import FOLDER_NAME, HOSTILE, hostile_events
from esper.leyline import StageChanged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

    from battery_rows import BatteryRecord
    from browser.serving import Dashboard

pytestmark = [pytest.mark.slow, pytest.mark.fault]
PAGES = ("growth", "decisions", "events")
SLOTS = tuple(event.slot for event in hostile_events() if isinstance(event, StageChanged))


@pytest.fixture
def id_(home: Page) -> Iterator[str]:
    """Id of the hostile run; afterwards nothing may have run."""
    row = home.get_by_test_id("run-row").filter(has_text=FOLDER_NAME)
    found = row.get_attribute("data-id")
    assert found is not None
    yield found
    expect_nothing_ran(home)


def expect_nothing_ran(page: Page) -> None:
    """No name has run, and none has become an element."""
    assert page.evaluate("window.ran") is None
    assert (
        page.locator("img, main script, iframe, object, embed, [onerror], a[href^=javascript]").count() == 0
    )


@pytest.mark.battery("T49")
def test_hostile_names_are_text_in_the_overview(home: Page, id_: str, battery: BatteryRecord) -> None:
    row = home.locator(f"[data-id='{id_}']")
    for name in (FOLDER_NAME, HOSTILE[0], HOSTILE[1]):
        expect(row).to_contain_text(name)
    battery.record(n=3)


@pytest.mark.battery("T49")
@pytest.mark.parametrize("tab", PAGES)
def test_hostile_names_are_text_in_every_part_of_a_run(
    home: Page, id_: str, dashboard: Dashboard, tab: str, battery: BatteryRecord
) -> None:
    home.goto(f"{dashboard.origin}/#/run/{id_}/{tab}")
    expect(home.get_by_test_id("run-title")).to_contain_text(FOLDER_NAME)
    shown = home.locator("main")
    for name in HOSTILE:
        expect(shown).to_contain_text(name)
    battery.record(n=len(HOSTILE))
    for key in ("decision-row", "event-row"):
        for row in home.get_by_test_id(key).all()[:12]:
            row.click()


@pytest.mark.battery("T49")
def test_hostile_slots_keep_their_names(home: Page, id_: str, dashboard: Dashboard) -> None:
    home.goto(f"{dashboard.origin}/#/run/{id_}/growth")
    strips = home.get_by_test_id("slot-strip")
    expect(strips).to_have_count(len(HOSTILE))
    assert {strip.get_attribute("data-slot") for strip in strips.all()} == set(SLOTS)


@pytest.mark.battery("T49")
def test_a_text_that_turns_its_direction_turns_nothing_beside_it(
    home: Page, id_: str, dashboard: Dashboard
) -> None:
    home.goto(f"{dashboard.origin}/#/run/{id_}/growth")
    cell = home.get_by_test_id("seed-table").get_by_text("gnp.exe").first
    expect(cell).to_have_css("unicode-bidi", re.compile("isolate|plaintext"))


@pytest.mark.battery("T49")
def test_hostile_names_are_text_in_the_comparison(home: Page, id_: str, dashboard: Dashboard) -> None:
    home.goto(f"{dashboard.origin}/#/compare")
    expect(home.get_by_test_id("compare-page")).to_contain_text(HOSTILE[1])
    assert id_
