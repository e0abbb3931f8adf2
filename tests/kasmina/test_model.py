"""A grown model: attached without a trace, saved and restored in any stage, copied, measured."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina import (
    ForwardPlan,
    InjectionPoint,
    LifecycleConfig,
    MorphogeneticModel,
    builtin_registry,
    find_incubating,
)
from esper.leyline import (
    WAIT,
    Action,
    BlendForm,
    HostError,
    IllegalTransitionError,
    Layout,
    LifecycleOp,
    SeedStage,
    UnknownNameError,
)
from kasmina.growing import (
    draw,
    grow,
    make_action,
    make_clock,
    make_cnn,
    make_gates,
    make_mlp,
    make_model,
    make_ready,
    stir,
)

INPUTS = draw(4, 3, 8, 8, seed=1)


class _ForeignHost(nn.Module):
    """A host without segments, whose growth point has a dotted path."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.head = nn.Linear(8, 3)

    def injection_points(self) -> tuple[InjectionPoint, ...]:
        return (InjectionPoint(slot_id="body.1", path="body.1", layout=Layout.FLAT, num_channels=8),)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(inputs))
        return out


class _WrongSegments(_ForeignHost):
    def segments(self) -> tuple[tuple[str, nn.Module], ...]:
        return (("body", self.body), ("head", self.head))


def _mixed() -> MorphogeneticModel:
    model = make_model()
    grow(model, "block1", SeedStage.FOSSILIZED, blueprint="depthwise", blend=BlendForm.VALVE)
    grow(model, "block2", SeedStage.BLENDING, blend=BlendForm.GATE)
    grow(model, "block3", SeedStage.TRAINING, blueprint="norm")
    return model


def test_attaching_leaves_the_host_as_it_is() -> None:
    host, bare = make_cnn(), make_cnn()
    model = make_model(host)
    assert list(host.state_dict()) == list(bare.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(host.state_dict().values(), bare.state_dict().values()))  # noqa: B905
    assert host.training
    assert torch.equal(model(INPUTS), bare(INPUTS))
    grow(model, "block2", SeedStage.PROBATIONARY)
    assert list(host.state_dict()) == list(bare.state_dict())


def test_empty_slots_own_nothing() -> None:
    model = make_model()
    assert not list(model.slots.parameters())
    assert [name for name in model.state_dict() if not name.startswith("host.")] == []
    assert model.num_params == model.host_params
    assert model.forward_flops == model.host_flops


def test_state_round_trip_in_mixed_stages() -> None:
    model = _mixed()
    model(INPUTS)
    tensors, records = model.state()
    saved = {name: tensor.clone() for name, tensor in tensors.items()}
    other = make_model()
    stir(other)
    other.restore(saved, records)
    assert other.state()[1] == records
    assert other.topology_hash() == model.topology_hash()
    assert other.reports() == model.reports()
    assert set(other.state_dict()) == set(saved)
    assert torch.equal(other.eval()(INPUTS), model.eval()(INPUTS))
    for mine, theirs in zip(model.each_slot(), other.each_slot(), strict=True):
        assert torch.equal(mine.alpha_mirror, theirs.alpha_mirror)


def test_restore_over_another_topology_removes_what_was_not_there() -> None:
    model, empty = _mixed(), make_model()
    tensors, records = empty.state()
    model.restore(tensors, records)
    assert model.added_params == 0
    assert torch.equal(model(INPUTS), empty(INPUTS))


def test_restored_cooldown_and_history_stay() -> None:
    model = make_model()
    grow(model, "block1", SeedStage.TRAINING)
    model.cull_live(make_clock(2), "test")
    model.tick(make_clock(3))
    tensors, records = model.state()
    other = make_model()
    other.restore(tensors, records)
    assert other.slot("block1").state == model.slot("block1").state
    assert other.slot("block1").state.stage is SeedStage.EMBARGOED


def test_restore_refuses_foreign_records() -> None:
    model = make_model()
    tensors, records = model.state()
    with pytest.raises(ValueError, match="saved slots"):
        model.restore(tensors, {"elsewhere": {}})
    with pytest.raises(ValueError, match="not an object"):
        model.restore(tensors, {**records, "block1": 3})
    with pytest.raises(ValueError, match="fields differ"):
        model.restore(tensors, {**records, "block1": {}})


def test_restore_refuses_missing_tensors() -> None:
    model = _mixed()
    tensors, records = model.state()
    del tensors["host.head.2.weight"]
    with pytest.raises(ValueError, match=r"tensor 'host\.head\.2\.weight': saved none"):
        make_model().restore(tensors, records)


def test_deep_copy_is_independent() -> None:
    model = _mixed().eval()
    twin = copy.deepcopy(model)
    expected = model(INPUTS)
    assert torch.equal(twin(INPUTS), expected)
    stir(twin)
    twin.cull_live(make_clock(5), "only the copy")
    assert torch.equal(model(INPUTS), expected)
    assert model.slot("block2").state.stage is SeedStage.BLENDING
    mine = {id(parameter) for parameter in model.parameters()}
    assert not mine & {id(parameter) for parameter in twin.parameters()}


def test_deep_copy_trains_its_own_seed() -> None:
    model = _mixed()
    twin = copy.deepcopy(model)
    twin(INPUTS).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.grad is not None for parameter in twin.slot("block2").parameters())


def test_same_build_seed_gives_the_same_weights_and_moves_no_stream() -> None:
    before = torch.get_rng_state()
    seeds = []
    for build_seed in (7, 7, 8):
        model = make_model()
        model.apply_action(make_action(), make_clock(), build_seed=build_seed)
        seeds.append(next(model.slot("block1").parameters()).detach())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(seeds[0], seeds[1])
    assert not torch.equal(seeds[0], seeds[2])


def test_actions_reach_the_lifecycle() -> None:
    model, clock = make_model(), make_clock()
    assert model.apply_action(WAIT, clock, build_seed=0) == []
    model.apply_action(make_action("block1"), clock, build_seed=0)
    make_ready(model.slot("block1"))
    assert model.begin_epoch(clock)
    assert find_incubating(model) == [model.slot("block1")]
    make_ready(model.slot("block1"))
    model.apply_action(Action(op=LifecycleOp.ADVANCE, slot="block1"), clock, build_seed=0)
    model.apply_action(
        Action(op=LifecycleOp.SET_ALPHA, slot="block1", alpha_target=0.5, tempo_epochs=1), clock, build_seed=0
    )
    model.update_alphas(2)
    assert model.slot("block1").state.alpha == 0.25
    with pytest.raises(IllegalTransitionError):
        model.apply_action(Action(op=LifecycleOp.FOSSILIZE, slot="block1"), clock, build_seed=0)
    model.apply_action(Action(op=LifecycleOp.CULL, slot="block1", tempo_epochs=1), clock, build_seed=0)
    assert model.slot("block1").state.is_cull_pending
    model.cull_live(clock, "at once", slots=["block2"])
    assert model.slot("block1").state.stage is SeedStage.BLENDING
    model.cull_live(clock, "at once", slots=["block1"])
    assert model.slot("block1").state.stage is SeedStage.CULLED
    with pytest.raises(KeyError):
        model.apply_action(Action(op=LifecycleOp.ADVANCE, slot="nowhere"), clock, build_seed=0)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_tail_equals_the_full_pass(norm: str) -> None:
    model = make_model(make_cnn(norm=norm)).eval()
    grow(model, "block3", SeedStage.PROBATIONARY)
    features = model.host.get_submodule("block2")(model.host.get_submodule("block1")(INPUTS))
    assert model.has_segments
    assert torch.equal(model.run_tail("block2", features, INPUTS), model(INPUTS))
    with model.planned(ForwardPlan(substitutes={"block2": features + 1.0})):
        substituted = model(INPUTS)
    assert torch.equal(model.run_tail("block2", features + 1.0, INPUTS), substituted)


def test_host_without_segments_runs_its_tail_by_substitution() -> None:
    model = make_model(_ForeignHost(), sample=draw(2, 6))
    inputs, features = draw(4, 6), draw(4, 8)
    assert not model.has_segments
    assert torch.equal(model.run_tail("body.1", features, inputs), model.host.get_submodule("head")(features))
    grow(model, "body.1", SeedStage.TRAINING, blueprint="mlp")
    assert set(model.seed_parameters("body.1")) <= {name for name, _ in model.named_parameters()}
    assert model.tail_flops("body.1") == model.host_flops


def test_plan_is_put_back_after_an_error() -> None:
    model = make_model()
    with pytest.raises(RuntimeError, match="stop"), model.planned(ForwardPlan(overrides={"block1": 0.0})):
        raise RuntimeError("stop")
    assert all(slot.plan == ForwardPlan() for slot in model.each_slot())


def test_costs_add_up() -> None:
    model = _mixed()
    seeds = sum(p.numel() for slot in model.each_slot() for p in slot.parameters())
    assert model.added_params == seeds
    assert model.num_params == sum(p.numel() for p in model.parameters())
    costs = {slot.slot_id: slot.state.flops_per_item for slot in model.each_slot()}
    assert model.added_flops == costs["block1"] + costs["block2"]
    assert model.forward_flops == model.host_flops + model.added_flops
    tails = [model.tail_flops(slot_id) for slot_id in model.slot_ids]
    assert tails == sorted(tails, reverse=True)
    assert tails[0] < model.forward_flops


def test_parameter_names_are_those_of_the_model() -> None:
    model = _mixed()
    named = dict(model.named_parameters())
    mine = model.host_parameters()
    for slot_id in model.slot_ids:
        mine |= model.seed_parameters(slot_id)
    assert set(mine) == set(named)
    assert all(mine[name] is named[name] for name in named)


def test_reports_tell_the_stage_and_why_not() -> None:
    first, second, third = _mixed().reports()
    assert (first.stage, second.stage, third.stage) == (
        SeedStage.FOSSILIZED, SeedStage.BLENDING, SeedStage.TRAINING,
    )  # fmt: skip
    assert (first.family, second.family, third.family) == ("depthwise", "conv", "norm")
    assert (first.blend, second.is_ramping, third.alpha) == ("valve", True, 0.0)
    assert second.advance_refusal is not None
    assert "G3" in second.advance_refusal
    assert third.fossilize_refusal is not None


def test_only_the_chosen_slots_are_attached() -> None:
    assert make_model(slots=("block3", "block1")).slot_ids == ("block1", "block3")
    with pytest.raises(UnknownNameError, match="block3"):
        make_model(slots=("blok3",))


@pytest.mark.parametrize("host", [nn.Linear(6, 3), _WrongSegments()], ids=["no points", "no such segment"])
def test_unfit_host_is_refused(host: nn.Module) -> None:
    with pytest.raises(HostError):
        make_model(host, sample=draw(2, 6))


def test_seed_is_born_in_the_mode_of_the_host() -> None:
    model = make_model(make_mlp(), sample=draw(2, 6)).eval()
    model.apply_action(make_action("hidden1", "mlp"), make_clock(), build_seed=0)
    assert not any(module.training for module in model.modules())


def test_unknown_blueprint_changes_nothing() -> None:
    model = make_model()
    before = model.state()[1]
    with pytest.raises(UnknownNameError):
        model.apply_action(make_action(blueprint="conv_lite"), make_clock(), build_seed=0)
    assert model.state()[1] == before


def test_residual_incubation_asks_slots_for_gradients() -> None:
    model = MorphogeneticModel(
        make_cnn(), draw(1, 3, 8, 8), registry=builtin_registry(), gates=make_gates(),
        lifecycle=LifecycleConfig(incubation="residual"),
    )  # fmt: skip
    assert all(slot.records_gradient and slot.teacher is None for slot in model.each_slot())
    assert [spec.slot_id for spec in model.specs] == list(model.slot_ids)
