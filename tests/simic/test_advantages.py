"""Advantages against hand-computed rows, an independent implementation, and the episodes taken apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchrl.objectives.value.functional import (
    generalized_advantage_estimate,
    reward2go,
    vec_generalized_advantage_estimate,
)

from esper.leyline import SingleProcess
from esper.simic.advantages import (
    RowSteps,
    RowTable,
    choose_normalization,
    compute_explained_variance,
    compute_gae,
    compute_next_values,
    compute_normalization,
    compute_value_slope,
    merge_rows,
)
from esper.simic.interfaces import Bootstrap

GAMMA, LAMBDA = 0.99, 0.95
GOLDEN = (
    1.538874, 1.636229, 0.687113, 1.081459, 0.625333, 0.537582,
    0.575136, 2.018575, 0.019750, -0.500000, -0.075010, -0.072667,
)  # fmt: skip


def rows_of(num_rows: int, num_steps: int, seed: int) -> tuple[Tensor, Tensor, RowSteps, Bootstrap]:
    """Random values, rewards and flags: both kinds of end anywhere, rows that end in mid-episode."""
    draw = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    kind = torch.rand(num_rows, num_steps, generator=draw)
    terminated, truncated = kind < 0.15, (kind >= 0.15) & (kind < 0.3)
    done = terminated | truncated
    start = torch.cat([torch.ones(num_rows, 1, dtype=torch.bool), done[:, :-1]], dim=1)
    steps = RowSteps(numbers(num_rows, num_steps), terminated, truncated, torch.ones_like(done), start)
    bootstrap = Bootstrap(
        torch.where(truncated, numbers(num_rows, num_steps), 0.0),
        torch.where(done[:, -1], 0.0, numbers(num_rows)),
    )
    return numbers(num_rows, num_steps), numbers(num_rows, num_steps), steps, bootstrap


def loop_gae(
    rewards: Sequence[float], values: Sequence[float], after: float, gamma: float, gae_lambda: float
) -> list[float]:
    """One episode, or the piece of one that a row holds: the recursion, with the value of what follows."""
    advantages, trace = [0.0] * len(rewards), 0.0
    following = [*values[1:], after]
    for t in reversed(range(len(rewards))):
        trace = rewards[t] + gamma * following[t] - values[t] + gamma * gae_lambda * trace
        advantages[t] = trace
    return advantages


def episodes_apart(value: Tensor, steps: RowSteps, bootstrap: Bootstrap, gamma: float, lam: float) -> Tensor:
    """Every episode by itself, then put back together."""
    rows = []
    for e in range(value.shape[0]):
        row: list[float] = []
        first = 0
        for t in range(value.shape[1]):
            is_end = bool(steps.terminated[e, t] | steps.truncated[e, t])
            if not is_end and t < value.shape[1] - 1:
                continue
            after = float(bootstrap.next_value[e, t]) if bool(steps.truncated[e, t]) else 0.0
            if not is_end:
                after = float(bootstrap.last_value[e])
            piece = slice(first, t + 1)
            row += loop_gae(steps.reward[e, piece].tolist(), value[e, piece].tolist(), after, gamma, lam)
            first = t + 1
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def ours(value: Tensor, steps: RowSteps, bootstrap: Bootstrap, gamma: float, gae_lambda: float) -> Tensor:
    next_value = compute_next_values(value, steps.truncated, bootstrap)
    return compute_gae(value, next_value, steps, gamma=gamma, gae_lambda=gae_lambda).advantage


# ---------------------------------------------------------------------- the golden row


def golden_row() -> tuple[Tensor, RowSteps, Bootstrap]:
    t = torch.arange(12, dtype=torch.float64)
    reward, value = ((7 * t) % 5 - 2) / 2, ((3 * t) % 7) / 3 - 1
    terminated, truncated = t == 9, t == 4
    start = (t == 0) | (t == 5) | (t == 10)
    next_value = torch.where(truncated, 0.8, torch.where(terminated, 123.0, 0.0))
    steps = RowSteps(reward[None], terminated[None], truncated[None], torch.ones(1, 12).bool(), start[None])
    return value[None], steps, Bootstrap(next_value[None], torch.tensor([0.6], dtype=torch.float64))


def test_a03_the_golden_row_comes_out_to_the_sixth_decimal() -> None:
    value, steps, bootstrap = golden_row()
    assert ours(value, steps, bootstrap, GAMMA, LAMBDA)[0].tolist() == pytest.approx(GOLDEN, abs=5.1e-7)


def next_values(value: Tensor, at_cut: float, at_end: float, at_row_end: float) -> Tensor:
    following = torch.cat([value[0, 1:], torch.tensor([at_row_end], dtype=torch.float64)])
    following[4], following[9] = at_cut, at_end
    return following


def convention(following: Tensor, bootstrapped: Tensor, traced: Tensor) -> Tensor:
    """The recursion with its flags spelled out, for conventions that are not ours."""
    value, steps, _ = golden_row()
    delta = steps.reward[0] + GAMMA * bootstrapped * following - value[0]
    advantage, trace = torch.zeros(12, dtype=torch.float64), 0.0
    for t in reversed(range(12)):
        trace = float(delta[t]) + GAMMA * LAMBDA * float(traced[t]) * trace
        advantage[t] = trace
    return advantage


def wrong_conventions() -> dict[str, tuple[Tensor, float, list[int]]]:
    """Name -> (advantages, largest error, steps it hits), as the table beside the golden row lists them."""
    value, steps, _ = golden_row()
    ends, cuts = steps.terminated[0].double(), steps.truncated[0].double()
    done = ends + cuts
    following = next_values(value, 0.8, 123.0, 0.6)
    own = next_values(value, float(value[0, 4]), 123.0, 0.6)
    reset = next_values(value, float(value[0, 5]), 123.0, 0.6)
    unflagged = next_values(value, float(value[0, 5]), 0.0, 0.0)
    return {
        "value of the state before the cut": (convention(own, 1 - ends, 1 - done), 0.132, list(range(5))),
        "no bootstrap at a cut": (convention(following, 1 - done, 1 - done), 0.792, list(range(5))),
        "a cut ends nothing and the row end is worth 0": (
            convention(unflagged, 1 - ends, 1 - ends),
            0.946,
            [*range(5), 10, 11],
        ),
        "value of the observation after the reset": (
            convention(reset, 1 - ends, 1 - done),
            1.452,
            list(range(5)),
        ),
        "a terminal is bootstrapped": (
            convention(following, 0 * ends + 1, 1 - done),
            121.8,
            list(range(5, 10)),
        ),
    }


@pytest.mark.parametrize("name", list(wrong_conventions()))
def test_a03_every_wrong_convention_differs_where_the_table_says(name: str) -> None:
    advantages, largest, steps = wrong_conventions()[name]
    error = (advantages - torch.tensor(GOLDEN, dtype=torch.float64)).abs()
    assert float(error.max()) == pytest.approx(largest, rel=1e-3, abs=6e-4)
    assert (error > 1e-5).nonzero().flatten().tolist() == steps


def test_a03_a_reward_with_the_final_value_added_is_the_same_estimate() -> None:
    value, steps, bootstrap = golden_row()
    added = steps.reward + GAMMA * torch.where(steps.truncated, bootstrap.next_value, 0.0)
    closed = steps._replace(
        reward=added,
        terminated=steps.terminated | steps.truncated,
        truncated=torch.zeros_like(steps.truncated),
    )
    assert ours(value, closed, bootstrap, GAMMA, LAMBDA)[0].tolist() == pytest.approx(GOLDEN, abs=5.1e-7)


# ---------------------------------------------------------------------- oracle, limits, properties


@pytest.mark.parametrize("seed", range(5))
def test_a01_equals_torchrl(seed: int) -> None:
    value, _, steps, bootstrap = rows_of(4, 13, seed)
    next_value = compute_next_values(value, steps.truncated, bootstrap)
    found = compute_gae(value, next_value, steps, gamma=GAMMA, gae_lambda=LAMBDA)
    wide = [x[..., None] for x in (value, next_value, steps.reward, steps.terminated | steps.truncated)]
    terminated = steps.terminated[..., None]
    # As tensors: it turns plain numbers into float32.
    rates = [torch.tensor(rate, dtype=torch.float64) for rate in (GAMMA, LAMBDA)]
    advantage, target = generalized_advantage_estimate(*rates, *wide, terminated=terminated)
    torch.testing.assert_close(found.advantage, advantage[..., 0], rtol=0, atol=1e-10)
    torch.testing.assert_close(found.returns, target[..., 0], rtol=0, atol=1e-10)
    fast, _ = vec_generalized_advantage_estimate(*rates, *wide, terminated=terminated)
    torch.testing.assert_close(found.advantage, fast[..., 0], rtol=0, atol=1e-5)


def test_a02_lambda_zero_is_one_step_and_lambda_one_is_monte_carlo() -> None:
    value, _, steps, bootstrap = rows_of(3, 9, 1)
    next_value = compute_next_values(value, steps.truncated, bootstrap)
    one_step = steps.reward + GAMMA * torch.where(steps.terminated, 0.0, next_value) - value
    found = ours(value, steps, bootstrap, GAMMA, 0.0)
    torch.testing.assert_close(found, one_step, rtol=0, atol=1e-10)
    done = steps.terminated | steps.truncated
    tail = torch.where(steps.truncated, bootstrap.next_value, 0.0)
    tail[:, -1] = torch.where(done[:, -1], tail[:, -1], bootstrap.last_value)
    reward = steps.reward + GAMMA * tail
    to_go = reward2go(reward[..., None], done[..., None], GAMMA)[..., 0]
    found = ours(value, steps, bootstrap, GAMMA, 1.0)
    torch.testing.assert_close(found, to_go - value, rtol=0, atol=1e-10)


def test_a02_gamma_zero_is_the_reward_and_gamma_one_the_plain_sum() -> None:
    value, _, steps, bootstrap = rows_of(2, 6, 2)
    torch.testing.assert_close(ours(value, steps, bootstrap, 0.0, LAMBDA), steps.reward - value)
    never = torch.zeros_like(steps.terminated)
    open_rows = RowSteps(steps.reward, never, never, steps.valid, never)
    open_end = Bootstrap(torch.zeros_like(value), torch.tensor([1.5, -2.0], dtype=torch.float64))
    expected = steps.reward.flip(1).cumsum(1).flip(1) + open_end.last_value[:, None] - value
    torch.testing.assert_close(ours(value, open_rows, open_end, 1.0, 1.0), expected, rtol=0, atol=1e-10)


@settings(max_examples=50)
@given(st.integers(1, 5), st.integers(1, 20), st.integers(0, 10**6), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a03_mixed_flags_equal_episodes_computed_apart(
    num_rows: int, num_steps: int, seed: int, gamma: float, gae_lambda: float
) -> None:
    value, _, steps, bootstrap = rows_of(num_rows, num_steps, seed)
    found = ours(value, steps, bootstrap, gamma, gae_lambda)
    expected = episodes_apart(value, steps, bootstrap, gamma, gae_lambda)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_a03_the_random_rows_hold_cuts_in_mid_row_and_rows_that_end_in_mid_episode() -> None:
    flags = [rows_of(5, 20, seed)[2] for seed in range(20)]
    assert any(bool(steps.truncated[:, 1:-1].any()) for steps in flags)
    assert any(bool((~(steps.terminated | steps.truncated)[:, -1]).any()) for steps in flags)


@settings(max_examples=50)
@given(st.integers(2, 5), st.integers(1, 12), st.integers(0, 10**6))
def test_bug01_no_environment_sees_another(num_rows: int, num_steps: int, seed: int) -> None:
    value, _, steps, bootstrap = rows_of(num_rows, num_steps, seed)
    together = ours(value, steps, bootstrap, GAMMA, LAMBDA)
    for e in range(num_rows):
        row = slice(e, e + 1)
        alone = RowSteps(*(x[row] for x in steps))
        ends = Bootstrap(bootstrap.next_value[row], bootstrap.last_value[row])
        torch.testing.assert_close(
            together[row], ours(value[row], alone, ends, GAMMA, LAMBDA), rtol=0, atol=1e-10
        )


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.integers(0, 5))
def test_what_is_not_valid_passes_nothing_on_and_may_hold_anything(seed: int, cut: int) -> None:
    value, _, steps, bootstrap = rows_of(2, 6, seed)
    never = torch.zeros_like(steps.terminated)
    valid = torch.arange(6)[None].expand(2, 6) < cut
    dead = steps._replace(
        reward=torch.where(valid, steps.reward, torch.nan), terminated=never, truncated=never, valid=valid
    )
    spoilt = torch.where(valid, value, torch.nan)
    if cut > 0:
        spoilt[:, cut] = value[:, cut]  # the last observation that was still good
    next_value = compute_next_values(spoilt, never, bootstrap)
    found = compute_gae(spoilt, next_value, dead, gamma=GAMMA, gae_lambda=LAMBDA)
    assert torch.equal(found.advantage[:, cut:], torch.zeros(2, 6 - cut, dtype=torch.float64))
    if cut:
        piece = RowSteps(*(x[:, :cut] for x in dead))
        ends = Bootstrap(torch.zeros(2, cut, dtype=torch.float64), value[:, cut])
        starts = torch.zeros_like(piece.episode_start)
        expected = ours(value[:, :cut], piece._replace(episode_start=starts), ends, GAMMA, LAMBDA)
        found = compute_gae(
            spoilt, next_value, dead._replace(episode_start=never), gamma=GAMMA, gae_lambda=LAMBDA
        )
        torch.testing.assert_close(found.advantage[:, :cut], expected)


def test_a_new_episode_ends_the_trace_of_the_one_before() -> None:
    value, _, steps, bootstrap = rows_of(1, 4, 3)
    never = torch.zeros_like(steps.terminated)
    started = steps._replace(
        terminated=never, truncated=never, episode_start=torch.tensor([[1, 0, 1, 0]]).bool()
    )
    found = ours(value, started, bootstrap, GAMMA, LAMBDA)
    assert float(found[0, 1]) == pytest.approx(
        float(steps.reward[0, 1] + GAMMA * value[0, 2] - value[0, 1]), rel=1e-12
    )


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_an_end_alone_ends_the_trace_even_if_no_start_follows(end: str) -> None:
    value, _, steps, bootstrap = rows_of(1, 4, 3)
    flags = {name: torch.zeros_like(steps.valid) for name in ("terminated", "truncated", "episode_start")}
    flags[end][0, 1] = True
    bootstrap = Bootstrap(torch.full_like(value, 0.5), bootstrap.last_value)
    found = ours(value, steps._replace(**flags), bootstrap, GAMMA, LAMBDA)
    after = 0.5 if end == "truncated" else 0.0
    assert float(found[0, 1]) == pytest.approx(
        float(steps.reward[0, 1] + GAMMA * after - value[0, 1]), rel=1e-12
    )


def test_a_gap_without_any_flag_carries_no_trace_over_it() -> None:
    value, next_value, steps, _ = rows_of(1, 4, 3)
    never = torch.zeros_like(steps.valid)
    gap = steps._replace(
        terminated=never, truncated=never, episode_start=never, valid=torch.tensor([[1, 1, 0, 1]]).bool()
    )
    found = compute_gae(value, next_value, gap, gamma=GAMMA, gae_lambda=LAMBDA)
    deltas = (steps.reward + GAMMA * next_value - value)[0].tolist()
    expected = [deltas[0] + GAMMA * LAMBDA * deltas[1], deltas[1], 0.0, deltas[3]]
    assert found.advantage[0].tolist() == pytest.approx(expected, rel=1e-12)


# ---------------------------------------------------------------------- sums over rows and ranks


def moments_of(x: Tensor) -> tuple[float, float, float]:
    return float(x.numel()), float(x.sum()), float(x.square().sum())


def test_explained_variance_is_that_of_the_definition() -> None:
    draw = torch.Generator().manual_seed(0)
    returns = torch.randn(50, generator=draw, dtype=torch.float64)
    values = returns + 0.3 * torch.randn(50, generator=draw, dtype=torch.float64)
    expected = 1 - (returns - values).var(correction=0) / returns.var(correction=0)
    found = compute_explained_variance(moments_of(returns), moments_of(returns - values))
    assert found == pytest.approx(float(expected), rel=1e-10)
    assert compute_explained_variance(moments_of(returns), moments_of(returns * 0)) == 1.0


def test_explained_variance_of_nothing_or_of_a_constant_is_unknown() -> None:
    assert math.isnan(compute_explained_variance((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)))
    assert math.isnan(compute_explained_variance((4.0, 8.0, 16.0), (4.0, 0.0, 1.0)))


def normalization_of(advantages: list[float]) -> tuple[float, float]:
    squares = sum(x * x for x in advantages)
    sums = {"learn": float(len(advantages)), "advantage": sum(advantages), "advantage_squares": squares}
    return compute_normalization(sums)


def test_a16_advantages_are_normalised_by_mean_and_unbiased_deviation() -> None:
    advantages = torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, divisor = normalization_of(advantages.tolist())
    assert mean == pytest.approx(float(advantages.mean()), abs=1e-12)
    assert divisor == pytest.approx(float(advantages.std()) + 1e-8, rel=1e-10)


@pytest.mark.parametrize("advantages", [[], [3.0], [3.0, 3.0], [3.0, -1.0]])
def test_a16_none_one_and_two_advantages_stay_finite(advantages: list[float]) -> None:
    mean, divisor = normalization_of(advantages)
    assert all(math.isfinite((x - mean) / divisor) for x in advantages)
    if len(advantages) < 2:
        assert (mean, divisor) == (0.0, 1.0)


def test_a16_the_mode_says_whose_mean_it_is() -> None:
    sums = {"learn": 2.0, "advantage": 2.0, "advantage_squares": 4.0}
    choose = partial(choose_normalization, totals=sums, return_scale=0.03)
    assert choose("rollout") == compute_normalization(sums)
    assert choose("minibatch") is None
    assert choose("returns") == (0.0, 0.03)
    assert choose("none") == (0.0, 1.0)


class ManyRanks:
    """One rank of several whose numbers are written down."""

    def __init__(self, rank: int, tables: list[list[list[float]]]) -> None:
        self._rank, self._tables = rank, tables

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def world_size(self) -> int:
        return len(self._tables)

    def all_sum(self, values: Sequence[float]) -> list[float]:
        others = [ManyRanks(rank, self._tables) for rank in range(self.world_size)]
        sent = [rank.sent(len(values)) for rank in others]
        assert sent[self._rank] == list(values)
        return [sum(column) for column in zip(*sent, strict=True)]

    def all_max(self, values: Sequence[float]) -> list[float]:
        return [float(max(len(table) for table in self._tables))]

    def broadcast(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def gather_bytes(self, data: bytes) -> list[bytes]:
        return [data]

    def all_agree(self, digest: str) -> bool:
        return True

    def sent(self, size: int) -> list[float]:
        flat = [x for row in self._tables[self._rank] for x in row]
        start = self._rank * size // self.world_size
        return [0.0] * start + flat + [0.0] * (size - start - len(flat))


def test_ordered_sums_do_not_depend_on_how_rows_lie_on_ranks() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = (torch.randn(5, 3, generator=draw, dtype=torch.float64) * 1e3).tolist()
    alone = merge_rows(rows, SingleProcess(), is_ordered=True)
    for split in (1, 2, 4):
        tables = [rows[:split], rows[split:]]
        ranks = [merge_rows(table, ManyRanks(r, tables), is_ordered=True) for r, table in enumerate(tables)]
        assert ranks == [alone, alone]
    assert merge_rows(rows, SingleProcess(), is_ordered=False) == alone


def test_sums_of_infinities_do_not_raise() -> None:
    found = merge_rows([[math.inf, 1.0], [-math.inf, 2.0]], SingleProcess(), is_ordered=False)
    assert math.isnan(found[0])
    assert found[1] == 3.0


def test_a_table_sums_rows_and_groups_of_rows() -> None:
    mask = torch.tensor([[True, False], [True, True], [False, False]])
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    table = RowTable({"learn": mask, "x": x}, SingleProcess(), squared=("x",))
    assert table.totals(is_ordered=False) == {"learn": 3.0, "x": 21.0, "x_squares": 91.0}
    assert table.group_totals([[2, 0], [1]]) == [
        {"learn": 1.0, "x": 14.0, "x_squares": 66.0},
        {"learn": 2.0, "x": 7.0, "x_squares": 25.0},
    ]


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_the_slope_of_returns_over_values_is_that_of_least_squares(scale: float) -> None:
    generator = torch.Generator().manual_seed(8)
    returns = torch.randn(200, generator=generator, dtype=torch.float64) + 3.0
    values = scale * returns + 0.1 * torch.randn(200, generator=generator, dtype=torch.float64)
    found = compute_value_slope(moments_of(returns), moments_of(values), moments_of(returns - values))
    both = torch.stack([values, returns])
    covariance = torch.cov(both, correction=0)
    assert found == pytest.approx(float(covariance[0, 1] / covariance[0, 0]), rel=1e-9)


def test_the_slope_over_no_values_or_equal_ones_is_unknown() -> None:
    nothing, equal = (0.0, 0.0, 0.0), (4.0, 8.0, 16.0)
    assert math.isnan(compute_value_slope(nothing, nothing, nothing))
    assert math.isnan(compute_value_slope((4.0, 1.0, 2.0), equal, (4.0, -7.0, 14.0)))
