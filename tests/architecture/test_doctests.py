"""Every public function has an example in its docstring, and the examples give what they say.

An example may name what its room exports, torch, and the small finished run of `tests/doctest_world.py`.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from doctest_world import build_world

ROOMS = ("leyline", "data", "kasmina", "tamiyo", "nissa", "tolaria", "simic", "runtime", "cli", "")
WITHOUT = frozenset(
    {
        # Their files are full.
        "kasmina.find_growth_points",
        "kasmina.find_incubating",
        # Rollouts of many hosts and saved loops: an example would be longer than what it shows.
        "simic.choose_best",
        "simic.demonstrate",
        "simic.imitate",
        "simic.join_batches",
        "simic.join_rows",
        "simic.pack_batch",
        "simic.pick_rows",
        "simic.unpack_batch",
        "tolaria.capture_loop",
        "tolaria.find_blamed",
        "tolaria.restore_loop",
    }
)
"""Public functions without an example. It may only shrink; a function that is new has one."""

ELSEWHERE = frozenset({".open_run"})
"""Functions whose example names a run of its own: tests/runtime/test_run_report.py runs it."""

Function = Callable[..., object]


def find_functions() -> dict[str, Function]:
    """Return "room.name" -> function, of every function that leaves by a front door."""
    found: dict[str, Function] = {}
    for room in ROOMS:
        module = importlib.import_module(f"esper.{room}" if room else "esper")
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value):
                found[f"{room}.{name}"] = inspect.unwrap(value)
    return found


FUNCTIONS = find_functions()


def has_example(function: Function) -> bool:
    """Whether the docstring holds a line that a person would type."""
    return ">>>" in (function.__doc__ or "")


def run_examples(function: Function, names: Mapping[str, object]) -> tuple[int, str]:
    """Run the examples of one function; return how many there were, and what failed."""
    tests = doctest.DocTestFinder(recurse=False).find(function, globs=dict(names))
    told: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    for test in tests:
        runner.run(test, out=told.append)
    return runner.tries, "".join(told)


def names_for(name: str, function: Function, world: Mapping[str, object]) -> dict[str, object]:
    """Return what an example of a function may name."""
    room = name.partition(".")[0]
    door = importlib.import_module(f"esper.{room}" if room else "esper")
    exported = {name: getattr(door, name) for name in door.__all__}
    shared = {"torch": torch, "nn": torch.nn, "Path": Path}
    return {**shared, **exported, **function.__globals__, **world}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, object]:
    """The names of the small finished run."""
    return build_world(tmp_path_factory.mktemp("world"))


def test_every_public_function_has_an_example_but_these() -> None:
    without = {name for name, function in FUNCTIONS.items() if not has_example(function)}
    assert without - WITHOUT == set(), "write an example (>>>) into the docstring"
    assert WITHOUT - without == set(), "they have one now: take them off the list"
    assert len(FUNCTIONS) - len(WITHOUT) >= 200


@pytest.mark.slow
def test_the_examples_of_public_functions_give_what_they_say(world: Mapping[str, object]) -> None:
    failures = []
    for name, function in FUNCTIONS.items():
        if has_example(function) and name not in ELSEWHERE:
            tries, told = run_examples(function, names_for(name, function, world))
            failures += [f"{name}: {told}"] if told or tries == 0 else []
    assert failures == []


def test_an_example_that_says_something_else_is_found() -> None:
    def double(x: int) -> int:
        """Return 2 x.

        >>> double(2)
        5
        """
        return 2 * x

    tries, told = run_examples(double, {"double": double})
    assert tries == 1
    assert "Expected:\n    5\nGot:\n    4" in told


def test_an_example_that_says_the_truth_passes() -> None:
    def double(x: int) -> int:
        """Return 2 x.

        >>> double(2)
        4
        """
        return 2 * x

    assert run_examples(double, {"double": double}) == (1, "")
