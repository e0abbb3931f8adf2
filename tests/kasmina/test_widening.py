"""A width seed adds what more units would: isolated at first, gone when culled, folded exactly when kept."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from esper.kasmina import MAX_DIFFERENCE, ForwardPlan, MorphogeneticModel, export_grafted
from esper.leyline import BlendForm, ConfigError, ExportError, SeedStage
from kasmina.growing import draw, grow, make_clock
from kasmina.strangers import SmallResNet
from kasmina.widths import IMAGES, ROWS, Mlp, spanning, two_convs, two_linear, wake

HOSTS = [
    pytest.param(Mlp(), ROWS, ("fc1->fc2",), id="functions"),
    pytest.param(Mlp(bias=False), ROWS, ("fc2->fc3",), id="no bias, last layer"),
    pytest.param(Mlp(), ROWS, ("fc1->fc2", "fc2->fc3"), id="two pairs that share a layer"),
    pytest.param(two_linear(), ROWS, ("0->1",), id="nothing between"),
    pytest.param(two_linear(nn.BatchNorm1d(8), nn.GELU()), ROWS, ("0->3",), id="batch norm of rows"),
    pytest.param(two_convs(nn.BatchNorm2d(8), nn.ReLU()), IMAGES, ("0->3",), id="batch norm of maps"),
    pytest.param(
        two_convs(nn.BatchNorm2d(8, affine=False), nn.ReLU(inplace=True), bias=True, stride=2),
        IMAGES,
        ("0->3",),
        id="stride, bias",
    ),
    pytest.param(two_convs(nn.GroupNorm(4, 8), nn.SiLU(), padding="reflect"), IMAGES, ("0->3",), id="groups"),
    pytest.param(two_convs(nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)), IMAGES, ("0->4",), id="pooling"),
    pytest.param(SmallResNet(), draw(4, 3, 16, 16), ("stages.**.conv1->stages.**.conv2",), id="resnet"),
]


def _kept(host: nn.Module, sample: Tensor, at: tuple[str, ...], *, seed: int = 5) -> MorphogeneticModel:
    model = spanning(copy.deepcopy(host), sample, *at)
    for slot_id in model.slot_ids:
        grow(model, slot_id, SeedStage.FOSSILIZED, blueprint="width")
    wake(model, sample, seed=seed)
    return model


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize(("host", "sample", "at"), HOSTS)
def test_kept_units_leave_in_the_layers_themselves(
    host: nn.Module, sample: Tensor, at: tuple[str, ...], merge: bool
) -> None:
    model = _kept(host, sample, at)
    with torch.no_grad():
        expected = model(sample)
        with model.planned(ForwardPlan(overrides=dict.fromkeys(model.slot_ids, 0.0))):
            assert not torch.allclose(model(sample), expected)
    exported = export_grafted(model, sample, merge=merge)
    with torch.no_grad():
        torch.testing.assert_close(exported.module(sample), expected, rtol=0, atol=1e-5)
        other = sample.flip(0) * 1.5
        torch.testing.assert_close(exported.module(other), model(other), rtol=0, atol=1e-5)
    assert exported.largest_difference <= MAX_DIFFERENCE
    assert exported.merged == model.slot_ids
    assert all(record.is_merged and len(record.widened) >= 2 for record in exported.grafts)
    assert [type(m) for m in exported.module.modules()] == [type(m) for m in host.modules()]
    assert list(exported.module.state_dict()) == list(host.state_dict())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in exported.module.modules())
    own = sum(p.numel() for p in exported.module.parameters())
    # A layer that two pairs share gets zeros besides, where units of one meet those of the other.
    assert own == model.num_params + (4 * 4 if at == ("fc1->fc2", "fc2->fc3") else 0)


def test_sizes_that_layers_print_are_those_of_their_weights() -> None:
    module = export_grafted(
        _kept(SmallResNet(), draw(4, 3, 16, 16), ("**.conv1->**.conv2",)), draw(2, 3, 16, 16)
    )
    for layer in module.module.modules():
        if isinstance(layer, nn.Conv2d):
            assert (layer.out_channels, layer.in_channels) == layer.weight.shape[:2]
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert len(layer.weight) == len(layer.running_mean) == layer.num_features


@settings(max_examples=15, deadline=None)
@given(alpha=st.floats(0.05, 1.0), units=st.integers(1, 9), seed=st.integers(0, 1000))
def test_alpha_goes_into_the_second_layer_alone(alpha: float, units: int, seed: int) -> None:
    host = two_linear(nn.ReLU(), units=units)
    model = _kept(host, ROWS, ("0->2",), seed=seed)
    model.slot("0->2").set_alpha(alpha)
    exported = export_grafted(model, ROWS)
    with torch.no_grad():
        torch.testing.assert_close(exported.module(ROWS), model(ROWS), rtol=1e-5, atol=1e-5)
    seed_module = model.slot("0->2").seed
    assert seed_module is not None
    rows = exported.module.get_submodule("0").weight
    assert isinstance(rows, Tensor)
    assert torch.equal(rows[units:], dict(seed_module.named_parameters())["branch.first.weight"])


def test_an_ordinary_seed_on_the_same_output_leaves_as_a_graft_around_the_wider_layer() -> None:
    model = spanning(Mlp(), ROWS, "fc1->fc2", "fc2")
    grow(model, "fc1->fc2", SeedStage.FOSSILIZED, blueprint="width")
    grow(model, "fc2", SeedStage.FOSSILIZED, blueprint="mlp_small")
    wake(model, ROWS)
    exported = export_grafted(model, ROWS, merge=True)
    with torch.no_grad():
        torch.testing.assert_close(exported.module(ROWS), model(ROWS), rtol=0, atol=1e-5)
    assert exported.merged == ("fc1->fc2",)
    assert [kept.slot for kept in exported.kept] == ["fc2"]


def test_a_training_step_of_the_folded_network_is_that_of_the_grown_one() -> None:
    model = _kept(two_convs(nn.BatchNorm2d(8), nn.ReLU()), IMAGES, ("0->3",))
    folded = export_grafted(model, IMAGES).module.train()
    model.train()
    for network in (model, folded):
        network(IMAGES).square().mean().backward()
    host_rows = model.host.get_submodule("0").weight.grad
    folded_rows = folded.get_submodule("0").weight.grad
    assert isinstance(host_rows, Tensor)
    assert isinstance(folded_rows, Tensor)
    torch.testing.assert_close(folded_rows[:8], host_rows, rtol=1e-4, atol=1e-6)
    seed_rows = model.seed_parameters("0->3")["slots.0->3.seed.branch.first.weight"].grad
    assert seed_rows is not None
    torch.testing.assert_close(folded_rows[8:], seed_rows, rtol=1e-4, atol=1e-6)
    for name in ("running_mean", "running_var"):
        assert len(folded.get_submodule("1").get_buffer(name)) == 12


# ---------------------------------------------------------------------- a seed like any other


def _step(model: nn.Module, sample: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    out = model(sample)
    out.square().mean().backward()
    grads = {f"grad {name}": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"out": out.detach().clone()} | grads


@pytest.mark.parametrize(("host", "sample", "at"), [HOSTS[0], HOSTS[6]])
def test_an_incubating_seed_learns_and_the_host_does_not_notice(
    host: nn.Module, sample: Tensor, at: tuple[str, ...]
) -> None:
    plain, model = copy.deepcopy(host), spanning(copy.deepcopy(host), sample, *at)
    grow(model, at[0], SeedStage.TRAINING, blueprint="width")
    model.teach_in_loop(torch.tensor(1.0))
    expected = _step(plain, sample)
    got = _step(model, sample)
    assert torch.equal(got["out"], expected["out"])
    for name, value in expected.items():
        if name.startswith("grad"):
            assert torch.equal(got[name.replace("grad ", "grad host.")], value), name
    for name, buffer in plain.named_buffers():
        assert torch.equal(model.host.get_buffer(name), buffer)
    assert any("second" in name and value.count_nonzero() for name, value in got.items())


def test_after_blending_the_gradient_reaches_what_lies_before_the_first_layer() -> None:
    model = spanning(Mlp(), ROWS, "fc2->fc3")
    grow(model, "fc2->fc3", SeedStage.BLENDING, blueprint="width")
    wake(model, ROWS)
    before = _step(model, ROWS)["grad host.fc1.weight"]
    model.slot("fc2->fc3").set_alpha(1.0)
    after = _step(model, ROWS)["grad host.fc1.weight"]
    assert not torch.equal(before, after)


def test_infinite_weights_of_an_isolated_seed_stay_out_of_the_host() -> None:
    model = spanning(Mlp(), ROWS, "fc1->fc2")
    expected = model(ROWS).detach()
    grow(model, "fc1->fc2", SeedStage.TRAINING, blueprint="width")
    for parameter in model.seed_parameters("fc1->fc2").values():
        nn.init.constant_(parameter, float("inf"))
    assert torch.equal(model(ROWS), expected)


@pytest.mark.parametrize("stage", [SeedStage.TRAINING, SeedStage.BLENDING])
def test_no_batch_outlives_its_pass(stage: SeedStage) -> None:
    model = spanning(Mlp(), ROWS, "fc1->fc2")
    grow(model, "fc1->fc2", stage, blueprint="width")
    slot = model.slot("fc1->fc2")
    model.teach_in_loop(torch.tensor(1.0))
    model(ROWS)
    assert slot.entering is None
    with torch.no_grad():
        model(ROWS)
    assert slot.entering is None
    slot.entering = ROWS * next(model.host.parameters()).sum()  # a pass that ended between them
    assert copy.deepcopy(model).slot("fc1->fc2").entering is None


@pytest.mark.slow
def test_germinating_and_culling_200_times_leaves_nothing() -> None:
    model = spanning(Mlp(), ROWS, "fc1->fc2", "fc2->fc3")
    names, topology = list(model.state_dict()), model.topology_hash()
    expected = model(ROWS).detach()
    for cycle in range(200):
        slot_id = model.slot_ids[cycle % 2]
        grow(model, slot_id, SeedStage.TRAINING, blueprint=("width", "width_small")[cycle // 2 % 2])
        assert model.added_params > 0
        model.cull_live(make_clock(cycle), "test")
        for _ in range(8):
            model.tick(make_clock(cycle))
    assert list(model.state_dict()) == names
    assert model.added_params == 0
    assert torch.equal(model(ROWS), expected)
    assert [len(m._forward_pre_hooks) for m in model.host.modules()] == [0, 1, 1, 0]
    assert topology != ""


def test_saved_state_is_restored_into_a_fresh_model() -> None:
    model = _kept(two_convs(nn.BatchNorm2d(8), nn.ReLU()), IMAGES, ("0->3",))
    tensors, records = model.state()
    fresh = spanning(two_convs(nn.BatchNorm2d(8), nn.ReLU()), IMAGES, "0->3")
    fresh.restore({name: tensor.clone() for name, tensor in tensors.items()}, records)
    assert fresh.topology_hash() == model.topology_hash()
    assert torch.equal(fresh.eval()(IMAGES), model(IMAGES))


def test_a_copy_is_independent_and_takes_its_own_seed_along() -> None:
    model = _kept(Mlp(), ROWS, ("fc1->fc2",))
    copied = copy.deepcopy(model)
    expected = model(ROWS).detach()
    nn.init.zeros_(copied.seed_parameters("fc1->fc2")["slots.fc1->fc2.seed.branch.second.weight"])
    assert torch.equal(model(ROWS), expected)
    assert not torch.equal(copied(ROWS), expected)


@pytest.mark.parametrize("form", [BlendForm.GATE, BlendForm.VALVE])
def test_units_enter_by_addition_alone(form: BlendForm) -> None:
    model = spanning(Mlp(), ROWS, "fc1->fc2")
    with pytest.raises(ConfigError, match=f"blend='{form.value}'.*use 'add'"):
        grow(model, "fc1->fc2", SeedStage.TRAINING, blueprint="width", blend=form)
    assert model.slot("fc1->fc2").seed is None


def test_seeds_in_flight_are_refused_or_left_out() -> None:
    model = spanning(Mlp(), ROWS, "fc1->fc2")
    grow(model, "fc1->fc2", SeedStage.BLENDING, blueprint="width")
    with pytest.raises(ExportError, match="still in flight"):
        export_grafted(model, ROWS)
    exported = export_grafted(model, ROWS, allow_unfinished=True)
    assert exported.merged == ()
    assert exported.module.get_submodule("fc1").weight.shape == (8, 6)


@pytest.mark.slow
def test_grown_and_folded_networks_compile_and_become_programs() -> None:
    model = _kept(two_convs(nn.BatchNorm2d(8), nn.ReLU()), IMAGES, ("0->3",))
    expected = model(IMAGES).detach()
    compiled = torch.compile(model.host, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(IMAGES), expected)
    folded = export_grafted(model, IMAGES).module
    for network in (model.host, folded):
        program = torch.export.export(network, (IMAGES,))
        torch.testing.assert_close(program.module()(IMAGES), expected, rtol=0, atol=1e-5)
