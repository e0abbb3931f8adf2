from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.kasmina import AlphaRamp, ForwardPlan, SeedSlot
from esper.leyline import AlphaCurve, SeedStage
from kasmina.growing import draw, grow, make_model, make_spec

H = draw(2, 8, 5, 5)
INPUTS = draw(2, 3, 8, 8)


def test_empty_slot_leaves_the_output_itself() -> None:
    slot = SeedSlot(make_spec())
    assert slot.on_host_output(slot, (), H) is None
    assert slot.pass_through(H) is H
    assert (list(slot.parameters()), dict(slot.state_dict())) == ([], {})


def test_follow_ramp_drops_it_at_its_end() -> None:
    slot = SeedSlot(make_spec())
    slot.follow_ramp(3)
    assert slot.state.alpha == 0.0
    slot.state.ramp = AlphaRamp(
        start_value=0.0, target=0.7, start_batch=0, num_batches=2, curve=AlphaCurve.LINEAR
    )
    slot.follow_ramp(1)
    assert slot.state.alpha == 0.35
    assert float(slot.alpha_mirror) == pytest.approx(0.35)
    slot.follow_ramp(2)
    assert slot.state.to_dict()["ramp"] is None
    assert slot.state.alpha == 0.7


def test_override_sets_alpha_for_one_pass() -> None:
    model = make_model().eval()
    slot = grow(model, "block2", SeedStage.BLENDING)
    h = draw(2, 8, 2, 2)
    assert slot.seed is not None
    residual = slot.seed(h)
    for override, stage in ((1.0, SeedStage.BLENDING), (0.25, SeedStage.BLENDING)):
        with model.planned(ForwardPlan(overrides={"block2": override})):
            assert torch.allclose(slot.pass_through(h), h + override * residual, atol=1e-6)
        assert slot.state.stage is stage
    assert torch.allclose(slot.pass_through(h), h + slot.state.alpha * residual, atol=1e-6)


def test_capture_keeps_the_feature_and_a_pass_restarts_there() -> None:
    model = make_model().eval()
    slot = grow(model, "block2", SeedStage.PROBATIONARY)
    with model.planned(ForwardPlan(captures=frozenset({"block2"}))):
        out = model(INPUTS)
    assert slot.captured is not None
    assert torch.equal(model.run_tail("block2", slot.pass_through(slot.captured), INPUTS), out)
    model.forget_records()
    assert slot.captured is None


def test_a_watched_pass_keeps_the_leaving_feature_and_gives_its_gradient() -> None:
    model = make_model().eval()
    slot = grow(model, "block2", SeedStage.PROBATIONARY)
    expected = model(INPUTS)
    with model.planned(ForwardPlan(is_watching=True, captures=frozenset({"block2"}))):
        out = model(INPUTS)
    assert torch.equal(out, expected)
    assert slot.watched is not None
    assert slot.captured is not None
    assert torch.equal(slot.watched, slot.pass_through(slot.captured))
    (gradient,) = torch.autograd.grad(out.sum(), slot.watched)
    assert gradient.count_nonzero() > 0
    model.forget_records()
    assert slot.watched is None


@pytest.mark.parametrize("incubation", ["shadow", "residual", "straight_through"])
def test_recording_keeps_what_the_objective_needs(incubation: str) -> None:
    model = make_model(incubation=incubation)
    slot = grow(model, "block2", SeedStage.TRAINING)
    with model.planned(ForwardPlan(is_recording=True)):
        model(INPUTS).sum().backward()
    assert (slot.features is not None) == (incubation != "straight_through")
    assert (slot.feature_gradient is not None) == (incubation == "residual")
    assert slot.features is None or not slot.features.requires_grad


def test_channels_last_input_is_accepted_while_incubating() -> None:
    model = make_model(incubation="straight_through").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    grow(model, "block2", SeedStage.TRAINING)
    with model.planned(ForwardPlan(is_recording=True)):
        model(INPUTS.contiguous(memory_format=torch.channels_last)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.slot("block2").parameters())


def test_a_slot_holds_its_seed_its_state_its_plan_and_what_one_pass_leaves() -> None:
    slot = make_model().slot("block1")
    own = set(vars(slot)) - set(vars(nn.Module()))
    what_a_pass_leaves = {"features", "feature_gradient", "captured", "watched", "entering", "recorded_input"}
    how_it_runs = {"plan", "mode", "teacher", "is_always_taught", "records_gradient"}
    assert own == {"spec", "tap", "state", "seed"} | how_it_runs | what_a_pass_leaves
    assert [name for name, _ in slot.named_buffers()] == ["alpha_mirror"]
    assert list(slot.parameters()) == []
