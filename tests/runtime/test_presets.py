"""Presets are whole configurations of known tasks."""

from __future__ import annotations

import pytest

from esper.leyline import UnknownNameError
from esper.runtime.assemble import build_host
from esper.runtime.presets import PRESET_NAMES, build_preset, preset_for_task
from esper.runtime.tasks import TASK_NAMES, task_spec


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_every_preset_builds_and_names_a_known_task(name: str) -> None:
    assert build_preset(name).task.name in TASK_NAMES


@pytest.mark.parametrize("name", TASK_NAMES)
def test_every_task_has_a_preset(name: str) -> None:
    assert preset_for_task(name).task.name == name


def test_unknown_preset_names_the_nearest_one() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'emoji9'"):
        build_preset("emoji")


def test_unknown_task_is_refused_as_a_task() -> None:
    with pytest.raises(UnknownNameError, match="unknown task 'mnist'"):
        preset_for_task("mnist")


def test_the_host_of_cifar10_has_the_parameters_that_its_preset_names() -> None:
    model = build_preset("cifar10").model
    host = build_host(model, task_spec("cifar10"))()
    assert sum(parameter.numel() for parameter in host.parameters()) == 6_418
