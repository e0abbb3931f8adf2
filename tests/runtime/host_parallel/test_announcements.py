"""Decisions come back from numbers as they were, by name whatever table the other rank has."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import Action, ActionSpace, AlphaCurve, BlendForm, LifecycleOp
from esper.runtime.host_parallel.announcements import (
    ACTION_LENGTH,
    UNKNOWN,
    decode_action,
    describe_action,
    encode_action,
)

SPACE = ActionSpace(slot_ids=("a", "b"), blueprint_ids=("one", "two"), descriptors={})
ACTIONS = st.builds(
    Action,
    op=st.sampled_from(LifecycleOp),
    slot=st.sampled_from(["a", "b", None]),
    blueprint=st.sampled_from(["one", "two", None]),
    blend=st.sampled_from(BlendForm),
    curve=st.sampled_from(AlphaCurve),
    tempo_epochs=st.integers(-5, 2**40),
    alpha_target=st.floats(allow_nan=False),
)


@given(action=ACTIONS)
def test_an_action_comes_back_as_it_was(action: Action) -> None:
    numbers = encode_action(action)
    assert len(numbers) == ACTION_LENGTH
    assert all(-(2**63) <= number < 2**63 for number in numbers)
    assert decode_action(numbers, SPACE) == action


def test_a_name_that_is_not_known_here_is_no_other_name() -> None:
    other = ActionSpace(slot_ids=("b",), blueprint_ids=("two",), descriptors={})
    numbers = encode_action(Action(op=LifecycleOp.GERMINATE, slot="a", blueprint="one"))
    decoded = decode_action(numbers, other)
    assert (decoded.slot, decoded.blueprint) == (UNKNOWN, UNKNOWN)
    numbers = encode_action(Action(op=LifecycleOp.GERMINATE, slot="b", blueprint="two"))
    assert decode_action(numbers, other).blueprint == "two"


def test_numbers_beyond_64_bits_are_cut_off() -> None:
    assert encode_action(Action(tempo_epochs=2**70))[5] == 2**63 - 1


def test_an_action_is_told_in_a_few_words() -> None:
    assert describe_action(Action()) == "WAIT"
    assert describe_action(Action(op=LifecycleOp.CULL, slot="a")) == "CULL a"
