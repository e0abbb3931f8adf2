"""The FLOPs bill against hand-computed integers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import ForeignCheckpointError, JsonValue
from esper.tolaria.ledger import FLOP_KINDS, FlopsLedger, train_flops

charges = st.lists(
    st.tuples(st.sampled_from(FLOP_KINDS), st.sampled_from([None, "s1", "s2|x"]), st.integers(0, 2**70))
)


def fill(entries: list[tuple[str, str | None, int]]) -> FlopsLedger:
    ledger = FlopsLedger()
    for kind, slot, flops in entries:
        ledger.charge(kind, slot, flops)
    return ledger


@pytest.mark.parametrize(
    ("input_needs_grad", "weights_frozen", "passes"),
    [(True, False, 3), (False, False, 2), (True, True, 2), (False, True, 1)],
)
def test_training_costs_three_forwards_or_two(
    input_needs_grad: bool, weights_frozen: bool, passes: int
) -> None:
    cost = train_flops(1_000, input_needs_grad=input_needs_grad, weights_frozen=weights_frozen)
    assert cost == passes * 1_000


def test_a_scripted_run_with_a_cull_costs_the_hand_computed_integer() -> None:
    items, host, seed, tail = 100, 5_000, 700, 2_000
    ledger = FlopsLedger()
    # Epoch 1: the host alone.
    ledger.charge("host_train", None, 3 * host * items)
    ledger.charge("validation", None, host * items)
    assert ledger.close_interval() == dict.fromkeys(FLOP_KINDS, 0) | {
        "host_train": 1_500_000,
        "validation": 500_000,
    }
    # Epoch 2: a seed incubates in s1 (first layer without an input gradient), the frozen tail runs for it.
    ledger.charge("host_train", None, 3 * host * items)
    ledger.charge("seed_train", "s1", train_flops(seed, input_needs_grad=False, weights_frozen=False) * items)
    ledger.charge("incubation", "s1", train_flops(tail, input_needs_grad=True, weights_frozen=True) * items)
    # It is culled; epoch 3: another one blends in the same slot and is measured.
    assert ledger.of_slot("s1") == 140_000 + 400_000
    ledger.charge("host_train", None, 3 * host * items)
    ledger.charge("seed_train", "s1", 3 * seed * items)
    ledger.charge("counterfactual", None, (host + seed + tail) * 10)
    assert ledger.of_slot("s1") == 140_000 + 400_000 + 210_000
    assert ledger.totals() == {
        "host_train": 4_500_000,
        "seed_train": 350_000,
        "incubation": 400_000,
        "calibration": 0,
        "counterfactual": 77_000,
        "probe": 0,
        "validation": 500_000,
    }
    assert ledger.total == 4_500_000 + 350_000 + 400_000 + 77_000
    assert ledger.interval_totals()["host_train"] == 3_000_000


@given(entries=charges)
def test_the_total_is_the_sum_over_kinds_without_validation_and_over_slots(
    entries: list[tuple[str, str | None, int]],
) -> None:
    ledger = fill(entries)
    counted = {kind: flops for kind, flops in ledger.totals().items() if kind != "validation"}
    assert ledger.total == sum(counted.values())
    assert ledger.total == sum(ledger.of_slot(slot) for slot in ("", "s1", "s2|x"))


@given(before=charges, after=charges)
def test_intervals_add_up_to_the_totals(
    before: list[tuple[str, str | None, int]], after: list[tuple[str, str | None, int]]
) -> None:
    ledger = fill(before)
    first = ledger.close_interval()
    for kind, slot, flops in after:
        ledger.charge(kind, slot, flops)
    second = ledger.close_interval()
    assert {kind: first[kind] + second[kind] for kind in FLOP_KINDS} == ledger.totals()
    assert set(ledger.interval_totals().values()) == {0}


@given(before=charges, after=charges)
def test_the_state_survives_json_in_the_middle_of_an_interval(
    before: list[tuple[str, str | None, int]], after: list[tuple[str, str | None, int]]
) -> None:
    ledger = fill(before)
    ledger.close_interval()
    for kind, slot, flops in after:
        ledger.charge(kind, slot, flops)
    restored = FlopsLedger()
    restored.restore(json.loads(json.dumps(ledger.state())))
    assert restored.state() == ledger.state()
    assert restored.totals() == ledger.totals()
    assert restored.of_slot("s2|x") == ledger.of_slot("s2|x")
    assert restored.close_interval() == ledger.close_interval()


def test_unknown_kinds_and_negative_amounts_are_refused() -> None:
    ledger = FlopsLedger()
    with pytest.raises(ValueError, match="did you mean 'host_train'"):
        ledger.charge("host_trian", None, 1)
    with pytest.raises(ValueError, match="never taken back"):
        ledger.charge("host_train", None, -1)
    assert ledger.total == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("entries", {"coffee|": "1"}),
        ("entries", {"probe|": "-1"}),
        ("entries", {"probe|": 1.5}),
        ("entries", None),
        ("interval_start", {"probe": "0"}),
        ("interval_start", 3),
    ],
)
def test_a_malformed_state_is_refused_and_changes_nothing(field: str, value: JsonValue) -> None:
    ledger = fill([("probe", None, 5)])
    state = ledger.state()
    with pytest.raises(ForeignCheckpointError, match="saved FLOPs"):
        ledger.restore(state | {field: value})
    assert ledger.state() == state
