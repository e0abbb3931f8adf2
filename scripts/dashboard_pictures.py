"""python scripts/dashboard_pictures.py [RUNS]: the pictures of docs/dashboard.md, taken from the real page.

Starts `esper dash` over a folder of runs, opens it in the installed Chromium and writes docs/pictures/*.png.
Without RUNS it first records some below build/dashboard-runs: host runs on digits and a short training of a
policy, which takes a minute or two.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from PIL import Image
from playwright.sync_api import Browser, Page, expect

from source_tree import REPO

sys.path.insert(0, str(REPO / "tests"))
from browser.chromium import find_chromium, open_chromium
from browser.serving import Dashboard, serving

PICTURES = REPO / "docs" / "pictures"
RUNS = REPO / "build" / "dashboard-runs"
MAX_BYTES = 150_000
WIDTH = 1200
SETTLE_MS = 1500
"""Until curves are drawn and the stream has told its first news."""
HOST_RUN, OTHER_RUN, STILL_RUN, TRAINING = "digits-0", "digits-1", "digits-never-0", "policy-0"
RECORDINGS = {
    HOST_RUN: ("heuristic", "--task", "digits", "--seed", "0"),
    OTHER_RUN: ("heuristic", "--task", "digits", "--seed", "1"),
    STILL_RUN: ("never", "--task", "digits", "--seed", "0"),
    TRAINING: (
        *("ppo", "--task", "synthetic", "--envs", "16", "--rounds", "10", "--epochs", "10"),
        *("--envs.num-hosts", "4", "--fleet", "fused"),
    ),
}
"""Name of a run -> arguments of `esper train`."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One picture."""

    name: str
    place: str
    """Behind the `#/`; "{NAME}" stands for the id of the run NAME."""
    height: int = 800
    theme: str = "light"
    opens_op: str = ""
    """Open the first decision of this operation before the picture is taken."""


SHOTS = (
    Shot(name="overview", place="", height=420),
    Shot(name="host_run", place=f"run/{{{HOST_RUN}}}/growth", height=1000),
    Shot(name="host_run_dark", place=f"run/{{{HOST_RUN}}}/growth", height=1000, theme="dark"),
    Shot(name="decision", place=f"run/{{{TRAINING}}}/decisions", height=900, opens_op="GERMINATE"),
    Shot(name="training", place=f"run/{{{TRAINING}}}/training", height=1000),
    Shot(name="comparison", place=f"compare/{{{HOST_RUN}}},{{{OTHER_RUN}}},{{{STILL_RUN}}}", height=900),
)


def record(folder: Path) -> None:
    """Record the runs that are not there yet."""
    for name, arguments in RECORDINGS.items():
        if not (folder / name / "summary.json").exists():
            command = [sys.executable, "-m", "esper", "train", *arguments, "--run-dir", str(folder / name)]
            subprocess.run(command, check=True)


def take(browser: Browser, dashboard: Dashboard, shot: Shot) -> bytes:
    """Return one picture as PNG."""
    context = browser.new_context(
        viewport={"width": WIDTH, "height": shot.height},
        color_scheme="dark" if shot.theme == "dark" else "light",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(dashboard.url)
    expect(page.get_by_test_id("run-row").first).to_be_visible()
    page.goto(f"{dashboard.origin}/#/{shot.place.format_map(find_ids(page))}")
    expect(page.get_by_test_id("live-state")).to_have_attribute("data-live", "live")
    if shot.opens_op:
        page.get_by_label("operation").select_option(shot.opens_op)
        page.get_by_test_id("decision-row").first.click()
    page.wait_for_timeout(SETTLE_MS)
    picture = page.screenshot()
    context.close()
    return picture


def find_ids(page: Page) -> dict[str, str]:
    """Return name -> id of every run in the overview."""
    rows = page.get_by_test_id("run-row").all()
    return {str(row.get_attribute("data-run")): str(row.get_attribute("data-id")) for row in rows}


def shrink(picture: bytes) -> bytes:
    """Return the picture with 256 colours, which a page of text and lines does not miss."""
    with Image.open(io.BytesIO(picture)) as full:
        reduced = full.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    out = io.BytesIO()
    reduced.save(out, "PNG", optimize=True)
    return out.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="?", help=f"folder with {', '.join(RECORDINGS)}")
    given = parser.parse_args(argv)
    chromium = find_chromium()
    if chromium is None:
        parser.error("needs Chromium: apt-get install chromium, or its path in ESPER_CHROMIUM")
    runs: Path = given.runs or RUNS
    if given.runs is None:
        record(runs)
    PICTURES.mkdir(exist_ok=True)
    with serving(runs) as dashboard, open_chromium(chromium) as browser:
        for shot in SHOTS:
            picture = shrink(take(browser, dashboard, shot))
            if len(picture) > MAX_BYTES:
                print(f"{shot.name}: {len(picture)} bytes, more than {MAX_BYTES}", file=sys.stderr)
                return 1
            (PICTURES / f"{shot.name}.png").write_bytes(picture)
            print(f"{shot.name}.png {len(picture):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
