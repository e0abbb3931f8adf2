"""A model that can grow, moved by hand (sentences of events: `runtime.loop_events`)."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from esper.leyline import ConfigError, IllegalTransitionError, UnknownNameError
from esper.runtime.controller import Controller
from runtime.own_models import grow_net
from tolaria.loop_toys import TRAIN, Net

X = TRAIN[0][:16]


def test_a_grown_model_is_called_as_the_host_was_and_the_hosts_keys_stay() -> None:
    grown = grow_net()
    assert torch.equal(grown(X), grown.host(X))
    assert set(grown.host.state_dict()) == set(Net().state_dict())
    assert grown.slot_ids == ("body", "neck")


def test_a_seeds_life_by_hand_returns_an_event_for_each_verb() -> None:
    grown = grow_net()
    slot = grown["body"]
    assert str(slot.germinate("mlp")) == (
        "body: seed body#1 (mlp) GERMINATED: +552 params, 1.02 kFLOPs per item; no controller trains it yet: "
        "make esper.Controller(grown, optimizer), or give grown['body'].parameters() to the optimiser"
    )
    assert slot.stage == "TRAINING"
    assert "BLENDING" in str(slot.blend(steps=0))
    assert slot.alpha == 1.0
    assert "FOSSILIZED" in str(slot.fossilize())
    assert grown.summary().rows[0].stage == "FOSSILIZED"
    assert "culled" in str(grown_cull(grow_net())).lower()


def grown_cull(grown: object) -> object:
    slot = grown["neck"]  # type: ignore[index]
    slot.germinate("low_rank")
    return slot.cull()


def test_a_seed_that_only_incubates_or_was_just_born_changes_no_bit() -> None:
    grown = grow_net()
    before = grown(X)
    grown["body"].germinate("mlp")
    grown["neck"].germinate("low_rank", blend="gate")
    assert torch.equal(grown(X), before)
    grown["body"].blend(steps=0)
    assert torch.equal(grown(X), before)  # its branch is still exactly zero


def test_a_blend_takes_as_many_optimiser_steps_as_were_asked_for() -> None:
    grown = grow_net()
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.01)
    controller = Controller(grown, optimizer)
    slot = grown["body"]
    slot.germinate("mlp")
    slot.blend(steps=4, shape="linear")
    alphas = [slot.alpha]
    for _ in range(4):
        grown(X).sum().backward()
        optimizer.step()
        alphas.append(slot.alpha)
    assert alphas == [0.0, 0.25, 0.5, 0.75, 1.0]
    slot.fossilize()
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == set(
        map(id, grown.parameters())
    )
    controller.close()


@pytest.mark.parametrize(
    ("verb", "message"),
    [
        (lambda slot: slot.fossilize(), "cannot move to FOSSILIZED slot 'body' in stage DORMANT"),
        (lambda slot: slot.cull(), "cannot cull slot 'body' in stage DORMANT"),
        (
            lambda slot: slot.blend(steps=0),
            "cannot move to BLENDING .*DORMANT.*legal next stages: GERMINATED",
        ),
        (
            lambda slot: (slot.germinate("mlp"), slot.germinate("mlp")),
            "cannot germinate slot 'body' in stage TRAINING",
        ),
        (
            lambda slot: (slot.germinate("mlp"), slot.fossilize()),
            "alpha is 0 of 1; legal next stages: BLENDING, CULLED",
        ),
    ],
)
def test_an_illegal_move_says_what_would_be_legal_and_changes_nothing(verb: object, message: str) -> None:
    grown = grow_net()
    with pytest.raises(IllegalTransitionError, match=message):
        verb(grown["body"])  # type: ignore[operator]
    assert grown["body"].stage in ("DORMANT", "TRAINING")


def test_a_refused_blend_leaves_the_seeds_curve_and_tempo() -> None:
    grown = grow_net()
    state = grown.model.slot("body").state
    before = (state.curve, state.tempo_epochs, state.alpha_target)
    with pytest.raises(IllegalTransitionError):
        grown["body"].blend(steps=0, shape="cosine")
    assert (state.curve, state.tempo_epochs, state.alpha_target) == before


@pytest.mark.parametrize(
    ("verb", "message"),
    [
        (lambda grown: grown["bdy"], "unknown slot 'bdy': did you mean 'body'"),
        (lambda grown: grown["body"].germinate("mpl"), "did you mean 'mlp'"),
        (lambda grown: grown["body"].germinate("mlp", blend="ad"), "did you mean 'add'"),
        (lambda grown: grown["body"].germinate("conv_light"), r"does not fit slot 'body' \(flat \[8\]\)"),
        (lambda grown: (grown["body"].germinate("mlp"), grown["body"].blend(5)), "make esper.Controller"),
        (lambda grown: grown["body"].blend(-1), "steps=-1: must be >= 0"),
        (lambda grown: grown["body"].blend(0, shape="square"), "unknown shape 'square'"),
    ],
)
def test_wrong_words_are_refused_with_the_nearest_right_one(verb: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        verb(grow_net())  # type: ignore[operator]


def test_an_unknown_slot_is_an_unknown_name() -> None:
    with pytest.raises(UnknownNameError):
        grow_net()["nek"]


def test_a_copy_grows_by_itself_and_leaves_the_controller_behind() -> None:
    grown = grow_net()
    Controller(grown, torch.optim.SGD(grown.parameters(), lr=0.1))
    grown["body"].germinate("mlp")
    twin = copy.deepcopy(grown)
    assert twin.controller is None
    twin["body"].blend(steps=0)
    with torch.no_grad():
        for parameter in twin["body"].parameters():
            parameter.fill_(0.1)
    assert not torch.equal(twin(X), grown(X))
    assert grown["body"].stage == "TRAINING"


def test_an_export_is_plain_and_equal_also_with_a_controller_at_work() -> None:
    grown = grow_net(norm=True)
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    Controller(grown, optimizer)
    grown["body"].germinate("mlp")
    grown["body"].blend(steps=0)
    nn.functional.cross_entropy(grown(X), TRAIN[1][:16]).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    grown["body"].fossilize()
    plain = grown.export()
    grown.eval()
    with torch.no_grad():
        assert float((plain(X) - grown(X)).abs().max()) <= 1e-5
    homes = {type(part).__module__ for part in plain.modules()}
    hooks = [
        hook
        for part in plain.modules()
        for hook in (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
    ]
    assert not any(home.startswith("esper") for home in homes)
    assert not hooks
    assert not any(parameter.grad is not None for parameter in plain.parameters())


def test_the_summary_is_a_table_and_a_web_page() -> None:
    grown = grow_net()
    grown["body"].germinate("mlp")
    text = str(grown.summary())
    assert "body" in text
    assert "TRAINING" in text
    assert "<table" in grown.summary()._repr_html_()


def test_a_seed_under_a_controller_is_not_said_to_be_untrained() -> None:
    grown = grow_net()
    with_controller = Controller(grown, torch.optim.SGD(grown.parameters(), lr=0.01))
    assert "no controller" not in str(grown["body"].germinate("mlp"))
    with_controller.close()


def test_seeds_of_two_slots_begin_with_weights_of_their_own() -> None:
    grown = grow_net()
    for slot in ("body", "neck"):
        grown[slot].germinate("mlp")
    body, neck = (next(iter(grown[slot].parameters())) for slot in ("body", "neck"))
    assert body.shape == neck.shape
    assert not torch.equal(body, neck)
