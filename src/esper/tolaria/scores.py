"""Where a network could grow: per slot and blueprint, the share of dL/dh that a fresh seed could follow.

```
probe     training items, one forward + backward:  h and g = dL/dh at every slot
empty     per blueprint that fits: features of a fresh branch, ridge on half, gain on the other half
any       E|g|^2, share that a linear map of h explains, effective rank of h
live      dL/d(alpha) and a parabola of the loss over alpha, on held-out items
```
The functional gradient bounds what any residual at a slot can do to first order (Friedman 2001; Wu et al.
2020, Firefly; Verbockhaven et al. 2024, TINY); here the residual is one that a blueprint really offers.
The network is left bit-equal: eval mode, gradients for features alone, streams put back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor

from esper.data import DeviceStorage
from esper.kasmina import (
    ForwardPlan,
    MorphogeneticModel,
    SeedSlot,
    SlotScores,
    SlotSpec,
    build_seeded,
    untouched_rng,
)
from esper.leyline import ActionSpace, Layout, derive_seed
from esper.tolaria.ledger import train_flops
from esper.tolaria.measuring import Evaluator, MeasuringConfig, eval_mode
from esper.tolaria.objectives import Objective
from esper.tolaria.precision import Autocast
from esper.tolaria.scoring_alpha import AlphaProbe, probe_alphas
from esper.tolaria.scoring_features import extract_regression
from esper.tolaria.scoring_ridge import Regression, compute_effective_rank, cross_validate_gain


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProbePoint:
    """One slot on one batch, float32, per sample."""

    arriving: Tensor
    """h [B, ...] as the host made it."""
    leaving: Tensor
    """[B, ...] after the slot's seed; the same where none takes part."""
    entering: Tensor
    """What the slot's seed takes: h, or in a slot that spans two layers the first one's input."""
    gradient: Tensor
    """dL/d(leaving) of each sample's own loss."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoringItems:
    """What scores are measured on."""

    training: DeviceStorage
    """Training split: the probe batch is drawn from it."""
    held_out: tuple[Tensor, Tensor]
    """Validation inputs and targets for the scores of live seeds."""
    calibration: Tensor
    """Training inputs for norm statistics of counterfactuals."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSheet:
    """One scoring of one network."""

    slots: Mapping[str, SlotScores]
    """Without slots where a number is not finite."""
    flops: int
    """Everything that it took."""


@final
class Scorer:
    """Scores every slot of a network; which items and branches it draws follows from seed and epoch alone.

    Example:
        sheet = scorer.score(model, epoch=5)
        sheet.slots["block2"].blueprint_gains   # {"conv_light": 0.13, ...}
    """

    def __init__(
        self,
        config: MeasuringConfig,
        objective: Objective,
        autocast: Autocast,
        *,
        items: ScoringItems,
        space: ActionSpace,
        seed: int,
    ) -> None:
        """Bind what is measured, on what, and the seed in [0, 2**63) of every draw."""
        self._config = config
        self._objective = objective
        self._autocast = autocast
        self._items = items
        self._space = space
        self._seed = seed
        self._evaluator = Evaluator(objective, config, gates_use_loss=True, autocast=autocast)

    def is_due(self, epoch: int) -> bool:
        """Whether scores are taken after this many intervals."""
        return epoch % self._config.score_every == 0

    def score(self, model: MorphogeneticModel, epoch: int) -> ScoreSheet:
        """Score every slot as the network is now.

        Args:
            model: In any mode; parameters, gradients, buffers, modes and random streams stay bit-equal.
            epoch: Intervals finished; part of the path of every draw.
        """
        live = [slot for slot in model.each_slot() if slot.state.stage.is_live and not _is_leaving(slot)]
        inputs, targets = self._draw_batch(epoch)
        points = run_probe(model, self._objective, inputs, targets, autocast=self._autocast)
        flops = _probe_flops(model, len(targets))
        slopes, slope_flops = self._measure_slopes(model, live)
        probes, probe_flops = probe_alphas(
            model,
            self._evaluator,
            [slot.slot_id for slot in live],
            self._items.calibration,
            self._items.held_out,
        )
        flops += slope_flops + probe_flops
        scored: dict[str, SlotScores] = {}
        for slot in model.each_slot():
            slot_id = slot.slot_id
            energy = compute_energy(points[slot_id].gradient)
            if not math.isfinite(energy):
                continue
            gains, spent = self._score_blueprints(model, slot, points[slot_id], epoch)
            flops += spent
            scores, spent = _score_features(slot.spec, points[slot_id], energy)
            flops += spent
            scored[slot_id] = _join(scores, gains, slopes.get(slot_id), probes.get(slot_id))
        return ScoreSheet(slots=scored, flops=flops)

    def _draw_batch(self, epoch: int) -> tuple[Tensor, Tensor]:
        storage = self._items.training
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "batch", epoch))
        order = torch.randperm(storage.num_items, generator=generator)
        chosen = order[: self._config.score_items].to(storage.targets.device)
        inputs, targets = (part.index_select(0, chosen) for part in (storage.inputs, storage.targets))
        return storage.normalise(inputs), storage.label(targets)

    def _score_blueprints(
        self, model: MorphogeneticModel, slot: SeedSlot, point: ProbePoint, epoch: int
    ) -> tuple[dict[str, float] | None, int]:
        if slot.state.stage.has_seed:
            return None, 0
        gains: dict[str, float] = {}
        flops = 0
        for name, item in self._space.descriptors.get(slot.slot_id, {}).items():
            seed = derive_seed(self._seed, "branch", epoch, slot.slot_id, name)
            branch = build_seeded(partial(model.registry.get(name).build, slot.spec), seed)
            with untouched_rng(slot.spec.device):
                taken = point.leaving if slot.spec.pair is None else point.entering
                regression = extract_regression(branch.to(slot.spec.device), taken, point.gradient)
            flops += item.flops_per_item * point.leaving.shape[0]
            if regression is None:
                continue
            if regression.weights is not None:  # took a second pass
                flops += item.flops_per_item * point.leaving.shape[0]
            generator = torch.Generator().manual_seed(derive_seed(seed, "projection"))
            narrow = regression.projected(self._config.score_width, generator)
            flops += narrow.num_flops + _mixing_flops(regression, narrow)
            share = compute_share(narrow, compute_energy(point.gradient))
            if math.isfinite(share):
                gains[name] = share
        return gains, flops

    def _measure_slopes(
        self, model: MorphogeneticModel, live: list[SeedSlot]
    ) -> tuple[dict[str, float], int]:
        if not live:
            return {}, 0
        inputs, targets = self._items.held_out
        points = run_probe(model, self._objective, inputs, targets, autocast=self._autocast)
        slopes: dict[str, float] = {}
        flops = _probe_flops(model, len(targets))
        for slot in live:
            point = points[slot.slot_id]
            assert slot.seed is not None
            with eval_mode(model), torch.no_grad():
                residual: Tensor = slot.seed(point.entering)
            slope = float((point.gradient * residual).flatten(1).sum(dim=1).double().mean())
            flops += slot.state.flops_per_item * len(targets)
            if math.isfinite(slope):
                slopes[slot.slot_id] = slope
        return slopes, flops


def run_probe(
    model: MorphogeneticModel, objective: Objective, inputs: Tensor, targets: Tensor, *, autocast: Autocast
) -> dict[str, ProbePoint]:
    """Return feature and functional gradient at every slot from one forward and one backward pass.

    Args:
        model: In any mode; it is run in eval mode and nothing of it changes.
        objective: Whose loss is differentiated.
        inputs: [B, ...].
        targets: [B, ...].
        autocast: Precision of the forward pass.
    """
    plan = ForwardPlan(is_watching=True, captures=frozenset(model.slot_ids))
    points: dict[str, ProbePoint] = {}
    try:
        with eval_mode(model), untouched_rng(inputs.device), torch.enable_grad():
            with autocast.context(), model.planned(plan):
                outputs: Tensor = model.host(inputs)
            loss = objective.loss(outputs, targets) * len(targets)
            slots = [slot for slot in model.each_slot() if slot.watched is not None]
            watched = [slot.watched for slot in slots if slot.watched is not None]
            gradients = torch.autograd.grad(loss, watched, materialize_grads=True)
        for slot, leaving, gradient in zip(slots, watched, gradients, strict=True):
            assert slot.captured is not None
            points[slot.slot_id] = ProbePoint(
                arriving=_as_plain(slot.captured),
                entering=_as_plain(slot.captured if slot.recorded_input is None else slot.recorded_input),
                leaving=_as_plain(leaving),
                gradient=_as_plain(gradient),
            )
    finally:
        model.forget_records()
    return points


def compute_energy(gradient: Tensor) -> float:
    """Return E|g|^2 per sample of a gradient [B, ...]."""
    return float(gradient.flatten(1).square().sum(dim=1).double().mean())


def compute_share(regression: Regression, energy: float) -> float:
    """Return the cross-validated gain over E|g|^2; 0 where there is no gradient, NaN if not finite."""
    return cross_validate_gain(regression) / energy if energy > 0.0 else 0.0


def _score_features(spec: SlotSpec, point: ProbePoint, energy: float) -> tuple[SlotScores, int]:
    rows, targets = _positions(spec, point.leaving), _positions(spec, point.gradient)
    regression = Regression(rows=rows, targets=targets)
    share = compute_share(regression, energy)
    is_finite = math.isfinite(share)
    scores = SlotScores(
        gradient_energy=energy,
        linear_share=share if is_finite else None,
        saturation=compute_effective_rank(rows.flatten(0, 1)) if is_finite else None,
    )
    # The rank takes the moments again and about 4 d^3 / 3 for the eigenvalues.
    width = rows.shape[-1]
    rank_flops = 2 * rows.shape[0] * rows.shape[1] * width**2 + 4 * width**3 // 3
    return scores, regression.num_flops + rank_flops


def _join(
    scores: SlotScores, gains: dict[str, float] | None, slope: float | None, probe: AlphaProbe | None
) -> SlotScores:
    return SlotScores(
        gradient_energy=scores.gradient_energy,
        linear_share=scores.linear_share,
        saturation=scores.saturation,
        blueprint_gains=gains,
        alpha_slope=slope,
        alpha_best=None if probe is None else probe.best_alpha,
        alpha_gain=None if probe is None else probe.predicted_gain,
    )


def _positions(spec: SlotSpec, tensor: Tensor) -> Tensor:
    """Return [B, positions, C] of a slot's feature."""
    if spec.layout is Layout.MAP_2D:
        return tensor.flatten(2).transpose(1, 2)
    return tensor.reshape(tensor.shape[0], -1, tensor.shape[-1])


def _as_plain(tensor: Tensor) -> Tensor:
    return tensor.detach().float().contiguous()


def _is_leaving(slot: SeedSlot) -> bool:
    return slot.state.is_cull_pending


def _probe_flops(model: MorphogeneticModel, num_items: int) -> int:
    return train_flops(model.forward_flops, input_needs_grad=True, weights_frozen=True) * num_items


def _mixing_flops(wide: Regression, narrow: Regression) -> int:
    if narrow is wide:
        return 0
    num_samples, num_positions, width = wide.rows.shape
    return 2 * num_samples * num_positions * width * narrow.rows.shape[-1]
