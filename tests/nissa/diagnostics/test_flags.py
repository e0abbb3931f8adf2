"""Red flags: each is raised by its sign and by nothing else."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from esper.nissa.diagnostics import flags
from esper.nissa.diagnostics.flags import FlagFacts, find_flags

CALM = FlagFacts(
    train_loss=0.9,
    validation_losses=(1.6, 1.5, 1.4, 1.3, 1.2, 1.1, 1.0),
    health=1.0,
    class_spread=0.1,
    sharpness=0.4,
    idle_epochs={"block1": 2},
)

SIGNS: list[tuple[FlagFacts, str, str]] = [
    (replace(CALM, validation_losses=(1.0,) * 6), "plateau", ""),
    (replace(CALM, validation_losses=(1.0, 1.1, 1.2, 1.1, 1.1, 1.2)), "plateau", ""),
    (replace(CALM, vanishing=("conv1", "conv2")), "vanishing_gradients", "conv1, conv2"),
    (replace(CALM, exploding=("head",)), "exploding_gradients", "head"),
    (replace(CALM, health=0.49), "poor_health", ""),
    (replace(CALM, leaking=("block2",)), "isolation_leak", "block2"),
    (replace(CALM, train_loss=0.4), "validation_gap", ""),
    (replace(CALM, class_spread=0.3), "uneven_classes", ""),
    (replace(CALM, sharpness=1.1), "sharp_loss", ""),
    (replace(CALM, idle_epochs={"block1": 3, "block2": 1}), "idle_seed", "block1"),
    (replace(CALM, validation_losses=(1.4, 1.0, 1.1), rising=("block1",)), "costly_ramp", "block1"),
]


def test_a_calm_epoch_raises_nothing() -> None:
    assert find_flags(CALM) == ()
    assert find_flags(FlagFacts(train_loss=5.0, validation_losses=(5.0,))) == ()


@pytest.mark.parametrize(("facts", "name", "where"), SIGNS, ids=lambda each: str(each)[:24])
def test_a_sign_raises_its_flag_alone(facts: FlagFacts, name: str, where: str) -> None:
    found = find_flags(facts)
    assert [(flag.name, flag.where) for flag in found] == [(name, where)]
    assert found[0].advice


def test_a_rise_without_a_ramp_and_a_ramp_without_a_rise_are_nobodys_fault() -> None:
    assert find_flags(replace(CALM, validation_losses=(1.4, 1.0, 1.1))) == ()
    assert find_flags(replace(CALM, validation_losses=(1.4, 1.0, 1.04), rising=("block1",))) == ()


def test_flags_of_seeds_are_told_apart_by_slot_and_those_of_the_host_are_not() -> None:
    idle = find_flags(replace(CALM, idle_epochs={"block1": 3, "block2": 4}))
    assert [flag.key for flag in idle] == ["idle_seed:block1", "idle_seed:block2"]
    assert find_flags(replace(CALM, vanishing=("conv1",)))[0].key == "vanishing_gradients"


def test_the_table_of_the_module_names_every_flag() -> None:
    assert flags.__doc__ is not None
    named = set(re.findall(r"^\| (\w+) \|", flags.__doc__, re.MULTILINE)) - {"flag"}
    assert named == {name for _, name, _ in SIGNS}
