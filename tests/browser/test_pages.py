"""Every page of the dashboard fills from recorded runs, in a real browser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from browser.looking import expect_drawn, open_run_page
from browser.recorded import HOSTILE, NUM_ENVS, write_diagnosed_run
from browser.serving import serving
from nissa.sample_run import SLOTS

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

    from browser.serving import Dashboard
    from browser.watch import Watch

pytestmark = pytest.mark.slow


def test_the_overview_lists_every_run(home: Page, dashboard: Dashboard) -> None:
    rows = home.get_by_test_id("run-row")
    expect(rows).to_have_count(3)
    assert {row.get_attribute("data-run") for row in rows.all()} == {
        path.name for path in dashboard.root.iterdir()
    }
    expect(home.locator("[data-run=sample]")).to_have_attribute("data-state", "finished")
    expect(home.get_by_test_id("live-state")).to_have_attribute("data-live", "live")


def test_the_overview_is_filtered_by_words(home: Page) -> None:
    home.get_by_test_id("run-filter").fill("sample")
    expect(home.get_by_test_id("run-row")).to_have_count(1)
    home.get_by_test_id("run-filter").fill("no such run")
    expect(home.get_by_test_id("run-row")).to_have_count(0)


def test_the_token_does_not_stay_in_the_address(home: Page, dashboard: Dashboard) -> None:
    expect(home).to_have_url(re.compile(rf"^{re.escape(dashboard.origin)}/(#/)?$"))


def test_a_host_run_shows_curves_and_the_life_of_every_slot(home: Page) -> None:
    open_run_page(home, "sample")
    for chart in ("metric-chart", "loss-chart", "contribution-chart", "alpha-chart", "gradient-panel"):
        expect_drawn(home.get_by_test_id(chart))
    strips = home.get_by_test_id("slot-strip")
    expect(strips).to_have_count(len(SLOTS))
    expect(home.locator(f"[data-testid=slot-strip][data-slot={SLOTS[1]}]")).to_contain_text("fossilized")
    expect(home.get_by_test_id("seed-table")).to_contain_text("conv_light")
    expect(home.get_by_test_id("num-missed")).to_have_text("0")


def test_what_diagnostics_told_is_drawn_and_confusion_is_a_table(
    page: Page, watch: Watch, tmp_path: Path
) -> None:
    write_diagnosed_run(tmp_path / "diagnosed")
    with serving(tmp_path) as dashboard:
        watch.hosts.add(dashboard.host)
        page.goto(dashboard.url)
        open_run_page(page, "diagnosed")
        for group in ("Gradients: layers", "Weights: drift", "Classes: accuracy", "Sharpness"):
            expect_drawn(page.locator(f"[data-testid=detail-chart][data-group='{group}']"))
        expect(page.locator("[data-group='Gradients: layers']")).to_contain_text("and 6 more")
        rows = page.get_by_test_id("confusion-table").locator("tbody tr")
        assert [row.locator("td").all_inner_texts() for row in rows.all()] == [
            ["6", "2", "75.0 %"],
            ["0", "0", "\u2013"],
        ]
        right, wrong = (rows.first.locator(f"td.{kind}") for kind in ("right", "wrong"))
        colours = {cell.evaluate("cell => getComputedStyle(cell).backgroundColor") for cell in (right, wrong)}
        assert len(colours - {"rgba(0, 0, 0, 0)"}) == 2
        expect(page.get_by_test_id("confusion")).to_contain_text("0 taken for 1 (2)")
        expect(page.get_by_test_id("flag-list")).to_contain_text(HOSTILE[0])
        expect(page.get_by_test_id("flag-list")).to_contain_text("sharp loss")


def test_a_training_of_64_environments_opens_on_its_rounds(home: Page) -> None:
    open_run_page(home, "training")
    expect(home.get_by_test_id("tab-training")).to_have_attribute("aria-current", "page")
    expect(home.get_by_test_id("ppo-panel")).to_be_visible()
    charts = home.get_by_test_id("ppo-chart")
    expect(charts.first).to_be_visible()
    assert charts.count() >= 4
    for place in range(4):
        expect_drawn(charts.nth(place))
    assert home.get_by_test_id("env-row").count() == NUM_ENVS


def test_the_picker_switches_between_64_environments(home: Page) -> None:
    open_run_page(home, "training", tab="decisions")
    picker = home.get_by_test_id("env-picker")
    assert picker.locator("option").count() == NUM_ENVS + 1
    rows = home.get_by_test_id("decision-row")
    for env in (63, 7):
        picker.select_option(f"env:{env}")
        expect(rows.first).to_contain_text(f"env {env}")
        assert all(re.search(rf"env {env}(?!\d)", text) for text in rows.all_inner_texts())


@pytest.mark.parametrize("way", ["mouse", "keyboard"])
def test_the_inspector_shows_what_the_policy_saw_could_do_and_was_paid(home: Page, way: str) -> None:
    open_run_page(home, "training", tab="decisions")
    rows = home.get_by_test_id("decision-row")
    expect(rows.first).to_be_visible()
    if way == "mouse":
        rows.nth(3).click()
    else:
        home.get_by_test_id("decision-list").focus()
        for key in ("Home", "ArrowDown", "ArrowDown", "ArrowDown", "Enter"):
            home.keyboard.press(key)
    expect(rows.nth(3)).to_have_attribute("aria-selected", "true")
    inspector = home.get_by_test_id("inspector")
    expect(inspector.get_by_test_id("inspector-masks").locator("li").first).to_be_visible()
    expect(inspector.get_by_test_id("inspector-probabilities")).to_contain_text("%")
    expect(inspector.get_by_test_id("inspector-value")).to_contain_text(re.compile(r"\d"))
    expect(inspector.get_by_test_id("inspector-reward")).to_contain_text(re.compile(r"\d"))
    expect(inspector.get_by_test_id("inspector-observation")).to_contain_text("host")
    expect(inspector).not_to_contain_text("not recorded")


def test_what_an_older_run_lacks_is_said(home: Page) -> None:
    open_run_page(home, "sample", tab="decisions")
    home.get_by_test_id("decision-row").first.click()
    for part in ("masks", "probabilities", "value", "reward", "observation"):
        expect(home.get_by_test_id(f"inspector-{part}")).to_contain_text("not recorded")


def test_events_are_filtered_by_kind_and_by_words(home: Page) -> None:
    open_run_page(home, "sample", tab="events")
    expect(home.get_by_test_id("event-row").first).to_be_visible()
    home.get_by_test_id("event-kind").select_option("SeedFossilized")
    expect(home.get_by_test_id("event-row")).to_have_count(1)
    home.get_by_test_id("event-kind").select_option("")
    home.get_by_test_id("event-filter").fill("depthwise")
    expect(home.get_by_test_id("event-row").first).to_contain_text("depthwise")


def test_chosen_runs_are_compared(home: Page) -> None:
    for name in ("sample", "training"):
        home.locator(f"[data-run={name}]").get_by_test_id("run-check").check()
    home.get_by_test_id("compare-selected").click()
    expect(home).to_have_url(re.compile(r"#/compare/[0-9a-f]{16},[0-9a-f]{16}$"))
    expect(home.get_by_test_id("compare-page")).to_be_visible()
    expect_drawn(home.get_by_test_id("compare-chart").first)
    expect(home.get_by_test_id("compare-table")).to_contain_text("heuristic")
    expect(home.get_by_test_id("compare-strips")).to_contain_text(SLOTS[0])


def test_every_page_asks_this_machine_only(home: Page, watch: Watch, dashboard: Dashboard) -> None:
    run_id = open_run_page(home, "training")
    for place in (f"#/run/{run_id}/decisions", f"#/run/{run_id}/events", "#/compare", "#/"):
        home.goto(f"{dashboard.origin}/{place}")
        expect(home.get_by_test_id("live-state")).to_have_attribute("data-live", "live")
    assert {address.removeprefix(dashboard.origin)[:1] for address in watch.addresses} == {"/"}
