"""Branches are what is counted, and every room that holds algorithms must have nine in ten of them run."""

from __future__ import annotations

import re
import tomllib

from source_tree import REPO, SRC

WITHOUT_ALGORITHMS = {"data", "nissa", "runtime", "cli"}
"""Rooms of files, screens, wiring and doors."""
REPORT = re.compile(r'coverage report .*--include="src/esper/\$\$room/\*" --fail-under=(\d+) \|\| exit 1')


def find_coverage_faults(settings: str, makefile: str, rooms: set[str]) -> list[str]:
    """Name what makes the floor of coverage lower than it is said to be.

    Args:
        settings: Text of pyproject.toml.
        makefile: Text of the Makefile.
        rooms: Folders of the package.
    """
    found = []
    coverage = tomllib.loads(settings)["tool"]["coverage"]
    if coverage["run"].get("branch") is not True:
        found.append("coverage counts lines, not branches")
    extra = (coverage.keys() - {"run"}) | (coverage["run"].keys() - {"branch", "source"})
    found += [f"coverage leaves something out: {name}" for name in sorted(extra)]
    listed = re.search(r"^COVERED := (.+)$", makefile, re.MULTILINE)
    missing = rooms - WITHOUT_ALGORITHMS - set(listed[1].split() if listed else ())
    found += [f"no floor for {room}" for room in sorted(missing)]
    floor = REPORT.search(makefile)
    if floor is None or int(floor[1]) < 90:
        found.append("no floor of 90 per cent for each room")
    if not re.search(r"^test-all:.* coverage ", makefile, re.MULTILINE):
        found.append("test-all does not ask for coverage")
    return found


def read(name: str) -> str:
    return (REPO / name).read_text(encoding="utf-8")


def test_every_room_of_algorithms_has_a_floor_of_90_per_cent_of_its_branches() -> None:
    rooms = {path.parent.name for path in (SRC / "esper").glob("*/__init__.py")}
    assert len(rooms) > len(WITHOUT_ALGORITHMS)
    assert find_coverage_faults(read("pyproject.toml"), read("Makefile"), rooms) == []


def test_a_floor_that_was_lowered_is_found() -> None:
    settings = '[tool.coverage.run]\nbranch = false\nomit = ["src/esper/simic/*"]\n'
    makefile = (
        "COVERED := kasmina\ntest-all: docs\n\tcoverage report --include='src/esper/*' --fail-under=80\n"
    )
    assert find_coverage_faults(settings, makefile, {"kasmina", "simic", "cli"}) == [
        "coverage counts lines, not branches",
        "coverage leaves something out: omit",
        "no floor for simic",
        "no floor of 90 per cent for each room",
        "test-all does not ask for coverage",
    ]
