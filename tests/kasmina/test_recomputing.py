"""Claims about recomputed seeds: the same numbers, nothing moved twice, fewer bytes kept."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina import (
    ForwardPlan,
    MLPHost,
    MLPHostConfig,
    MorphogeneticModel,
    RecomputeRule,
    Seed,
    SeedSlot,
    SlotSpec,
    apply_seed_gradient,
    build_seeded,
    builtin_registry,
    count_saved_bytes,
    norms_with_statistics,
    untouched_rng,
    untouched_statistics,
)
from esper.kasmina.blending import build_seed
from esper.leyline import BlendForm, Layout, SeedStage
from kasmina.growing import draw, grow, make_model, make_seed_module, make_spec, stir

SPECS = {
    Layout.MAP_2D: make_spec((8, 5, 5)),
    Layout.FLAT: make_spec((8,), Layout.FLAT),
    Layout.SEQUENCE: make_spec((5, 8), Layout.SEQUENCE),
}
BUILT_IN = [
    pytest.param(layout, name, id=f"{layout.value}-{name}")
    for layout, spec in SPECS.items()
    for name in builtin_registry().fitting(spec)
    if name != "noop"
]


def make_seed_in(spec: SlotSpec, blueprint: str, form: BlendForm) -> Seed:
    branch = build_seeded(lambda: builtin_registry().get(blueprint).build(spec), 3)
    channel_dim = -1 if spec.layout is Layout.SEQUENCE else 1
    return build_seeded(
        lambda: build_seed(branch, form, spec.num_channels, channel_dim, len(spec.shape) - 1), 4
    )


class Moody(nn.Module):
    """Draws, keeps statistics of three kinds, and counts in a buffer of its own what it then depends on."""

    calls: Tensor

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(num_channels, momentum=None)
        self.inner = nn.Conv2d(num_channels, num_channels, 3, padding=1)
        self.tracking = nn.InstanceNorm2d(num_channels, track_running_stats=True)
        self.drop = nn.Dropout(0.4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, h: Tensor) -> Tensor:
        self.calls.add_(1.0)
        out: Tensor = self.tracking(self.drop(torch.relu(self.inner(self.norm(h)))))
        return out * self.calls


def make_moody(*, is_recomputed: bool, form: BlendForm = BlendForm.ADD) -> Seed:
    seed = make_seed_module(make_spec(), "conv_light", form)
    seed.branch = Moody(8)
    stir(seed)
    seed.is_recomputed = is_recomputed
    return seed


def step(seed: Seed, h: Tensor, loss: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Everything that one forward and backward pass leaves, the random stream included."""
    torch.default_generator.manual_seed(7)
    features = h.clone().requires_grad_()
    out = seed(features)
    loss(out).backward()  # type: ignore[no-untyped-call]
    assert features.grad is not None
    left = {"out": out.detach(), "dh": features.grad, "stream": torch.get_rng_state()}
    left |= {name: buffer.clone() for name, buffer in seed.named_buffers()}
    return left | {n: p.grad for n, p in seed.named_parameters() if p.grad is not None}


def require_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert list(left) == list(right)
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


@pytest.mark.parametrize("form", list(BlendForm))
@pytest.mark.parametrize(("layout", "blueprint"), BUILT_IN)
def test_every_blueprint_recomputes_to_the_same_bits(layout: Layout, blueprint: str, form: BlendForm) -> None:
    spec, results = SPECS[layout], []
    for is_recomputed in (False, True):
        seed = make_seed_in(spec, blueprint, form)
        stir(seed)
        seed.is_recomputed = is_recomputed
        results.append(step(seed, draw(3, *spec.shape), lambda out: out.square().sum()))
    require_equal(*results)


@pytest.mark.parametrize("form", list(BlendForm))
def test_dropout_statistics_and_own_buffers_are_as_if_the_pass_ran_once(form: BlendForm) -> None:
    plain, again = make_moody(is_recomputed=False, form=form), make_moody(is_recomputed=True, form=form)
    for _ in range(2):
        require_equal(*(step(seed, draw(4, 8, 5, 5), lambda out: out.sin().sum()) for seed in (plain, again)))
    assert float(again.get_buffer("branch.calls")) == 2.0
    assert int(again.get_buffer("branch.norm.num_batches_tracked")) == 2


def test_statistics_that_are_held_still_stay_so_although_backward_runs_later() -> None:
    """What a shadow loss does: norms are quiet and the stream is put back before backward begins."""
    results = []
    for is_recomputed in (False, True):
        seed = make_moody(is_recomputed=is_recomputed)
        torch.default_generator.manual_seed(3)
        with untouched_rng(torch.device("cpu")), untouched_statistics(norms_with_statistics(seed)):
            loss = seed(draw(4, 8, 5, 5)).sin().sum()
        apply_seed_gradient(loss, list(seed.parameters()))
        left = {name: buffer.clone() for name, buffer in seed.named_buffers()}
        left |= {n: p.grad for n, p in seed.named_parameters() if p.grad is not None}
        results.append(left | {"stream": torch.get_rng_state()})
        norm = seed.get_submodule("branch.norm")
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.track_running_stats
        assert norm.training
    require_equal(*results)
    assert int(results[1]["branch.norm.num_batches_tracked"]) == 0


def test_a_mode_that_changes_before_backward_changes_nothing() -> None:
    results = []
    for is_eval in (False, True):
        seed = make_moody(is_recomputed=True)
        torch.default_generator.manual_seed(3)
        loss = seed(draw(4, 8, 5, 5)).sin().sum()
        seed.train(not is_eval)
        loss.backward()
        assert seed.training is not is_eval
        results.append({n: p.grad for n, p in seed.named_parameters() if p.grad is not None})
    require_equal(*results)


def test_an_error_on_the_way_back_leaves_buffers_and_modes_in_place() -> None:
    seed = make_moody(is_recomputed=True)
    buffers = dict(seed.named_buffers())
    loss = seed(draw(4, 8, 5, 5)).sum()
    seed.get_submodule("branch.inner").register_forward_pre_hook(fail)
    with pytest.raises(MemoryError):
        loss.backward()
    assert all(buffer is buffers[name] for name, buffer in seed.named_buffers())
    assert float(seed.get_buffer("branch.calls")) == 1.0
    assert all(part.training for part in seed.modules())


def fail(module: nn.Module, args: tuple[object, ...]) -> None:
    raise MemoryError(type(module).__name__, len(args))


@pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16])
def test_autocast_of_the_first_pass_holds_in_the_second(amp: torch.dtype) -> None:
    results = []
    for is_recomputed in (False, True):
        seed = make_seed_module(make_spec(), "conv_heavy")
        stir(seed)
        seed.is_recomputed = is_recomputed
        with torch.autocast("cpu", dtype=amp):
            out = seed(draw(4, 8, 5, 5))
        assert out.dtype == amp
        out.float().square().sum().backward()
        results.append({n: p.grad for n, p in seed.named_parameters() if p.grad is not None})
    require_equal(*results)


# ---------------------------------------------------------------------- what is kept


def kept_bytes(model: MorphogeneticModel, inputs: Tensor) -> tuple[int, Tensor]:
    """Bytes that autograd holds between the passes, and the output that keeps them alive.

    Parameters, buffers and inputs do not count. What is saved inside a recomputed seed does not come by here.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers(), inputs)}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs: Tensor = model(inputs)
    return sum(sizes.values()), outputs


def make_grown(mode: str, *, blueprint: str = "conv_heavy") -> MorphogeneticModel:
    model = make_model()
    model.recompute = RecomputeRule(mode=mode, batch_size=16)
    for slot_id in model.slot_ids:
        grow(model, slot_id, SeedStage.PROBATIONARY, blueprint=blueprint)
    return model


def test_checkpointing_of_seeds_lowers_the_peak_of_saved_bytes() -> None:
    """Kept are the host's activations and, while it is recomputed, those of one seed out of six."""
    config = MLPHostConfig(num_inputs=6, num_classes=3, hidden=(8,) * 6)
    inputs = draw(64, 6)
    kept = []
    for mode in ("off", "on", "none grown"):
        model = make_model(build_seeded(lambda: MLPHost(config), 0), sample=draw(2, 6))
        model.recompute = RecomputeRule(mode=mode)
        for slot_id in model.slot_ids if mode != "none grown" else ():
            grow(model, slot_id, SeedStage.PROBATIONARY, blueprint="mlp")
        kept.append(kept_bytes(model, inputs)[0])
    plain, recomputed, bare = kept
    seed = make_seed_in(make_spec((8,), Layout.FLAT), "mlp", BlendForm.ADD)
    of_one = count_saved_bytes(seed, (8,), batch_size=64).total
    assert plain == recomputed + 6 * of_one
    assert recomputed + of_one - bare < 0.5 * (plain - bare)
    assert recomputed + of_one < 0.6 * plain


@pytest.mark.parametrize("stage", [SeedStage.BLENDING, SeedStage.PROBATIONARY, SeedStage.FOSSILIZED])
def test_a_seed_runs_once_more_on_the_way_back_and_only_then(stage: SeedStage) -> None:
    model = make_model()
    model.recompute = RecomputeRule(mode="on")
    seed = grow(model, "block2", stage).seed
    assert seed is not None
    calls: list[bool] = []
    seed.branch.register_forward_pre_hook(lambda module, args: calls.append(torch.is_grad_enabled()))
    loss = model(draw(4, 3, 8, 8)).square().sum()
    assert calls == [True]
    loss.backward()
    assert calls == [True, True]


def test_without_gradients_or_in_eval_mode_nothing_is_recomputed() -> None:
    model = make_grown("on")
    inputs = draw(4, 3, 8, 8)
    plain = make_grown("off")
    with torch.no_grad():
        assert torch.equal(model(inputs), plain(inputs))
    bytes_on, out_on = kept_bytes(model.eval(), inputs)
    bytes_off, out_off = kept_bytes(plain.eval(), inputs)
    assert torch.equal(out_on, out_off)
    assert bytes_on == bytes_off


@pytest.mark.parametrize("stage", [SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.FOSSILIZED])
@pytest.mark.parametrize("incubation", ["shadow", "straight_through"])
def test_a_pass_of_the_whole_model_gives_the_same_gradients_in_every_stage(
    stage: SeedStage, incubation: str
) -> None:
    results = []
    for mode in ("off", "on"):
        model = make_model(incubation=incubation)
        model.recompute = RecomputeRule(mode=mode)
        slot: SeedSlot = grow(model, "block2", stage)
        assert slot.seed is not None
        assert slot.seed.is_recomputed == (mode == "on")
        with model.planned(ForwardPlan(is_recording=True)):
            loss = model(draw(4, 3, 8, 8)).square().sum()
        loss.backward()
        left = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results.append(left | {n: b.clone() for n, b in model.named_buffers()})
    require_equal(*results)


# ---------------------------------------------------------------------- which seeds


def test_the_rule_takes_all_none_or_the_large_ones() -> None:
    small, large = make_seed_module(make_spec(), "conv_small"), make_seed_module(make_spec(), "conv_heavy")
    shape = make_spec().shape
    bound = count_saved_bytes(large, shape, batch_size=32).total
    assert count_saved_bytes(small, shape, batch_size=32).total < bound
    auto = RecomputeRule(mode="auto", batch_size=32, threshold_bytes=bound)
    assert (auto.applies_to(small, shape), auto.applies_to(large, shape)) == (False, True)
    halved = RecomputeRule(mode="auto", batch_size=16, threshold_bytes=bound)
    assert not halved.applies_to(large, shape)
    assert RecomputeRule(mode="on").applies_to(small, shape)
    assert not RecomputeRule().applies_to(large, shape)


def test_a_restored_and_a_copied_model_recompute_as_before() -> None:
    model = make_grown("on")
    tensors, records = model.state()
    other = make_model()
    other.recompute = model.recompute
    other.restore(tensors, records)
    for grown in (other, copy.deepcopy(model)):
        assert all(slot.seed is not None and slot.seed.is_recomputed for slot in grown.each_slot())
