"""Bills of growth in width, each worked out by hand on a network 4 - 2 - 2 - 3."""

from __future__ import annotations

import pytest
from growth.bill import (
    LINE_SEARCH,
    SEARCH_ROWS,
    Growth,
    Shape,
    count_algebra_flops,
    count_plan_flops,
    count_search_flops,
    count_statistics_flops,
    count_tiny_flops,
    find_affordable,
    plan_growths,
)

SHAPE = Shape(num_inputs=4, hidden=(2, 2), num_outputs=3)


def test_statistics_cost_gradients_of_everything_and_six_products() -> None:
    # Layer 1 has 2 inputs and a constant, 2 outputs; the layer before has 4 inputs and a constant.
    products = 3 * 3 + 3 * 2 + 2 * 2 + 5 * 5 + 5 * 2 + 5 * 3
    assert products == 69
    assert count_statistics_flops(SHAPE, 1, 10) == (3 * 36 + 2 * 69) * 10


def test_algebra_is_a_solve_a_product_a_whitening_and_a_decomposition() -> None:
    solve, residual = 3**3, 2 * 5 * 3 * 2
    whitening = 10 * 5**3 + 2 * 5**3 + 2 * 5 * 5 * 2
    decomposition = 20 * 5 * 2 * 2 + 2 * 5 * 5 * 2
    assert count_algebra_flops(SHAPE, 1) == solve + residual + whitening + decomposition == 2187


def test_the_last_layer_counts_the_outputs_of_the_network() -> None:
    # Layer 2: 2 inputs and a constant, 3 outputs, and 2 inputs and a constant before.
    products = 9 + 9 + 9 + 9 + 9 + 9
    assert count_statistics_flops(SHAPE, 2, 1) == 3 * 36 + 2 * products


def test_the_line_search_runs_the_widened_network_once_per_factor_and_row() -> None:
    widened = 2 * (4 * 3 + 3 * 2 + 2 * 3)
    assert count_search_flops(SHAPE, 1, 1) == len(LINE_SEARCH) * widened * SEARCH_ROWS


def test_a_growth_by_tiny_is_the_sum_of_its_parts() -> None:
    parts = count_statistics_flops(SHAPE, 1, 10) + count_algebra_flops(SHAPE, 1)
    assert count_tiny_flops(SHAPE, 1, 1, 10) == parts + count_search_flops(SHAPE, 1, 1)


def test_layers_take_turns_and_end_at_their_width() -> None:
    assert plan_growths((2, 2), (4, 4), 20) == (
        Growth(epoch=1, layer=1, target=3),
        Growth(epoch=4, layer=2, target=3),
        Growth(epoch=7, layer=1, target=4),
        Growth(epoch=10, layer=2, target=4),
    )


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_short_plan_still_holds_every_growth(epochs: int) -> None:
    growths = plan_growths((2, 2), (4, 4), epochs)
    assert [growth.target for growth in growths] == [3, 3, 4, 4]
    assert all(growth.epoch < epochs for growth in growths)


def test_the_bill_of_a_plan_follows_the_sizes_epoch_by_epoch() -> None:
    # 1 epoch at (2, 2), 3 at (3, 2), 3 at (3, 3), 3 at (4, 3), 10 at (4, 4).
    forwards = 36 + 3 * 48 + 3 * 60 + 3 * 74 + 10 * 88
    assert count_plan_flops(SHAPE, (4, 4), 20, num_items=100) == 3 * forwards * 100


@pytest.mark.parametrize(
    ("budget", "epochs"), [(3, 1), (10, 1), (14, 1), (15, 1), (16, 2), (24, 2), (26, 3), (100, 10)]
)
def test_the_epochs_are_those_whose_cost_is_nearest(budget: int, epochs: int) -> None:
    assert find_affordable(lambda count: 10 * count, budget) == epochs
