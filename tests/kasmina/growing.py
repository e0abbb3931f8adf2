"""Small grown models for tests: built from a seed, moved through stages by the lifecycle alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper.kasmina import (
    Birth,
    BlueprintRegistry,
    Clock,
    CNNHost,
    CNNHostConfig,
    GateConfig,
    InjectionPoint,
    Inputs,
    Lifecycle,
    LifecycleConfig,
    MLPHost,
    MLPHostConfig,
    MorphogeneticModel,
    QualityGates,
    SeedSlot,
    SlotSpec,
    TransformerHost,
    TransformerHostConfig,
    build_seeded,
    builtin_registry,
)
from esper.kasmina.blending import Seed, build_seed
from esper.leyline import Action, AlphaCurve, BlendForm, Estimate, Layout, LifecycleOp, SeedStage

BATCHES = 4
"""Batches in one decision interval of these tests."""

PATH_TO = {
    SeedStage.DORMANT: 0,
    SeedStage.GERMINATED: 1,
    SeedStage.TRAINING: 2,
    SeedStage.BLENDING: 3,
    SeedStage.PROBATIONARY: 4,
    SeedStage.FOSSILIZED: 5,
}
"""Moves on the success path from an empty slot."""


def make_clock(epoch: int = 0) -> Clock:
    """Return the clock at the end of an interval."""
    return Clock(epoch=epoch, batch=epoch * BATCHES, batches_per_epoch=BATCHES)


def make_gates(config: GateConfig | None = None, keep_threshold: float = 0.005) -> QualityGates:
    """Return gates with the defaults."""
    return QualityGates(config or GateConfig(), keep_threshold=keep_threshold)


def make_lifecycle(config: LifecycleConfig | None = None) -> Lifecycle:
    """Return a lifecycle with the default gates."""
    return Lifecycle(config or LifecycleConfig(), make_gates())


def make_spec(
    shape: tuple[int, ...] = (8, 5, 5), layout: Layout = Layout.MAP_2D, slot_id: str = "block1"
) -> SlotSpec:
    """Return a slot's spec; channels are where the layout has them."""
    channels = shape[-1] if layout is Layout.SEQUENCE else shape[0]
    return SlotSpec(slot_id=slot_id, layout=layout, shape=shape, num_channels=channels)


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Return normal values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_seed_module(spec: SlotSpec, blueprint: str = "conv_light", form: BlendForm = BlendForm.ADD) -> Seed:
    """Return a seed of a built-in blueprint."""
    build = builtin_registry().get(blueprint).build
    return build_seeded(lambda: build_seed(build(spec), form, spec.num_channels, 1, len(spec.shape) - 1), 3)


def make_birth(spec: SlotSpec, blueprint: str = "conv_light", form: BlendForm = BlendForm.ADD) -> Birth:
    """Return a seed that is ready to be planted."""
    seed = make_seed_module(spec, blueprint, form)
    return Birth(
        seed=seed, build_seed=3, num_params=sum(p.numel() for p in seed.parameters()), flops_per_item=10
    )


def make_action(slot: str = "block1", blueprint: str = "conv_light", **changes: object) -> Action:
    """Return a GERMINATE action with a ramp of one interval."""
    blend, curve = changes.get("blend", BlendForm.ADD), changes.get("curve", AlphaCurve.LINEAR)
    assert isinstance(blend, BlendForm)
    assert isinstance(curve, AlphaCurve)
    return Action(
        op=LifecycleOp.GERMINATE, slot=slot, blueprint=blueprint, blend=blend, curve=curve, tempo_epochs=1
    )


def stir(module: nn.Module, seed: int = 5) -> None:
    """Give every parameter random values, so that no residual is 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def make_cnn(*, norm: str = "batch", in_channels: int = 3, dropout: float = 0.0) -> CNNHost:
    """Return a host of three blocks of 4, 8 and 16 channels."""
    config = CNNHostConfig(
        in_channels=in_channels, num_classes=5, base_channels=4, norm=norm, dropout=dropout
    )
    return build_seeded(lambda: CNNHost(config), 0)


def make_mlp(*, norm: str = "none") -> MLPHost:
    """Return a host of 6 inputs, hidden layers 8 and 8, 3 outputs."""
    config = MLPHostConfig(num_inputs=6, num_classes=3, hidden=(8, 8), norm=norm)
    return build_seeded(lambda: MLPHost(config), 0)


def make_transformer(
    *, positions: str = "learned", is_tied: bool = False, dropout: float = 0.0
) -> TransformerHost:
    """Return a host of two blocks of 16 channels: 11 tokens, at most 8 at once."""
    config = TransformerHostConfig(
        vocabulary=11, context=8, width=16, positions=positions, is_tied=is_tied, dropout=dropout
    )
    return build_seeded(lambda: TransformerHost(config), 0)


def draw_tokens(*shape: int, seed: int = 0) -> Tensor:
    """Return numbers of the 11 tokens of `make_transformer`, int64."""
    return torch.randint(11, shape, generator=torch.Generator().manual_seed(seed))


def make_model(
    host: nn.Module | None = None,
    *,
    incubation: str = "shadow",
    sample: Inputs | None = None,
    registry: BlueprintRegistry | None = None,
    slots: tuple[str, ...] = (),
    points: tuple[InjectionPoint, ...] = (),
) -> MorphogeneticModel:
    """Return a model around a host; without one, around `make_cnn` on 8 x 8 images."""
    return MorphogeneticModel(
        host or make_cnn(),
        draw(2, 3, 8, 8) if sample is None else sample,
        registry=registry or builtin_registry(),
        gates=make_gates(),
        lifecycle=LifecycleConfig(incubation=incubation),
        slots=slots,
        points=points,
    )


def make_ready(slot: SeedSlot) -> None:
    """Write the evidence that every gate asks for into a slot's record."""
    state = slot.state
    state.has_optimizer_entries = True
    state.gradient_ratio = 0.9
    state.epochs_in_stage = 4
    state.gate_metric_now, state.gate_metric_at_blend_start = 0.8, 0.7
    if state.stage is SeedStage.PROBATIONARY:
        for _ in range(2):
            state.record_contribution(
                Estimate(mean=0.05, standard_error=0.001, num_items=360, num_intervals=2)
            )


def grow(
    model: MorphogeneticModel,
    slot_id: str,
    stage: SeedStage,
    *,
    blueprint: str = "conv_light",
    blend: BlendForm = BlendForm.ADD,
) -> SeedSlot:
    """Bring a slot from DORMANT to a stage of the success path, weights stirred.

    The ramp takes one interval; BLENDING stops half way up.
    """
    slot, clock, moves = model.slot(slot_id), make_clock(), PATH_TO[stage]
    if moves > 0:
        model.apply_action(make_action(slot_id, blueprint, blend=blend), clock, build_seed=11)
        assert slot.seed is not None
        stir(slot.seed)
    for _ in range(min(3, moves) - 1):
        make_ready(slot)
        model.lifecycle.advance(slot, clock)
    if stage is SeedStage.BLENDING:
        slot.follow_ramp(BATCHES // 2)
    if moves > 3:
        slot.follow_ramp(BATCHES)
        model.lifecycle.advance(slot, make_clock(1))
    if moves > 4:
        make_ready(slot)
        model.lifecycle.fossilize(slot, make_clock(3))
    assert slot.state.stage is stage
    return slot
