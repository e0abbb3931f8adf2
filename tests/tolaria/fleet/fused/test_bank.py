"""Rows of weights are updated as torch's own optimisers update each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from esper.tolaria import OptimizerConfig
from esper.tolaria.fleet.fused.arena import UpdateArena
from esper.tolaria.fleet.fused.bank import BankRow, ParameterBank
from esper.tolaria.optimizers import TopologyOptimizer

SHAPES = {"kernel": (3, 2), "bias": (3,), "scale": (3, 1, 1)}
DECAYED = ("kernel",)
NUM_STEPS = 20
NUM_ROWS = 3


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build_parameters(row: int) -> dict[str, nn.Parameter]:
    return {
        name: nn.Parameter(draw(*shape, seed=100 * row + place))
        for place, (name, shape) in enumerate(SHAPES.items())
    }


def build_row(config: OptimizerConfig, row: int) -> BankRow:
    parameters = build_parameters(row)
    named = {f"host.{name}": parameter for name, parameter in parameters.items()}
    optimizer = TopologyOptimizer(config, named, total_batches=NUM_STEPS, newborn_warmup_batches=0)
    return BankRow(optimizer=optimizer, owner="host", parameters=parameters)


@final
@dataclass(slots=True)
class Alone:
    """One row under torch's own optimiser."""

    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    clip: float

    def step(self, gradient: Tensor, rate: float) -> None:
        """Take a flat gradient."""
        start = 0
        for parameter in self.parameters.values():
            parameter.grad = gradient[start : start + parameter.numel()].view(parameter.shape).clone()
            start += parameter.numel()
        nn.utils.clip_grad_norm_(self.parameters.values(), self.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()


def build_alone(config: OptimizerConfig, row: int) -> Alone:
    parameters = build_parameters(row)
    groups = [
        {"params": [parameter], "weight_decay": config.weight_decay if name in DECAYED else 0.0}
        for name, parameter in parameters.items()
    ]
    kinds: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD(groups, lr=1.0, momentum=config.momentum),
        "adam": lambda: torch.optim.Adam(groups, lr=1.0, betas=config.betas),
        "adamw": lambda: torch.optim.AdamW(groups, lr=1.0, betas=config.betas),
    }
    return Alone(parameters, kinds[config.name](), config.clip_norm)


@given(
    name=st.sampled_from(("sgd", "adam", "adamw")),
    weight_decay=st.sampled_from((0.0, 0.1)),
    clip=st.sampled_from((0.5, 3.0, 100.0)),
    rates=st.lists(st.floats(0.0, 0.3), min_size=NUM_ROWS, max_size=NUM_ROWS),
    is_due=st.lists(
        st.lists(st.booleans(), min_size=NUM_ROWS, max_size=NUM_ROWS),
        min_size=NUM_STEPS,
        max_size=NUM_STEPS,
    ),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30)
def test_twenty_steps_with_skips_are_those_of_torch(
    name: str, weight_decay: float, clip: float, rates: list[float], is_due: list[list[bool]], seed: int
) -> None:
    config = OptimizerConfig(name=name, weight_decay=weight_decay, clip_norm=clip)
    rows = [build_row(config, row) for row in range(NUM_ROWS)]
    alone = [build_alone(config, row) for row in range(NUM_ROWS)]
    bank = ParameterBank(rows)
    arena = UpdateArena([bank])
    for step, due in enumerate(is_due):
        gradient = draw(NUM_ROWS, bank.num_values, seed=1000 * seed + step)
        for row, wanted in enumerate(alone):
            if due[row]:
                wanted.step(gradient[row], rates[row] / (1 + step))
            else:
                gradient[row, 1] = torch.nan  # must not be looked at
        norms = arena.compute_norms([gradient])
        at_step = torch.tensor(rates, dtype=torch.float64) / (1 + step)
        arena.update([gradient], norms, torch.tensor(due), at_step)
    bank.write_back()
    for own, wanted in zip(rows, alone, strict=True):
        for path, parameter in own.parameters.items():
            torch.testing.assert_close(parameter, wanted.parameters[path], rtol=1e-10, atol=1e-12)
            kept = dict(own.optimizer.moments(parameter))
            expected = wanted.optimizer.state[wanted.parameters[path]]
            assert set(kept) == set(expected)
            for key, value in expected.items():
                torch.testing.assert_close(
                    kept[key], value, rtol=1e-10, atol=1e-12, check_dtype=key != "step"
                )


@pytest.mark.parametrize("bad", [0.0, torch.inf, torch.nan])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_row_that_is_not_due_keeps_every_bit_good_or_bad(name: str, bad: float) -> None:
    rows = [build_row(OptimizerConfig(name=name, weight_decay=0.1), row) for row in range(2)]
    bank = ParameterBank(rows)
    arena = UpdateArena([bank])
    rates = torch.tensor([0.1, 0.1], dtype=torch.float64)
    for due in ([True, True], [True, False]):
        if not due[1]:
            with torch.no_grad():
                for place, part in enumerate((bank.values, *bank.moments.values())):
                    part[1, place] = bad
            before = [part[1].detach().clone() for part in (bank.values, *bank.moments.values())]
        gradient = draw(2, bank.num_values, seed=7)
        gradient[1] = gradient[1] if due[1] else torch.inf
        arena.update([gradient], arena.compute_norms([gradient]), torch.tensor(due), rates)
    for was, now in zip(before, (bank.values, *bank.moments.values()), strict=True):
        assert torch.equal(was.view(torch.int64), now[1].detach().view(torch.int64))


def test_a_row_that_never_moved_leaves_no_moments_behind() -> None:
    rows = [build_row(OptimizerConfig(name="adam"), row) for row in range(2)]
    bank = ParameterBank(rows)
    gradient = draw(2, bank.num_values, seed=1)
    rates = torch.tensor([0.1, 0.1], dtype=torch.float64)
    arena = UpdateArena([bank])
    arena.update([gradient], arena.compute_norms([gradient]), torch.tensor([True, False]), rates)
    bank.write_back()
    assert [bool(row.optimizer.moments(row.parameters["kernel"])) for row in rows] == [True, False]


def test_moments_and_steps_are_carried_from_one_bank_to_the_next() -> None:
    config = OptimizerConfig(name="adamw", weight_decay=0.1)
    rows, alone = [build_row(config, 0)], build_alone(config, 0)
    for step in range(4):
        bank = ParameterBank(rows)
        gradient = draw(1, bank.num_values, seed=step)
        alone.step(gradient[0], 0.1)
        rate = torch.tensor([0.1], dtype=torch.float64)
        arena = UpdateArena([bank])
        arena.update([gradient], arena.compute_norms([gradient]), torch.tensor([True]), rate)
        bank.write_back()
    assert float(rows[0].optimizer.moments(rows[0].parameters["bias"])["step"]) == 4.0
    for path, parameter in rows[0].parameters.items():
        torch.testing.assert_close(parameter, alone.parameters[path], rtol=1e-10, atol=1e-12)


def test_weights_of_picked_rows_may_repeat_and_hand_their_gradients_back() -> None:
    bank = ParameterBank([build_row(OptimizerConfig(), row) for row in range(2)])
    picked = bank.weights(torch.tensor([1, 0, 1]))
    assert {path: tuple(part.shape) for path, part in picked.items()} == {
        path: (3, *shape) for path, shape in SHAPES.items()
    }
    (gradient,) = torch.autograd.grad(sum(part.sum() for part in picked.values()), bank.values)  # type: ignore[arg-type]
    assert set(gradient[0].tolist()) == {1.0}
    assert set(gradient[1].tolist()) == {2.0}
    assert not any(part.requires_grad for part in bank.weights(is_frozen=True).values())


def test_soundness_looks_at_weights_and_moments_row_by_row() -> None:
    rows = [build_row(OptimizerConfig(), row) for row in range(3)]
    bank = ParameterBank(rows)
    with torch.no_grad():
        bank.values[0, 2] = torch.nan
    bank.moments["momentum_buffer"][2, 0] = 1e20
    assert bank.is_sound(1e19).tolist() == [False, True, False]


def test_rows_without_weights_are_a_bank_too() -> None:
    optimizer = build_row(OptimizerConfig(name="adam"), 0).optimizer
    optimizer.add_seed("block1", {}, birth_batch=0)
    bank = ParameterBank([BankRow(optimizer=optimizer, owner="block1", parameters={})] * 2)
    gradient = torch.zeros(2, 0)
    arena = UpdateArena([bank])
    norms = arena.compute_norms([gradient])
    arena.update([gradient], norms, torch.tensor([True, True]), torch.tensor([0.1, 0.1]))
    bank.write_back()
    assert bank.weights() == {}
    assert norms.tolist() == [0.0, 0.0]


def test_gradients_are_named_as_the_optimiser_names_them() -> None:
    bank = ParameterBank([build_row(OptimizerConfig(), 0)])
    flat = torch.arange(12.0)
    assert {name: part.tolist()[0] for name, part in bank.name_gradient(0, flat).items()} == {
        "host.kernel": 0.0,
        "host.bias": 6.0,
        "host.scale": 9.0,
    }
