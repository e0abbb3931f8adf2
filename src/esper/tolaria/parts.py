"""What a host run is built from, and the workbench that holds what was built.

Only construction stands here: which object is made from which setting, in one place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

from esper.data import ArraySplit, AugmentConfig, Batch, DeviceCache, SharedBatchIterator, TaskData
from esper.kasmina import (
    BlueprintRegistry,
    MorphogeneticModel,
    QualityGates,
    RecomputeRule,
    Seed,
    SeedState,
    build_seeded,
    describe,
    price_items,
)
from esper.leyline import (
    ActionSpace,
    EventSink,
    HostProbe,
    MetricSpec,
    NullProbe,
    NullSink,
    SeedStage,
    TaskSpec,
    derive_seed,
)
from esper.tolaria.config import HostRunConfig
from esper.tolaria.epoch import EpochRunner
from esper.tolaria.governor import Governor
from esper.tolaria.host_ranks import HostRanks, OneRank
from esper.tolaria.ledger import FlopsLedger
from esper.tolaria.measuring import ContributionPool, Evaluator
from esper.tolaria.memory import MemoryWatch
from esper.tolaria.objectives import Objective, build_objective
from esper.tolaria.optimizers import TopologyOptimizer
from esper.tolaria.precision import Autocast, LossScaler
from esper.tolaria.reducer import GradientReducer
from esper.tolaria.rng import OwnRng
from esper.tolaria.schedules import compute_newborn_warmup
from esper.tolaria.scores import Scorer, ScoringItems
from esper.tolaria.signals import SignalTracker


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HostRunParts:
    """What a host run needs from outside; shared by the runs of a fleet."""

    build_host: Callable[[], nn.Module]
    """Makes a fresh host; its weights are drawn from the global stream, which is seeded around the call."""
    data: TaskData
    cache: DeviceCache
    """Owner of the data on the device."""
    registry: BlueprintRegistry
    device: torch.device
    blueprints: tuple[str, ...] = ()
    """Ids or families on offer; empty = every one that fits, so that the policy chooses."""
    slots: tuple[str, ...] = ()
    """Growth points to use; empty = all."""
    sink: EventSink = field(default_factory=NullSink)
    probe: HostProbe[MorphogeneticModel, Batch] = field(default_factory=NullProbe)
    ranks: HostRanks = field(default_factory=OneRank)
    """Copies of the host on other ranks; with more than one rank the parts serve a single host run."""
    augment: AugmentConfig | None = None
    """Random crop and flip of training batches; None = images as they are."""
    read_memory: Callable[[], int | None] = lambda: None
    """Returns free bytes on the device; None = not known, and no seed is refused for what is free."""


@final
@dataclass(slots=True, kw_only=True)
class Workbench:
    """Everything that one host run works with."""

    data: TaskData
    model: MorphogeneticModel
    metric: MetricSpec
    objective: Objective
    space: ActionSpace
    batches: SharedBatchIterator
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    gate_items: tuple[Tensor, Tensor]
    """The first validation items: those that counterfactuals are measured on."""
    calibration: Tensor
    """Training inputs from which normalisation statistics are re-estimated."""
    evaluator: Evaluator
    scorer: Scorer | None
    """Scores slots and blueprints; None where the settings ask for none."""
    optimizer: TopologyOptimizer
    runner: EpochRunner
    scaler: LossScaler
    reducer: GradientReducer
    pool: ContributionPool
    tracker: SignalTracker
    governor: Governor
    ledger: FlopsLedger
    rng: OwnRng
    memory: MemoryWatch
    probe: HostProbe[MorphogeneticModel, Batch]
    _planned: list[tuple[str, Seed | None, bool]] | None = None
    """Slot, its seed and whether it is isolated, as the reducer's plan has them."""

    def seed_parameters(self) -> dict[str, dict[str, nn.Parameter]]:
        """Return the parameters of every seed by slot."""
        return {slot_id: self.model.seed_parameters(slot_id) for slot_id in self.model.slot_ids}

    def rebuild_optimizer_groups(self) -> None:
        """Make the optimiser's seed groups match the seeds that live now, without any state."""
        for slot_id in tuple(self.optimizer.seed_slots):
            self.optimizer.remove_seed(slot_id)
        self.follow_topology()

    def take_back(self, slot_id: str, state: SeedState) -> None:
        """Undo what a germination that was cut short has done so far.

        Args:
            slot_id: Where it was.
            state: The slot's record before.
        """
        self.model.lifecycle.restore(self.model.slot(slot_id), state, None)
        self.follow_topology()

    def follow_topology(self) -> None:
        """Add groups for new seeds, drop those of seeds that are gone, freeze those on their way out."""
        isolated: set[str] = set()
        planned: list[tuple[str, Seed | None, bool]] = []
        for slot in self.model.each_slot():
            state, known = slot.state, slot.slot_id in self.optimizer.seed_slots
            planned.append((slot.slot_id, slot.seed, state.stage.is_isolated))
            if not state.stage.has_seed:
                if known:
                    self.optimizer.remove_seed(slot.slot_id)
                continue
            if not known:
                self.optimizer.add_seed(
                    slot.slot_id, self.model.seed_parameters(slot.slot_id), birth_batch=state.birth_batch
                )
                state.has_optimizer_entries = True
            self.optimizer.set_birth(slot.slot_id, state.birth_batch)
            self.optimizer.set_frozen(slot.slot_id, state.is_cull_pending)
            if state.stage is SeedStage.FOSSILIZED:
                self.optimizer.fossilize(slot.slot_id)
            if state.stage.is_isolated:
                isolated.add(slot.slot_id)
        if planned != self._planned:  # most intervals change nothing, and a layout takes long to hash
            self.reducer.replan(self.optimizer.plan(isolated), self.optimizer.parameters())
            self._planned = planned


def build_workbench(
    task: TaskSpec, config: HostRunConfig, parts: HostRunParts, *, run_seed: int, instance: int
) -> Workbench:
    """Build one host and everything around it from settings, parts and two seeds.

    Raises:
        HostError: If the host's growth points do not match its forward pass.
    """
    data, device, measuring = parts.data, parts.device, config.measuring
    batches = _build_batches(config, parts, derive_seed(run_seed, "data", instance))
    validation = _first_items(parts, data.validation)
    model = _build_model(task, config, parts, validation[0][:2], derive_seed(run_seed, "host", instance))
    horizon = config.epochs if config.epochs is not None else task.horizon_epochs
    optimizer = TopologyOptimizer(
        config.optimizer,
        model.host_parameters(),
        total_batches=horizon * batches.num_batches,
        newborn_warmup_batches=compute_newborn_warmup(batches.num_batches),
    )
    objective = build_objective(task)
    autocast = Autocast(device, config.amp)
    scaler = LossScaler(is_enabled=config.amp == "fp16")
    reducer = parts.ranks.build_reducer()
    space = build_space(model, parts)
    return Workbench(
        data=data,
        model=model,
        metric=task.metric,
        objective=objective,
        space=space,
        batches=batches,
        validation=validation,
        test=_first_items(parts, data.test),
        gate_items=tuple(part[: measuring.contribution_items] for part in validation),  # type: ignore[arg-type]
        calibration=_first_items(parts, data.train, measuring.calibration_items)[0],
        evaluator=Evaluator(objective, measuring, gates_use_loss=task.gates_use_loss, autocast=autocast),
        scorer=build_scorer(task, config, parts, space, derive_seed(run_seed, "score", instance))
        if measuring.score_every
        else None,
        optimizer=optimizer,
        runner=EpochRunner(
            model,
            objective,
            optimizer,
            reducer=reducer,
            autocast=autocast,
            scaler=scaler,
            probe=parts.probe,
        ),
        scaler=scaler,
        reducer=reducer,
        pool=ContributionPool(),
        tracker=SignalTracker(config.tracker),
        governor=Governor(config.governor, chance_loss=task.chance_loss),
        ledger=FlopsLedger(),
        memory=MemoryWatch(config, parts.registry, parts.read_memory),
        rng=OwnRng(derive_seed(run_seed, "torch", instance), device),
        probe=parts.probe,
    )


def _build_batches(config: HostRunConfig, parts: HostRunParts, seed: int) -> SharedBatchIterator:
    data = parts.data
    return SharedBatchIterator(
        data.train,
        [seed],
        config.batch_size,
        device=parts.device,
        mean=data.mean,
        std=data.std,
        augment=parts.augment,
        epoch_batches=config.interval_batches,
        cache=parts.cache,
    )


def _build_model(
    task: TaskSpec, config: HostRunConfig, parts: HostRunParts, sample: Tensor, seed: int
) -> MorphogeneticModel:
    model = MorphogeneticModel(
        build_seeded(parts.build_host, seed).to(parts.device),
        sample,
        registry=parts.registry,
        gates=QualityGates(config.gates, keep_threshold=task.keep_threshold),
        lifecycle=config.lifecycle,
        slots=parts.slots,
    )
    # Memory is asked from shapes alone, at every decision: better refused here than at the first of them.
    price_items(model.host, model.input_shape, model.input_dtype, parts.registry.prices)
    model.recompute = RecomputeRule(
        mode=config.seed_checkpointing,
        batch_size=config.batch_size,
        threshold_bytes=int(config.seed_checkpointing_mb * 2**20),
    )
    if config.compile != "none":
        model.compile_host(config.compile)
    return model


def build_scorer(
    task: TaskSpec, config: HostRunConfig, parts: HostRunParts, space: ActionSpace, seed: int
) -> Scorer:
    """Return a scorer of one host's slots and blueprints; every draw of it follows from the seed."""
    data, measuring, device = parts.data, config.measuring, parts.device
    items = ScoringItems(
        training=parts.cache.storage(data.train, device=device, mean=data.mean, std=data.std),
        held_out=_first_items(parts, data.validation, measuring.score_items),
        calibration=_first_items(parts, data.train, measuring.calibration_items)[0],
    )
    autocast = Autocast(device, config.amp)
    return Scorer(measuring, build_objective(task), autocast, items=items, space=space, seed=seed)


def build_space(model: MorphogeneticModel, parts: HostRunParts) -> ActionSpace:
    """Return the action space of a host: its slots, the blueprints on offer that fit, and their costs.

    Raises:
        UnknownNameError: If a blueprint or family on offer is not registered.
    """
    registry = parts.registry
    wanted = [member for name in parts.blueprints for member in registry.members(name)]
    descriptors = {}
    for spec in model.specs:
        fitting = [b for b in registry.fitting(spec) if not wanted or b in wanted]
        descriptors[spec.slot_id] = dict(describe(registry, spec, fitting))
    offered = dict.fromkeys(b for of_slot in descriptors.values() for b in of_slot)
    return ActionSpace(slot_ids=model.slot_ids, blueprint_ids=tuple(offered), descriptors=descriptors)


def _first_items(parts: HostRunParts, split: ArraySplit, limit: int | None = None) -> tuple[Tensor, Tensor]:
    data = parts.data
    return parts.cache.first_items(split, limit, device=parts.device, mean=data.mean, std=data.std)
