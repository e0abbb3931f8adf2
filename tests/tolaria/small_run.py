"""Small host runs for tests: a tiny image set made in memory, or the digits, and a scripted episode."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from esper.data import ArraySplit, Batch, DeviceCache, TaskData, load_dataset
from esper.kasmina import (
    BlueprintRegistry,
    Clock,
    CNNHost,
    CNNHostConfig,
    GateConfig,
    LifecycleConfig,
    MorphogeneticModel,
    NormWithStatistics,
    SeedSlot,
    builtin_registry,
    norms_with_statistics,
)
from esper.leyline import (
    Action,
    Decision,
    EpochCompleted,
    Event,
    HostProbe,
    LifecycleOp,
    LossKind,
    MetricSpec,
    NullProbe,
    TaskSpec,
)
from esper.tolaria import HostRun, HostRunConfig, HostRunParts, MeasuringConfig, StateRecord
from esper.tolaria.checkpoint.strict_json import encode_json, parse_json

NUM_CLASSES = 4
BATCH = 32
BATCHES_PER_EPOCH = 3
HORIZON = 10


@dataclass(slots=True)
class ListSink:
    """Keeps every event in order."""

    events: list[Event] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        """Take one event; the wall-clock of an epoch is left out."""
        self.events.append(replace(event, seconds=0.0) if isinstance(event, EpochCompleted) else event)

    def of(self, kind: str) -> list[Event]:
        """Return the events of one kind."""
        return [event for event in self.events if event.kind == kind]


def make_split(num_items: int, seed: int) -> ArraySplit:
    """Return noisy images [N, 8, 8, 1]: the class is the quarter that is bright."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(NUM_CLASSES, (num_items,), generator=generator)
    images = torch.randint(0, 120, (num_items, 8, 8, 1), generator=generator, dtype=torch.uint8)
    for row, target in enumerate(targets.tolist()):
        top, left = 4 * (target // 2), 4 * (target % 2)
        images[row, top : top + 4, left : left + 4] += 90
    return ArraySplit(inputs=images, targets=targets, source=f"quarters/{seed}")


def make_data() -> TaskData:
    """Return 96 training, 64 validation and 64 test images."""
    return TaskData(
        name="quarters",
        train=make_split(96, 1),
        validation=make_split(64, 2),
        test=make_split(64, 3),
        mean=(0.3,),
        std=(0.2,),
        class_names=tuple("abcd"),
        licence="none",
        credit="made in memory",
        citation="none",
    )


def make_task(num_outputs: int = NUM_CLASSES, *, gates_use_loss: bool = True) -> TaskSpec:
    """Return the task of 8 x 8 grey images."""
    return TaskSpec(
        name="small",
        loss=LossKind.CLASSIFICATION,
        input_shape=(1, 8, 8),
        num_outputs=num_outputs,
        metric=MetricSpec(name="accuracy", is_higher_better=True, scale=0.05),
        horizon_epochs=HORIZON,
        keep_threshold=0.005,
        gates_use_loss=gates_use_loss,
    )


OPEN_GATES = GateConfig(
    min_incubation_epochs=1,
    min_probation_epochs=1,
    min_measurements=1,
    is_evidence_required=False,
    max_metric_drop=1.0,
    keep_errors=0.0,
    keep_threshold=0.0,
)
"""Gates that a seed passes early."""


def make_config(*, incubation: str = "shadow", amp: str = "off", epochs: int = HORIZON) -> HostRunConfig:
    """Return settings for a short life."""
    return HostRunConfig(
        batch_size=BATCH,
        epochs=epochs,
        amp=amp,
        gates=OPEN_GATES,
        lifecycle=LifecycleConfig(incubation=incubation, embargo_epochs=1, min_cull_age_epochs=0),
        measuring=MeasuringConfig(contribution_items=64, calibration_items=64, chunk_items=40),
    )


def make_parts(
    data: TaskData | None = None,
    *,
    sink: ListSink | None = None,
    probe: HostProbe[MorphogeneticModel, Batch] | None = None,
    registry: BlueprintRegistry | None = None,
    dropout: float = 0.0,
    kernel_size: int = 3,
    norm: str = "batch",
) -> HostRunParts:
    """Return parts around a CNN of 4, 8 and 16 channels."""
    chosen = make_data() if data is None else data
    host = CNNHostConfig(
        in_channels=1,
        num_classes=chosen.num_classes,
        base_channels=4,
        kernel_size=kernel_size,
        dropout=dropout,
        norm=norm,
    )

    def build() -> nn.Module:
        return CNNHost(host)

    return HostRunParts(
        build_host=build,
        data=chosen,
        cache=DeviceCache(),
        registry=builtin_registry() if registry is None else registry,
        device=torch.device("cpu"),
        sink=ListSink() if sink is None else sink,
        probe=NullProbe() if probe is None else probe,
    )


def make_run(
    config: HostRunConfig | None = None, parts: HostRunParts | None = None, *, seed: int = 5
) -> HostRun:
    """Return a fresh run on the tiny set."""
    return HostRun(make_task(), config or make_config(), parts or make_parts(), run_seed=seed)


def make_digits_run(
    seed: int = 0,
    *,
    registry: BlueprintRegistry | None = None,
    kernel_size: int = 3,
    epochs: int = 6,
    incubation: str = "shadow",
) -> HostRun:
    """Return a fresh run on the digits with the default gates."""
    parts = make_parts(load_dataset("digits"), registry=registry, kernel_size=kernel_size)
    lifecycle = LifecycleConfig(incubation=incubation)
    config = HostRunConfig(batch_size=64, epochs=epochs, lifecycle=lifecycle)
    return HostRun(make_task(10), config, parts, run_seed=seed)


def germinate(slot: str, blueprint: str = "conv_light", tempo: int = 1) -> Action:
    """Return a GERMINATE action."""
    return Action(op=LifecycleOp.GERMINATE, slot=slot, blueprint=blueprint, tempo_epochs=tempo)


EPISODE: tuple[tuple[int, Action], ...] = (
    (0, germinate("block1")),
    (1, germinate("block2", "depthwise", 2)),
    (2, Action(op=LifecycleOp.ADVANCE, slot="block1")),
    (3, Action(op=LifecycleOp.ADVANCE, slot="block2")),
    (4, Action(op=LifecycleOp.FOSSILIZE, slot="block1")),
    (5, Action(op=LifecycleOp.CULL, slot="block2", tempo_epochs=1)),
    (6, germinate("block3", "conv_small")),
)
"""Epoch and action: both incubate, blend, one is fossilised (4), one culled (5), a third lives on."""


def decide(epoch: int, script: tuple[tuple[int, Action], ...] = EPISODE) -> Decision:
    """Return the scripted decision of an epoch, WAIT where there is none."""
    action = dict(script).get(epoch, Action())
    return Decision(action=action, reason="scripted")


def drive(run: HostRun, until: int, script: tuple[tuple[int, Action], ...] = EPISODE) -> None:
    """Follow a script up to an epoch; every action must be accepted."""
    while run.epoch < until:
        if run.progress.batch == 0:
            result = run.apply(decide(run.epoch, script))
            assert not result.is_refused, result.refusal
        run.train_epoch()


@dataclass(slots=True)
class StopAfter:
    """Says stop once `count` batches have been trained."""

    count: int
    num_asked: int = 0

    def __call__(self) -> bool:
        """Count one batch."""
        self.num_asked += 1
        return self.num_asked >= self.count


def tensors_of(run: HostRun) -> dict[str, Tensor]:
    """Return copies of every parameter and buffer."""
    return {name: tensor.clone() for name, tensor in run.bench.model.state()[0].items()}


def host_tensors_of(run: HostRun) -> dict[str, Tensor]:
    """Return copies of the host's parameters and buffers."""
    return {name: tensor.clone() for name, tensor in run.bench.model.host.state_dict().items()}


def assert_same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
    """Require equal names and bit-equal tensors."""
    assert list(left) == list(right)
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different, different


def through_json(record: StateRecord) -> StateRecord:
    """Return the record as it comes back from a file: tensors copied, data written and parsed."""
    state = parse_json(encode_json(record.state, where="state"))
    assert isinstance(state, dict)
    return StateRecord(tensors={name: t.clone() for name, t in record.tensors.items()}, state=state)


def plant_at_full_alpha(run: HostRun, slot_id: str, blueprint: str) -> SeedSlot:
    """Bring a fresh seed to BLENDING at alpha 1 through the lifecycle, without training it."""
    model = run.bench.model
    slot = model.slot(slot_id)
    clock = Clock(epoch=run.epoch, batch=0, batches_per_epoch=1)
    model.apply_action(germinate(slot_id, blueprint), clock, build_seed=3)
    slot.state.has_optimizer_entries = True
    model.lifecycle.advance(slot, clock)
    slot.state.gradient_ratio, slot.state.epochs_in_stage = 1.0, 9
    model.lifecycle.advance(slot, clock)
    slot.follow_ramp(1)
    assert slot.state.alpha == 1.0
    return slot


def norms_of(run: HostRun) -> tuple[NormWithStatistics, ...]:
    """Return the norms with running statistics."""
    return norms_with_statistics(run.bench.model)


def as_text(events: list[Event]) -> str:
    """Return an event log as text."""
    return json.dumps([repr(event) for event in events])
