"""A page written by `esper dash --export` opens from a file and shows what the dashboard shows."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from browser.looking import expect_drawn
from browser.recorded import esper, made_once

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

    from browser.serving import Dashboard
    from browser.watch import Watch

pytestmark = pytest.mark.slow
_WORDS = """main => {
  const copy = main.cloneNode(true);
  for (const news of copy.querySelectorAll("[role=status]")) news.remove();
  return [...copy.querySelectorAll("*")].filter(e => !e.children.length).map(e => e.textContent).join(" ");
}"""
"""What a page says, without the news that only a server has."""


@pytest.fixture(scope="session")
def exported(recorded_runs: Path, shared_folder: Path) -> Path:
    """All recorded runs in one file."""

    def export(path: Path) -> Path:
        command = esper("dash", recorded_runs, "--export", path)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return path

    return made_once(shared_folder / "exported.html", export)


def test_an_exported_page_opens_from_a_file_and_asks_nobody(page: Page, watch: Watch, exported: Path) -> None:
    page.goto(exported.as_uri())
    expect(page.get_by_test_id("run-row")).to_have_count(3)
    expect(page.get_by_test_id("live-state")).to_have_attribute("data-live", "static")
    assert {address.partition(":")[0] for address in watch.addresses} <= {"file", "data"}


def test_an_exported_page_shows_what_the_dashboard_shows(
    home: Page, dashboard: Dashboard, exported: Path
) -> None:
    ids = {
        name: home.locator(f"[data-run={name}]").get_attribute("data-id") for name in ("sample", "training")
    }
    places = [f"run/{ids['sample']}/{tab}" for tab in ("growth", "decisions", "events")]
    places += [f"run/{ids['training']}/{tab}" for tab in ("training", "decisions")]
    served = {place: read(home, f"{dashboard.origin}/#/{place}") for place in places}
    assert {place: read(home, f"{exported.as_uri()}#/{place}") for place in places} == served


def test_an_exported_page_draws_its_charts(home: Page, exported: Path) -> None:
    id_ = home.locator("[data-run=sample]").get_attribute("data-id")
    home.goto(f"{exported.as_uri()}#/run/{id_}")
    for chart in ("metric-chart", "loss-chart", "contribution-chart"):
        expect_drawn(home.get_by_test_id(chart))


def test_hostile_names_are_text_in_an_exported_page(page: Page, exported: Path) -> None:
    page.goto(exported.as_uri())
    expect(page.get_by_text("<script>window.ran = 1</script>").first).to_be_visible()
    page.get_by_test_id("run-row").filter(has_text="onerror").get_by_role("link").click()
    expect(page.get_by_test_id("run-title")).to_contain_text("onerror")
    assert page.evaluate("window.ran") is None


def read(page: Page, address: str) -> list[str]:
    """Return the words of a page once it is there."""
    page.goto("about:blank")
    page.goto(address)
    expect(page.get_by_test_id("run-title")).to_be_visible()
    state = "static" if address.startswith("file:") else "live"
    expect(page.get_by_test_id("live-state")).to_have_attribute("data-live", state)
    expect(page.get_by_text("\u2026", exact=True)).to_have_count(0)  # a row that is asked for
    return str(page.locator("main").evaluate(_WORDS)).split()
