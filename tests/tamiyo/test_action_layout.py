from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import make_space
from esper.leyline import Action, ActionSpace, AlphaCurve, BlendForm, LifecycleOp
from esper.tamiyo.action_layout import (
    HEAD_OPS,
    ActionLayout,
    build_action,
    build_growth_layout,
    build_indices,
)

SPACE = make_space(("a", "b", "c"))


def used_fields(action: Action) -> dict[str, object]:
    """The fields that the operation uses; the rest may be anything."""
    values = {
        "op": action.op,
        "slot": action.slot,
        "blueprint": action.blueprint,
        "blend": action.blend,
        "curve": action.curve,
        "tempo": action.tempo_epochs,
        "alpha_target": action.alpha_target,
    }
    return {head: values[head] for head, ops in HEAD_OPS.items() if action.op in ops}


def any_action(space: ActionSpace = SPACE) -> st.SearchStrategy[Action]:
    return st.builds(
        Action,
        op=st.sampled_from(space.op_ids),
        slot=st.sampled_from(space.slot_ids),
        blueprint=st.sampled_from(space.blueprint_ids),
        blend=st.sampled_from(space.blend_ids),
        curve=st.sampled_from(space.curve_ids),
        tempo_epochs=st.sampled_from(space.tempo_ids),
        alpha_target=st.sampled_from(space.alpha_target_ids),
    )


@given(any_action())
def test_indices_and_actions_are_inverse_in_what_the_operation_uses(action: Action) -> None:
    rebuilt = build_action(build_indices(action, SPACE), SPACE)
    assert used_fields(rebuilt) == used_fields(action)


@given(st.tuples(*(st.integers(0, size - 1) for size in SPACE.sizes)))
def test_columns_that_an_operation_does_not_use_are_ignored_and_come_back_as_zero(
    row: tuple[int, ...],
) -> None:
    op = SPACE.op_ids[row[0]]
    expected = tuple(index if op in ops else 0 for index, ops in zip(row, HEAD_OPS.values(), strict=True))
    assert build_indices(build_action(row, SPACE), SPACE) == expected


def test_an_operation_ignores_even_impossible_columns_of_other_heads() -> None:
    assert build_action((0, 99, 99, 99, 99, 99, 99), SPACE) == Action()


@pytest.mark.parametrize("head", [head for head in HEAD_OPS if head != "op"])
@pytest.mark.parametrize("index", [-1, 99])
def test_an_index_outside_its_table_is_refused_by_name(head: str, index: int) -> None:
    op = next(iter(HEAD_OPS[head] & {LifecycleOp.GERMINATE, LifecycleOp.SET_ALPHA, LifecycleOp.CULL}))
    if LifecycleOp.GERMINATE in HEAD_OPS[head]:
        op = LifecycleOp.GERMINATE
    row = [SPACE.op_ids.index(op), 0, 0, 0, 0, 0, 0]
    row[tuple(HEAD_OPS).index(head)] = index
    with pytest.raises(ValueError, match=rf"{head} index {index}: must be in \[0, "):
        build_action(tuple(row), SPACE)


def test_an_operation_index_outside_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="op index 6"):
        build_action((6, 0, 0, 0, 0, 0, 0), SPACE)


def test_a_row_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        build_action((0, 0), SPACE)


def test_an_action_that_the_space_lacks_has_no_indices() -> None:
    with pytest.raises(ValueError, match="slot='elsewhere'"):
        build_indices(Action(op=LifecycleOp.CULL, slot="elsewhere"), SPACE)
    with pytest.raises(ValueError, match="tempo=4"):
        build_indices(Action(op=LifecycleOp.CULL, slot="a", tempo_epochs=4), SPACE)


def test_the_growth_layout_says_which_operation_uses_which_head() -> None:
    layout = build_growth_layout(SPACE)
    assert layout.heads == tuple(HEAD_OPS)
    assert layout.op_names == tuple(op.value for op in LifecycleOp)
    assert layout.argument_sizes == {"blend": 3, "curve": 3, "tempo": 4, "alpha_target": 3}
    for head, ops in HEAD_OPS.items():
        assert layout.uses[head] == tuple(op in ops for op in LifecycleOp)


def test_hosts_with_the_same_arguments_share_a_layout_whatever_their_slots() -> None:
    assert build_growth_layout(make_space(("x",))) == build_growth_layout(SPACE)
    other = replace(SPACE, blend_ids=(BlendForm.ADD,), curve_ids=(AlphaCurve.LINEAR,))
    assert build_growth_layout(other) != build_growth_layout(SPACE)


def test_a_space_with_fewer_operations_has_shorter_rows_of_uses() -> None:
    space = replace(SPACE, op_ids=(LifecycleOp.WAIT, LifecycleOp.CULL))
    layout = build_growth_layout(space)
    assert layout.uses["slot"] == (False, True)
    assert layout.uses["blueprint"] == (False, False)
    assert build_indices(Action(op=LifecycleOp.CULL, slot="b", tempo_epochs=5), space) == (
        1,
        1,
        0,
        0,
        0,
        2,
        0,
    )


def test_a_layout_can_be_copied_with_whatever_holds_it() -> None:
    layout = build_growth_layout(SPACE)
    assert copy.deepcopy(layout) == layout


@pytest.mark.parametrize(
    ("uses", "sizes", "message"),
    [
        ({"slot": (True,)}, {}, "expected op"),
        ({"slot": (True,), "op": (True,)}, {}, "expected op"),
        ({"op": (True,), "blueprint": (True,)}, {}, "needs a slot head"),
        ({"op": (True,), "tempo": (True,)}, {}, "expected op"),
        ({"op": (True,)}, {"tempo": 2}, "expected op"),
        ({"op": (True,), "tempo": (True, False)}, {"tempo": 2}, "2 entries, not 1"),
        ({"op": (False,)}, {}, "uses the head 'op'"),
        ({"op": (True,), "tempo": (True,)}, {"tempo": 0}, "tempo.*>= 1"),
        ({"op": (True,), "slot": (False,), "blueprint": (True,)}, {}, "'A'.*blueprint.*no slot"),
    ],
)
def test_a_layout_that_contradicts_itself_is_refused(
    uses: dict[str, tuple[bool, ...]], sizes: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ActionLayout(op_names=("A",), uses=uses, argument_sizes=sizes)


def test_a_layout_without_operations_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one operation"):
        ActionLayout(op_names=(), uses={"op": ()})


def test_layouts_of_other_choices_differ_though_their_sizes_agree() -> None:
    slower = replace(SPACE, tempo_ids=tuple(tempo + 1 for tempo in SPACE.tempo_ids))
    ours, theirs = build_growth_layout(SPACE), build_growth_layout(slower)
    assert ours != theirs
    assert ours.argument_sizes == theirs.argument_sizes


def test_names_must_be_as_many_as_the_choices() -> None:
    with pytest.raises(ValueError, match=r"argument_names\['tempo'\]=\('1',\): the head has 4 choices"):
        replace(build_growth_layout(SPACE), argument_names={"tempo": ("1",)})
