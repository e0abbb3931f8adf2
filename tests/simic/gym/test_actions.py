"""Joint actions as vectors and as numbers: complete, distinct, and masked exactly."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.simic.gym.actions import ActionTable, build_action_table
from esper.simic.toys.grow_toy import build_grow_toy
from esper.simic.toys.growth_rules import GrowState, advance, legal_moves
from esper.simic.toys.joint_bandit import JointBandit, build_joint_bandit
from esper.simic.toys.masked_recall import build_masked_recall
from esper.tamiyo import ActionLayout
from simic.gym.fake_growth import FakeGrowth

ONE = torch.ones(1, dtype=torch.bool)
MOVES = st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 1))


def test_the_growth_toy_has_nine_joint_actions() -> None:
    env = build_grow_toy((0,))
    table = build_action_table(env.layout, env.observe())
    assert table.sizes == (4, 2, 2)
    assert table.joint_actions.tolist() == [
        [0, 0, 0],
        [1, 0, 0],
        [1, 0, 1],
        [1, 1, 0],
        [1, 1, 1],
        [2, 0, 0],
        [2, 1, 0],
        [3, 0, 0],
        [3, 1, 0],
    ]


@given(st.lists(MOVES, max_size=16))
@settings(max_examples=25)
def test_the_mask_over_joint_actions_is_exact(moves: list[tuple[int, int, int]]) -> None:
    env = build_grow_toy((0,))
    table = build_action_table(env.layout, env.observe())
    env.reset(ONE)
    state = GrowState()
    for move in moves:
        state, _ = advance(state, move)
        env.step(torch.tensor([move]))
    inputs = env.observe()
    exact = table.exact_mask(inputs)[0]
    legal = {tuple(row) for row in table.joint_actions[exact].tolist()}
    assert legal == set(legal_moves(state))
    union = torch.split(table.union_mask(inputs)[0], [4, 2, 2])
    for column, allowed in enumerate(union):
        used = {m[column] for m in legal if column == 0 or (m[0] and (column == 1 or m[0] == 1))}
        assert set(allowed.nonzero().flatten().tolist()) == (used or {0})
    for move in table.joint_actions:
        assert bool(table.is_legal(move[None], inputs)) == (tuple(move.tolist()) in legal)


def test_the_bandits_legal_actions_are_its_table() -> None:
    bandit = JointBandit(table_seed=4)
    env = build_joint_bandit((0,), table_seed=4)
    table = build_action_table(env.layout, env.observe())
    exact = table.exact_mask(env.observe())[0]
    assert table.joint_actions[exact].tolist() == bandit.actions.tolist()


def test_all_seven_heads_are_listed_with_their_arguments() -> None:
    env = FakeGrowth((0, 1))
    env.reset(torch.ones(2, dtype=torch.bool))
    table = build_action_table(env.layout, env.observe())
    blends, curves, tempos, targets = table.sizes[3:]
    germinate = 2 * 3 * blends * curves * tempos * targets
    ramped = 2 * curves * tempos
    assert table.sizes[:3] == (6, 2, 3)
    assert len(table.joint_actions) == 1 + germinate + 2 + 2 + ramped + ramped * targets
    assert len(set(map(tuple, table.joint_actions.tolist()))) == len(table.joint_actions)
    assert torch.equal(table.canonical(table.joint_actions), table.joint_actions)
    assert int(table.exact_mask(env.observe())[0].sum()) == 1 + germinate * 5 // 6
    assert table.union_mask(env.observe()).shape == (2, sum(table.sizes))


def test_an_unused_column_counts_for_nothing_and_an_illegal_action_waits() -> None:
    env = FakeGrowth((0,))
    env.reset(ONE)
    table = build_action_table(env.layout, env.observe())
    chosen, is_invalid = table.resolve(torch.tensor([[0, 1, 2, 1, 1, 1, 1]]), env.observe())
    assert chosen.tolist() == [[0] * 7]
    assert is_invalid.tolist() == [False]
    chosen, is_invalid = table.resolve(torch.tensor([[1, 1, 2, 0, 0, 0, 0]]), env.observe())
    assert chosen.tolist() == [[0] * 7]
    assert is_invalid.tolist() == [True]


def test_without_an_operation_to_wait_an_illegal_action_stays() -> None:
    env = build_masked_recall((0,))
    env.reset(ONE)
    table = build_action_table(env.layout, env.observe())
    chosen, is_invalid = table.resolve(torch.tensor([[5]]), env.observe())
    assert chosen.tolist() == [[5]]
    assert is_invalid.tolist() == [True]


def test_a_waiting_operation_may_stand_anywhere() -> None:
    layout = ActionLayout(op_names=("CULL", "WAIT"), uses={"op": (True, True), "slot": (True, False)})
    table = ActionTable(layout, num_slots=2)
    inputs = {
        "mask_op": torch.tensor([[False, True]]),
        "mask_slot": torch.zeros(1, 2, 2, dtype=torch.bool),
    }
    assert table.joint_actions.tolist() == [[0, 0], [0, 1], [1, 0]]
    assert table.resolve(torch.tensor([[0, 1]]), inputs)[0].tolist() == [[1, 0]]
    assert table.union_mask(inputs).tolist() == [[False, True, True, False]]
