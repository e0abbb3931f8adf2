"""python -m properties.fault_planter GROUP: plant each fault of a group, and print which test noticed it.

```
import torch, pytest and the rooms below, once
for each fault:  fork > load the changed source > run the tests of the file > exit code and failing test
```
A child of a fork has torch already, so that a fault costs what its tests cost. Files are changed in memory
only. Prints one JSON object a line; the first of each file is the file without a fault.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from types import MappingProxyType, ModuleType
from typing import final

import pytest

from properties.planted_faults import GROUPS, TESTS_OF, path_of, read_faults, read_source
from source_tree import REPO

LIMIT_S = 120
"""Seconds after which the tests of one fault count as hung."""
_BELOW_SIMIC = ("esper.kasmina", "esper.tolaria", "esper.tamiyo")
LOADED_FIRST: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "lifecycle": ("torch", "hypothesis", "esper.leyline"),
        "rewards": ("torch", "hypothesis", *_BELOW_SIMIC),
        "learning": (
            "torch",
            "hypothesis",
            "stable_baselines3.common.logger",
            "torchrl.objectives",
            *_BELOW_SIMIC,
        ),
    }
)
"""Group -> what its tests import and what imports none of its files: loaded once, for all forks."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What the tests said of one fault."""

    file: str
    what: str
    """Empty for the file as it is."""
    code: int
    """Exit code of pytest: 0 = all passed, 1 = a test failed; negative = ended by a signal."""
    test: str
    """The first that failed, or empty."""


@final
class _PlantedFile(InspectLoader, MetaPathFinder):
    """Loads one module from a text instead of its file."""

    def __init__(self, file: str, text: str) -> None:
        self.name = "esper." + file.removesuffix(".py").replace("/", ".")
        self._path, self._text = path_of(file), text
        self.num_loads = 0

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        return spec_from_file_location(fullname, self._path, loader=self)

    def get_source(self, fullname: str) -> str:
        self.num_loads += 1
        return self._text


@final
class _FirstFailure:
    """Remembers the first test that failed."""

    def __init__(self) -> None:
        self.test = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.test:
            self.test = report.nodeid


def run_tests(file: str, text: str) -> tuple[int, str]:
    """Run the tests of a file in this process with another text in its place; exit code, first failure."""
    planted, failure = _PlantedFile(file, text), _FirstFailure()
    assert planted.name not in sys.modules, f"{planted.name} is loaded already: nothing would be planted"
    sys.meta_path.insert(0, planted)
    arguments = ["-x", "-q", "--tb=no", "--assert=plain", "-p", "no:randomly", "-p", "no:cacheprovider"]
    tests = [str(REPO / "tests" / test) for test in TESTS_OF[file]]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = pytest.main([*arguments, "--rootdir", str(REPO), *tests], plugins=[failure])
    assert planted.num_loads == 1, f"{planted.name} was loaded {planted.num_loads} times"
    return int(code), failure.test


def see(file: str, what: str, text: str) -> Sighting:
    """Run the tests of a file in a fork."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(LIMIT_S)
        code = 70
        try:
            code, test = run_tests(file, text)
            os.write(write_end, test.encode())
        finally:
            os._exit(code)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as answer:
        test = answer.read().decode()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Sighting(file=file, what=what, code=code, test=test)


def main() -> None:
    """Plant the faults of a group."""
    group = sys.argv[1]
    for name in LOADED_FIRST[group]:
        importlib.import_module(name)
    for file in GROUPS[group]:
        rows = [("", read_source(file))]
        rows += [(fault.what, fault.plant()) for fault in read_faults() if fault.file == file]
        for what, text in rows:
            print(json.dumps(asdict(see(file, what, text))), flush=True)  # noqa: T201 - a program of its own


if __name__ == "__main__":
    main()
