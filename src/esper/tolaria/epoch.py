"""One training epoch of one host and its seeds, as an object that can stop and go on at any batch.

```
for each batch:
  1) clock       ramps and learning rates take their closed-form values
  2) host        this rank's rows: forward, loss, backward (seeds that affect the output learn here)
  3) incubate    each isolated seed's own bounded loss; the host is left bit-equal
  4) reduce      gradients over ranks (one process: missing ones become zeros by plan)
  5) check, clip per group, then one optimiser step; a faulty group is skipped alone, and what was bad first
     is looked for once per epoch and group
```
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, final

import torch

from esper.data import Batch
from esper.kasmina import (
    ForwardPlan,
    MorphogeneticModel,
    NormWithStatistics,
    SeedSlot,
    apply_seed_gradient,
    find_incubating,
    norms_with_statistics,
    untouched_rng,
    untouched_statistics,
)
from esper.leyline import HostProbe, JsonValue, SlotOutcome
from esper.tolaria.fault_origin import (
    LARGEST_SOUND,
    FaultOrigin,
    compute_norm,
    find_bad_name,
    find_in_pass,
    find_lasting,
    is_sound,
)
from esper.tolaria.group_flags import GroupFlags
from esper.tolaria.host_ranks import BatchShare
from esper.tolaria.objectives import Objective
from esper.tolaria.optimizers import TopologyOptimizer
from esper.tolaria.precision import Autocast, LossScaler
from esper.tolaria.reducer import HOST, GradientReducer, StepFlags

if TYPE_CHECKING:
    from torch import Tensor

_RECORDING = ForwardPlan(is_recording=True)


@final
@dataclass(slots=True, kw_only=True)
class SlotTotals:
    """Sums over the batches of one epoch for one seed."""

    ratio: float = 0.0
    norm: float = 0.0
    num_batches: int = 0
    num_skipped: int = 0

    def outcome(self, *, is_sound: bool = True) -> SlotOutcome:
        """Return the epoch's gradient facts.

        Args:
            is_sound: False if the seed holds a bad number that its gradients may not show.
        """
        has_gradients = self.num_batches > 0
        return SlotOutcome(
            gradient_ratio=self.ratio / self.num_batches if has_gradients else None,
            gradient_norm=self.norm / self.num_batches if has_gradients else None,
            has_finite_gradients=is_sound and self.num_skipped == 0,
            num_skipped_batches=self.num_skipped,
        )


@final
@dataclass(slots=True, kw_only=True)
class EpochProgress:
    """Where an epoch stands: the batch index and every partial sum, so that it can be saved and resumed."""

    batch: int = 0
    """Batches of this epoch that are done."""
    loss_sum: float = 0.0
    metric_sum: float = 0.0
    num_items: int = 0
    norm_sum: float = 0.0
    num_steps: int = 0
    num_skipped: int = 0
    slots: dict[str, SlotTotals] = field(default_factory=dict)
    faults: dict[str, FaultOrigin] = field(default_factory=dict)
    """Group ("host" or a slot) -> what was bad in its first skipped batch."""

    def to_dict(self) -> dict[str, JsonValue]:
        """Return plain data."""
        return {
            "batch": self.batch,
            "loss_sum": self.loss_sum,
            "metric_sum": self.metric_sum,
            "num_items": self.num_items,
            "norm_sum": self.norm_sum,
            "num_steps": self.num_steps,
            "num_skipped": self.num_skipped,
            "slots": {
                slot: [totals.ratio, totals.norm, totals.num_batches, totals.num_skipped]
                for slot, totals in self.slots.items()
            },
            "faults": {group: origin.to_json() for group, origin in self.faults.items()},
        }

    @staticmethod
    def from_dict(data: dict[str, JsonValue]) -> EpochProgress:
        """Rebuild from `to_dict`."""
        saved = data["slots"]
        assert isinstance(saved, dict)
        slots = {
            slot: SlotTotals(ratio=ratio, norm=norm, num_batches=count, num_skipped=skipped)
            for slot, (ratio, norm, count, skipped) in saved.items()
        }
        origins = data.get("faults", {})
        assert isinstance(origins, dict)
        faults = {group: FaultOrigin.from_json(origin) for group, origin in origins.items()}
        plain = {name: value for name, value in data.items() if name not in ("slots", "faults")}
        return EpochProgress(slots=slots, faults=faults, **plain)  # type: ignore[arg-type]


@final
class EpochRunner:
    """Trains one batch after another; holds the parts, owns no progress."""

    def __init__(
        self,
        model: MorphogeneticModel,
        objective: Objective,
        optimizer: TopologyOptimizer,
        *,
        reducer: GradientReducer,
        autocast: Autocast,
        scaler: LossScaler,
        probe: HostProbe[MorphogeneticModel, Batch],
    ) -> None:
        """Bind the parts of a step."""
        self._model = model
        self._objective = objective
        self._optimizer = optimizer
        self._reducer = reducer
        self._autocast = autocast
        self._scaler = scaler
        self._probe = probe
        self._norms: tuple[NormWithStatistics, ...] = ()
        self._buffers: tuple[Tensor, ...] = ()
        self._incubating: list[SeedSlot] = []
        self._look_at_norms()

    def begin(self) -> None:
        """Look at the topology once; call at the start of an epoch and after a resume."""
        self._incubating = find_incubating(self._model)
        self._look_at_norms()
        self._model.train()

    def train_batch(
        self, batch: Batch, clock_batch: int, progress: EpochProgress, share: BatchShare | None = None
    ) -> None:
        """Train on one batch and add its numbers to the progress.

        Args:
            batch: Inputs [B, ...] and targets [B, ...] on the model's device; the whole of it on every rank.
            clock_batch: Batches finished since the run began.
            progress: Sums to add to; its batch index is advanced by one.
            share: This rank's rows of the batch; None = all of them.
        """
        model, optimizer = self._model, self._optimizer
        model.update_alphas(clock_batch)
        optimizer.set_batch(clock_batch)
        optimizer.zero_grad()
        saved_buffers = [buffer.clone() for buffer in self._buffers]
        local = self._learn(BatchShare(batch, 1.0) if share is None else share, progress)
        verdict = self._reducer.reduce(local)
        flags = optimizer.check_and_clip(self._scaler.inverse_scale)
        self._scaler.update(flags)
        assert verdict.loss is not None
        assert verdict.metric_sum is not None
        loss = float(verdict.loss)  # sync: one number per batch, together with the flags
        if flags.is_host_faulty or HOST in verdict.faulty_ranks or not is_sound(loss):
            self._withhold(batch, saved_buffers, flags, progress)
        else:
            optimizer.step()
            count = len(batch.targets)
            progress.loss_sum += loss * count
            progress.metric_sum += float(verdict.metric_sum)
            progress.num_items += count
        self._count_groups(flags, progress)
        self.explain_seeds(flags, progress)
        model.forget_records()
        progress.batch += 1

    def _look_at_norms(self) -> None:
        self._norms = norms_with_statistics(self._model)
        self._buffers = tuple(buffer for norm in self._norms for buffer in norm.buffers(recurse=False))

    def _learn(self, share: BatchShare, progress: EpochProgress) -> StepFlags:
        """Put gradients of this rank's rows in place, as its part of the mean over the whole batch."""
        batch = share.batch
        if batch is None:
            return StepFlags()
        loss, outputs = self._forward(batch)
        part = loss if share.weight == 1.0 else loss * share.weight
        self._scaler.scale(part).backward()  # type: ignore[no-untyped-call]
        for slot in self._incubating:
            self._incubate(slot, batch, share.weight)
        self._probe.after_backward(self._model, batch, progress.batch)
        metrics = self._objective.metrics(outputs.detach(), batch.targets)
        return StepFlags(loss=self._spoil(part.detach()), metric_sum=metrics.sum())

    def _spoil(self, loss: Tensor) -> Tensor:
        """Return the loss, or NaN if a running statistic is bad: one number tells every rank of both."""
        norm = compute_norm(self._buffers)
        return loss if norm is None else torch.where(norm < LARGEST_SOUND, loss, torch.nan)

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        model = self._model
        with self._autocast.context():
            if self._incubating:
                with model.planned(_RECORDING):
                    outputs = model(batch.inputs)
            else:
                outputs = model(batch.inputs)
        return self._objective.loss(outputs, batch.targets), outputs

    def _withhold(
        self, batch: Batch, saved_buffers: Sequence[Tensor], flags: GroupFlags, progress: EpochProgress
    ) -> None:
        """Leave the network as it was before the batch, and find out once per epoch what was bad."""
        statistic = find_bad_name(self._model.named_buffers()) if HOST not in progress.faults else None
        for buffer, saved in zip(self._buffers, saved_buffers, strict=True):
            buffer.copy_(saved)
        progress.num_skipped += 1
        if HOST not in progress.faults:
            origin = self.explain_host(batch, flags, statistic)
            progress.faults[HOST] = replace(origin, batch=progress.batch)

    def explain_host(self, batch: Batch, flags: GroupFlags, statistic: str | None) -> FaultOrigin:
        """Return what was bad first in a batch that left the network as it was before.

        Args:
            batch: On which the host failed; one more pass over it is made.
            flags: Of its gradients.
            statistic: Name of the first buffer that was bad after it; None = none was.
        """
        lasting = find_lasting(self._model, self._optimizer)
        alone = {slot.slot_id for slot in self._model.each_slot() if not slot.state.stage.affects_output}
        for group, origin in lasting.items():
            if group not in alone or self._model.incubation.is_in_graph:
                return origin
        losses: list[float] = []

        def run() -> None:
            with self._model.planned(_RECORDING), self._autocast.context():
                outputs: Tensor = self._model.host(batch.inputs)
            losses.append(float(self._objective.loss(outputs, batch.targets)))

        with untouched_rng(batch.inputs.device), untouched_statistics(self._norms):
            seen = find_in_pass(self._model, batch.inputs, run)
        if seen is not None:
            return seen
        if not is_sound(losses[0]):
            return FaultOrigin(place="loss", name="")
        if flags.is_host_faulty:
            return FaultOrigin(place="gradient", name=flags.host.faulty_name)
        return (
            FaultOrigin(place="statistic", name=statistic)
            if statistic
            else FaultOrigin(place="loss", name="")
        )

    def explain_seeds(self, flags: GroupFlags, progress: EpochProgress) -> None:
        """Say for each seed that was faulty without the host what was bad in it."""
        bad = [slot for slot, flag in flags.seeds.items() if flag.is_faulty and slot not in progress.faults]
        if not bad or flags.is_host_faulty:
            return
        lasting = find_lasting(self._model, self._optimizer)
        for slot in bad:
            gradient = FaultOrigin(place="gradient", name=flags.seeds[slot].faulty_name, slot=slot)
            progress.faults[slot] = replace(lasting.get(slot, gradient), batch=progress.batch)

    def _incubate(self, slot: SeedSlot, batch: Batch, weight: float) -> None:
        incubation, seed = self._model.incubation, slot.seed
        if incubation.is_in_graph or seed is None or slot.features is None:
            return
        gradient = slot.feature_gradient
        if gradient is not None and (self._scaler.is_enabled or weight != 1.0):
            gradient = gradient * (self._scaler.inverse_scale / weight)

        def tail_loss(features: Tensor) -> Tensor:
            outputs = self._model.run_tail(slot.slot_id, features, batch.inputs)
            return self._objective.loss(outputs, batch.targets)

        device = batch.inputs.device
        with untouched_rng(device), untouched_statistics(self._norms), self._autocast.context():
            loss = incubation.compute_loss(
                slot.compute_residual, slot.features.contiguous(), gradient, tail_loss
            )
        part = loss if weight == 1.0 else loss * weight
        apply_seed_gradient(self._scaler.scale(part), list(seed.parameters()))

    def _count_groups(self, flags: GroupFlags, progress: EpochProgress) -> None:
        host = flags.host
        if not flags.is_host_faulty:
            progress.norm_sum += host.norm
            progress.num_steps += 1
        for slot_id, group in flags.seeds.items():
            totals = progress.slots.setdefault(slot_id, SlotTotals())
            if group.is_faulty:
                totals.num_skipped += 1
            elif group.has_gradient and not flags.is_host_faulty:
                totals.norm += group.norm
                totals.ratio += min(10.0, group.rms / host.rms) if host.rms > 0.0 else 0.0
                totals.num_batches += 1


StopCheck = Callable[[], bool]
"""Asked after every batch; True = stop at this batch boundary."""
