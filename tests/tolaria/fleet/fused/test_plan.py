"""Which rows run which seeds follows from what every seed does now."""

from __future__ import annotations

from esper.kasmina import SlotMode
from esper.tolaria.fleet.fused.plan import TrainingPlan, read_modes
from esper.tolaria.fleet.fused.seeds import SeedKinds, build_seed_banks
from tolaria.fleet.fused.groups import MODES, build_group, stack_of


def test_a_plan_sorts_seeds_by_mode() -> None:
    runs = build_group()
    stack = stack_of(runs)
    banks = build_seed_banks([run.bench for run in runs], stack, SeedKinds())
    modes = read_modes(banks)
    for bank, own in zip(banks, modes, strict=True):
        assert own == tuple(MODES[bank.slot_id][member] for member in bank.members)
    plan = TrainingPlan(banks, modes, stack, len(runs))
    assert plan.open_banks == [0, 3]
    assert {slot: [call.places for call in calls.calls] for slot, calls in plan.slots.items()} == {
        "block1": [(0, 3)],
        "block2": [(2,)],
        "block3": [],
    }
    assert plan.taught_slots == {"block1", "block3"}
    assert plan.lessons is not None
    assert plan.lessons.banks == [1, 2, 4]
    assert [flags.tolist() for flags in plan.has_gradient] == [[True] * 2, [True], [True], [True], [True]]


def test_a_plan_without_seeds_teaches_none() -> None:
    runs = build_group(num_hosts=1)
    plan = TrainingPlan([], read_modes([]), stack_of(runs), 1)
    assert plan.lessons is None
    assert plan.taught_slots == frozenset()
    plan.forget_alphas()


def test_an_isolated_seed_that_nobody_teaches_has_no_gradient_and_a_working_one_has_at_alpha_0() -> None:
    runs = build_group()
    stack = stack_of(runs)
    banks = build_seed_banks([run.bench for run in runs], stack, SeedKinds())
    silent = tuple(tuple(SlotMode.SILENT for _ in bank.members) for bank in banks)
    plan = TrainingPlan(banks, silent, stack, len(runs))
    assert plan.lessons is None
    assert [flags.tolist() for flags in plan.has_gradient] == [
        [True, True],
        [False],
        [False],
        [True],
        [False],
    ]
