from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from esper.leyline import ConfigError
from esper.tamiyo.action_layout import ActionLayout
from esper.tamiyo.distributions import ActionLogits, ActionMask
from esper.tamiyo.network import NetworkConfig, build_network
from esper.tamiyo.network.encoder import Encoded
from esper.tamiyo.network.flat import FlatHeads
from tamiyo.network.network_cases import FLAT, LAYOUT, SMALL, make_inputs, make_network, pad_inputs

PLAIN = ActionLayout(op_names=("LEFT", "RIGHT"), uses={"op": (True, True)})
SLOTTED = ActionLayout(
    op_names=("STAY", "GO"),
    uses={"op": (True, True), "slot": (False, True), "tempo": (False, True)},
    argument_sizes={"tempo": 3},
)
ON_FEATURES = replace(SMALL, kind="flat", flat_features=4)


def logits_of(heads: FlatHeads, rows: int, slots: int, blueprints: int) -> ActionLogits:
    mask = ActionMask(
        op=torch.ones(rows, 6, dtype=torch.bool),
        slot=torch.ones(rows, 6, slots, dtype=torch.bool),
        blueprint=torch.ones(rows, slots, blueprints, dtype=torch.bool),
    )
    core = torch.randn(rows, 10)
    logits: ActionLogits = heads(core, Encoded(core), mask)
    return logits


@pytest.mark.parametrize(("factorisation", "wide", "deep"), [("conditional", 6, 4), ("factored", 1, 1)])
def test_logits_have_the_shapes_of_their_factorisation(factorisation: str, wide: int, deep: int) -> None:
    heads = FlatHeads(LAYOUT, replace(FLAT, factorisation=factorisation))
    logits = logits_of(heads, 2, 4, 5)
    assert logits.slot is not None
    assert logits.blueprint is not None
    assert logits.slot.shape == (2, wide, 4)
    assert logits.blueprint.shape == (2, deep, 5)
    for head, size in LAYOUT.argument_sizes.items():
        assert logits.arguments[head].shape == (2, wide, deep, size)


@pytest.mark.parametrize("factorisation", ["conditional", "factored"])
def test_logits_are_cut_to_the_masks(factorisation: str) -> None:
    heads = FlatHeads(LAYOUT, replace(FLAT, factorisation=factorisation))
    logits = logits_of(heads, 2, 3, 2)
    assert logits.slot is not None
    assert logits.blueprint is not None
    assert logits.slot.shape[-1] == 3
    assert logits.blueprint.shape[-1] == 2


@pytest.mark.parametrize("factorisation", ["conditional", "factored"])
def test_a_flat_network_acts_on_growing_hosts_up_to_its_size(factorisation: str) -> None:
    network = make_network(replace(FLAT, factorisation=factorisation), spread=0.2)
    inputs = make_inputs(3, slots=3, blueprints=4)
    starts = torch.ones(3, dtype=torch.bool)
    step = network.act(inputs, network.initial_memory(3), starts, is_greedy=True)
    padded = network.act(pad_inputs(inputs, 1, 1), network.initial_memory(3), starts, is_greedy=True)
    assert torch.equal(step.actions, padded.actions)
    torch.testing.assert_close(padded.log_probs, step.log_probs, rtol=0, atol=1e-6)
    torch.testing.assert_close(padded.value, step.value, rtol=0, atol=1e-6)


def test_a_host_with_more_slots_or_blueprints_is_refused_with_the_remedy() -> None:
    network = make_network(FLAT)
    starts = torch.ones(1, dtype=torch.bool)
    for inputs, message in (
        (make_inputs(1, slots=6), "6 slots.*flat_slots=4.*kind='growth'"),
        (make_inputs(1, blueprints=9), "9 blueprints.*flat_blueprints=5"),
    ):
        with pytest.raises(ConfigError, match=message):
            network.act(inputs, network.initial_memory(1), starts)


def test_masks_larger_than_the_heads_are_refused_for_plain_features_too() -> None:
    network = build_network(replace(ON_FEATURES, flat_slots=2), SLOTTED, seed=0)
    inputs = {
        "features": torch.zeros(1, 4),
        "mask_op": torch.ones(1, 2, dtype=torch.bool),
        "mask_slot": torch.ones(1, 2, 3, dtype=torch.bool),
    }
    with pytest.raises(ConfigError, match=r"3 slots.*flat_slots=2"):
        network.act(inputs, network.initial_memory(1), torch.ones(1, dtype=torch.bool))


def test_a_plain_vector_with_one_discrete_action() -> None:
    network = build_network(ON_FEATURES, PLAIN, seed=0)
    inputs = {"features": torch.randn(5, 7, 4), "mask_op": torch.ones(5, 7, 2, dtype=torch.bool)}
    scored = network.evaluate(
        inputs,
        torch.zeros(5, 7, 1, dtype=torch.int64),
        network.initial_memory(5),
        torch.zeros(5, 7, dtype=torch.bool),
    )
    assert scored.log_probs.shape == (5, 7, 1)
    assert scored.num_valid.eq(2).all()


def test_features_of_another_width_are_refused() -> None:
    network = build_network(ON_FEATURES, PLAIN, seed=0)
    inputs = {"features": torch.randn(1, 5), "mask_op": torch.ones(1, 2, dtype=torch.bool)}
    with pytest.raises(ConfigError, match=r"width 5.*flat_features=4"):
        network.act(inputs, network.initial_memory(1), torch.ones(1, dtype=torch.bool))


@pytest.mark.parametrize(
    ("config", "layout", "message"),
    [
        (ON_FEATURES, SLOTTED, "flat_slots=0: must be >= 1"),
        (replace(ON_FEATURES, flat_slots=2), PLAIN, "flat_slots=2: must be 0"),
        (replace(ON_FEATURES, flat_slots=2), LAYOUT, "flat_blueprints=0: must be >= 1"),
        (replace(ON_FEATURES, flat_slots=2, flat_blueprints=2), SLOTTED, "flat_blueprints=2: must be 0"),
    ],
)
def test_sizes_that_do_not_fit_the_actions_are_refused(
    config: NetworkConfig, layout: ActionLayout, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_network(config, layout, seed=0)


def test_what_padded_slots_hold_does_not_reach_a_flat_network() -> None:
    network = make_network(FLAT, spread=0.2)
    inputs = make_inputs(4)

    def value(case: dict[str, Tensor]) -> Tensor:
        return network.compute_values(case, network.initial_memory(4), torch.ones(4, dtype=torch.bool))

    dirty = {**inputs, "slots": inputs["slots"].masked_fill(~inputs["slot_exists"][..., None], 7.0)}
    assert torch.equal(value(dirty), value(inputs))
