"""What a person sees of a page, asked of the browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playwright.sync_api import expect

from browser.chromium import TIMEOUT_MS

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page


_COUNT_COLOURS = """element => {
  const colours = new Set();
  for (const canvas of element.querySelectorAll("canvas")) {
    if (canvas.width === 0 || canvas.height === 0) continue;
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const pixels = new Uint32Array(data.buffer);
    for (let i = 0; i < pixels.length && colours.size < 50; i += 1) colours.add(pixels[i]);
  }
  const shapes = element.querySelectorAll("svg path, svg rect, svg line, svg polyline, svg circle, svg text");
  return colours.size + shapes.length;
}"""
_COUNT_ROWS = "document.querySelectorAll('*').length"
_FIND_WIDE = """() => {
  const width = document.documentElement.clientWidth;
  const hidden = element => {
    for (let at = element.parentElement; at; at = at.parentElement) {
      if (["auto", "scroll", "hidden", "clip"].includes(getComputedStyle(at).overflowX)) return true;
    }
    return false;
  };
  const wide = [...document.body.querySelectorAll("*")].filter(
    element => element.getBoundingClientRect().right > width + 1 && !hidden(element)
  );
  const over = document.documentElement.scrollWidth > width ? ["the page itself"] : [];
  return over.concat(wide.slice(0, 5).map(element => element.outerHTML.slice(0, 120)));
}"""


def expect_drawn(chart: Locator, *, timeout_ms: int = TIMEOUT_MS) -> None:
    """Wait until a chart is visible and something is drawn in it."""
    expect(chart).to_be_visible(timeout=timeout_ms)
    handle = chart.element_handle()
    assert handle is not None
    chart.page.wait_for_function(
        f"element => ({_COUNT_COLOURS})(element) > 2", arg=handle, timeout=timeout_ms
    )


def count_elements(page: Page) -> int:
    """Return how many elements the page has."""
    return int(page.evaluate(_COUNT_ROWS))


def find_wide_elements(page: Page) -> list[str]:
    """Return what sticks out of the window to the right, a few of it, cut short."""
    return list(page.evaluate(_FIND_WIDE))


def open_run_page(page: Page, name: str, tab: str = "") -> str:
    """From the overview go to a run by its link, then to one of its tabs; return its id."""
    row = page.locator("[data-testid=run-row]").and_(page.locator(f"[data-run='{name}']"))
    id_ = row.get_attribute("data-id")
    assert id_ is not None
    row.get_by_role("link").first.click()
    expect(page.get_by_test_id("run-title")).to_be_visible()
    if tab:
        page.get_by_test_id(f"tab-{tab}").click()
        expect(page.get_by_test_id(f"tab-{tab}")).to_have_attribute("aria-current", "page")
    return id_
