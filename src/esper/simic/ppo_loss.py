"""The terms of the PPO objective as pure functions of tensors, and the counts that they divide by.

Every mean is a sum over a mask divided by the count of that mask over ALL ranks, which is passed in: padding,
forced steps and unequal ranks change nothing. A count of 0 gives 0, never NaN. Where a mask is False whatever
stands there, NaN included, changes neither a value nor a gradient. Knows no network and no optimiser.

Shapes: R rows, T steps, H heads, O operations, S slots, B blueprints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from esper.simic.advantages import compute_gae, compute_next_values
from esper.simic.config import PPOConfig, TrainingConfig
from esper.simic.rollout_buffer import RolloutBatch
from esper.tamiyo import ActionLayout, PolicyInputs, SequenceEvaluation

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to this and counted: exp(20) is 4.9e8, far outside any trust region, and finite."""
_OP, _SLOT, _BLUEPRINT = "op", "slot", "blueprint"


class Surrogate(NamedTuple):
    """The policy term and what is told about it; sums are local, to be added over ranks."""

    loss: Tensor
    """[] -(clipped surrogate), local sum over the count of all ranks."""
    kl: Tensor
    """[] k3 estimate of KL(old, new) of the joint action (Schulman 2020), local sum over that count."""
    clip_fraction: Tensor
    """[] per step the share of its ratios outside the clip range, local sum over that count."""
    num_clamped: Tensor
    """[] log-ratios beyond `MAX_LOG_RATIO`."""
    max_ratio: Tensor
    """[] largest joint ratio; 0 without learnable steps."""


class SurrogateInputs(NamedTuple):
    """What the policy term depends on."""

    log_probs: Tensor
    """[R, T, H] of the stored actions under the present weights."""
    anchor: Tensor
    """[R, T, H] the same under the weights that the update started from."""
    active: Tensor
    """[R, T, H] bool: the operation uses the head."""
    advantage: Tensor
    """[R, T]."""
    learn: Tensor
    """[R, T] bool: real steps with a choice."""


def compute_surrogate(
    x: SurrogateInputs, num_learn: float, *, clip_range: float, clip_mode: str
) -> Surrogate:
    """Return the clipped surrogate of one minibatch.

    Joint: L = -(1/N) sum_t min(r_t A_t, clip(r_t, 1 - eps, 1 + eps) A_t) with r_t = exp(sum_h
    log-ratio_{t,h}). Per head: the same with r_{t,h}, summed over the active heads and divided by the SAME N:
    both modes then have one gradient where every ratio is 1.

    Args:
        x: Log-probabilities, advantages and masks.
        num_learn: N over all ranks.
        clip_range: eps.
        clip_mode: "joint" or "per_head".
    """
    used = x.active & x.learn[..., None]
    by_head = torch.where(used, x.log_probs - x.anchor, torch.zeros_like(x.log_probs))
    joint = by_head.sum(dim=-1, keepdim=True)
    is_joint = clip_mode == "joint"
    raw, counted = (joint, x.learn[..., None]) if is_joint else (by_head, used)
    ratio = raw.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    advantage = torch.where(x.learn, x.advantage, torch.zeros_like(x.advantage))[..., None]
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    gain = torch.where(
        counted, torch.minimum(ratio * advantage, clipped * advantage), torch.zeros_like(ratio)
    )
    divisor = _divisor(num_learn)
    with torch.no_grad():
        log_ratio = joint[..., 0].clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        k3 = torch.where(x.learn, torch.expm1(log_ratio) - log_ratio, torch.zeros_like(log_ratio))
        outside = (counted & ((ratio - 1.0).abs() > clip_range)).sum(dim=-1)
        outside_share = outside / counted.sum(dim=-1).clamp_min(1)
        clamped = (counted & (raw.abs() > MAX_LOG_RATIO)).sum()
        largest = torch.where(x.learn, log_ratio.exp(), torch.zeros_like(log_ratio)).max()
    return Surrogate(
        -gain.sum() / divisor, k3.sum() / divisor, outside_share.sum() / divisor, clamped, largest
    )


def compute_value_loss(
    values: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    total_weight: float,
    clip: float | None = None,
    anchor_values: Tensor | None = None,
) -> Tensor:
    """Return 0.5 * sum w (v - target)^2 / sum w, on the scale of the normalised return.

    Clipped: the larger of the loss of v and of the loss of anchor + clamp(v - anchor, -clip, clip).

    Args:
        values: [R, T] under the present weights.
        targets: [R, T] normalised returns.
        weights: [R, T], 0 where a step is not valid.
        total_weight: Sum of the weights over all ranks.
        clip: Width, in units of the normalised return; None = not clipped.
        anchor_values: [R, T] under the weights that the update started from.

    Raises:
        ValueError: If a clip has no anchor: values stored by the rollout have another scale once statistics
            of returns have moved, and other memories.
    """
    counted = weights > 0
    target = torch.where(counted, targets, torch.zeros_like(targets))
    value = torch.where(counted, values, torch.zeros_like(values))
    loss = (value - target).square()
    if clip is not None:
        if anchor_values is None:
            raise ValueError(
                "a clipped value loss needs the anchor's values: the rollout's are on another scale"
            )
        anchor = torch.where(counted, anchor_values, torch.zeros_like(anchor_values))
        near = anchor + (value - anchor).clamp(-clip, clip)
        loss = torch.maximum(loss, (near - target).square())
    return 0.5 * (weights * loss).sum() / _divisor(total_weight)


def compute_entropy_means(entropy: Tensor, learn: Tensor, num_learn: float) -> Tensor:
    """Return [H] nats: conditional entropy of each head, averaged over learnable steps.

    Args:
        entropy: [R, T, H] nats, weighted by how likely each condition is.
        learn: [R, T] bool.
        num_learn: Count over all ranks.
    """
    kept = torch.where(learn[..., None], entropy, torch.zeros_like(entropy))
    return kept.flatten(0, -2).sum(dim=0) / _divisor(num_learn)


def compute_entropy_shares(
    entropy: Tensor, ceiling: Tensor, available: Tensor, counts: Sequence[float]
) -> Tensor:
    """Return [H]: entropy over its ceiling, averaged over the steps where a head had a choice.

    Args:
        entropy: [R, T, H] nats.
        ceiling: [R, T, H] nats, see `compute_entropy_ceilings`.
        available: [R, T, H] bool: learnable and a ceiling above 0.
        counts: [H] available steps over all ranks.
    """
    return _mean_share(_share(entropy, ceiling, available), available, counts)


def compute_floor_penalties(
    entropy: Tensor, ceiling: Tensor, available: Tensor, counts: Sequence[float], floors: Sequence[float]
) -> Tensor:
    """Return [H]: max(0, floor - share)^2 per step, averaged over the steps where a head had a choice.

    Args:
        entropy: [R, T, H] nats.
        ceiling: [R, T, H] nats.
        available: [R, T, H] bool.
        counts: [H] available steps over all ranks.
        floors: [H] shares of the ceiling; 0 = no floor.
    """
    share = _share(entropy, ceiling, available)
    short = (torch.tensor(floors, dtype=share.dtype, device=share.device) - share).clamp_min(0.0)
    return _mean_share(short.square(), available, counts)


def _share(entropy: Tensor, ceiling: Tensor, available: Tensor) -> Tensor:
    kept = torch.where(available, entropy, torch.zeros_like(entropy))
    return kept / torch.where(available, ceiling, torch.ones_like(ceiling)).to(kept.dtype)


def _mean_share(share: Tensor, available: Tensor, counts: Sequence[float]) -> Tensor:
    kept = torch.where(available, share, torch.zeros_like(share)).flatten(0, -2).sum(dim=0)
    divisors = torch.tensor([_divisor(count) for count in counts], dtype=kept.dtype, device=kept.device)
    return kept / divisors


def compute_entropy_ceilings(layout: ActionLayout, inputs: PolicyInputs) -> Tensor:
    """Return [R, T, H] nats: the largest entropy that each head could have, 0 where it has no choice.

    The logarithm of the number of legal choices, taken under the legal condition (operation, slot) that
    offers most of them. For the operation it is exact; for other heads only a policy that always takes that
    condition reaches it.

    Args:
        layout: Heads and which operation uses which.
        inputs: "mask_op" [R, T, O], and where the layout has those heads "mask_slot" [R, T, O, S] and
            "mask_blueprint" [R, T, S, B], all bool.
    """
    op = inputs["mask_op"]
    sizes = {_OP: op.sum(dim=-1)}
    zero = torch.zeros_like(sizes[_OP])
    reachable = op[..., None]
    if _SLOT in layout.uses:
        reachable = inputs["mask_slot"] & op[..., None] & _uses(layout, _SLOT, op)[:, None]
        sizes[_SLOT] = reachable.sum(dim=-1).amax(dim=-1)
    if _BLUEPRINT in layout.uses:
        births = (reachable & _uses(layout, _BLUEPRINT, op)[:, None]).any(dim=-2)
        sizes[_BLUEPRINT] = torch.where(births, inputs["mask_blueprint"].sum(dim=-1), zero[..., None]).amax(
            dim=-1
        )
    for head, size in layout.argument_sizes.items():
        is_used = (op & _uses(layout, head, op)).any(dim=-1)
        sizes[head] = torch.where(is_used, zero + size, zero)
    options = torch.stack([sizes[head] for head in layout.heads], dim=-1)
    return options.clamp_min(1).float().log()


def _uses(layout: ActionLayout, head: str, like: Tensor) -> Tensor:
    return torch.tensor(layout.uses[head], device=like.device)


def build_targets(batch: RolloutBatch, layout: ActionLayout, config: TrainingConfig) -> LossTargets:
    """Return advantages and returns on the raw scale; what was sampled stands in for the anchor.

    Args:
        batch: The rollout.
        layout: Columns of its actions.
        config: Discount, lambda, and the weight of forced steps.
    """
    ceiling = compute_entropy_ceilings(layout, batch.inputs)
    next_value = compute_next_values(batch.value, batch.steps.truncated, batch.bootstrap)
    advantage, returns = compute_gae(
        batch.value, next_value, batch.steps, gamma=config.gamma, gae_lambda=config.gae_lambda
    )
    weights = torch.where(batch.learn, 1.0, config.ppo.forced_value_weight) * batch.steps.valid
    return LossTargets(
        anchor_log_probs=batch.log_probs,
        anchor_values=batch.value,
        advantage=advantage,
        returns=returns,
        weights=weights.to(returns.dtype),
        learn=batch.learn,
        ceiling=ceiling,
        available=batch.learn[..., None] & (ceiling > 0),
    )


def compute_row_columns(batch: RolloutBatch, layout: ActionLayout, targets: LossTargets) -> dict[str, Tensor]:
    """Return what is counted and summed per row before an update, by name, each [E, T].

    Args:
        batch: The rollout.
        layout: Names of operations and heads.
        targets: With raw advantages and returns.
    """
    valid, learn, op = batch.steps.valid, batch.learn, batch.actions[..., 0]
    columns = {"learn": learn, "valid": valid, "changed_masks": batch.find_changed_masks()}
    columns |= {f"available/{head}": targets.available[..., k] for k, head in enumerate(layout.heads)}
    columns |= {f"op/{name}": learn & (op == k) for k, name in enumerate(layout.op_names)}
    sums = {
        "weight": (targets.weights, valid),
        "advantage": (targets.advantage, learn),
        "return": (targets.returns, valid),
        "value": (batch.value, valid),
        "residual": (targets.returns - batch.value, valid),
    }
    return columns | {name: torch.where(mask, x, torch.zeros_like(x)) for name, (x, mask) in sums.items()}


SQUARED_COLUMNS = ("advantage", "return", "value", "residual")
"""Columns of which the squares are summed as well."""


class LossTargets(NamedTuple):
    """What one minibatch is scored against; every tensor is [R, T] or [R, T, H]."""

    anchor_log_probs: Tensor
    """[R, T, H] under the weights that the update started from."""
    anchor_values: Tensor
    """[R, T] normalised, under those weights."""
    advantage: Tensor
    """[R, T]."""
    returns: Tensor
    """[R, T] normalised."""
    weights: Tensor
    """[R, T] of the value loss."""
    learn: Tensor
    """[R, T] bool."""
    ceiling: Tensor
    """[R, T, H] nats."""
    available: Tensor
    """[R, T, H] bool: learnable, and the head has a choice."""

    def select(self, rows: Tensor) -> LossTargets:
        """Return copies of some rows."""
        return LossTargets(*(tensor[rows] for tensor in self))

    def muted(self) -> LossTargets:
        """Return the same rows with weight 0: nothing of them is learned or counted."""
        zeros = {name: torch.zeros_like(getattr(self, name)) for name in ("weights", "learn", "available")}
        return self._replace(**zeros)


class LossCoefs(NamedTuple):
    """Settings of one update."""

    ppo: PPOConfig
    entropy: Mapping[str, float]
    """Head -> coefficient per nat."""
    floors: Mapping[str, float]
    """Head -> floor as a share of the ceiling; a head without one is not penalised."""
    floor_coef: float


class Loss(NamedTuple):
    """The objective of one minibatch, and what is told about it."""

    total: Tensor
    """[] to be minimised."""
    numbers: Mapping[str, Tensor]
    """Name -> [], see `compute_loss`; local sums over the counts of all ranks."""
    max_ratio: Tensor
    """[] of this rank."""


TERMS = ("policy", "value", "entropy", "floors")


def compute_loss(
    scored: SequenceEvaluation, x: LossTargets, counts: Mapping[str, float], coefs: LossCoefs
) -> Loss:
    """Return L = L_policy + vf_coef L_value - sum_h c_h H_h + floor_coef sum_h penalty_h.

    `numbers` holds each of `TERMS`, "bad/<term>" (1 where it is not finite on this rank), "loss", "kl",
    "clip", "clamped", and "entropy_share/<head>" of each head that had a choice anywhere.

    Args:
        scored: The rows under the present weights.
        x: What they are scored against.
        counts: Over all ranks: "learn", "weight", and "available/<head>" for each head.
        coefs: Settings; its entropy coefficients name every head, in the order of the columns.
    """
    heads = tuple(coefs.entropy)
    surrogate = compute_surrogate(
        SurrogateInputs(scored.log_probs, x.anchor_log_probs, scored.active, x.advantage, x.learn),
        counts["learn"],
        clip_range=coefs.ppo.clip_range,
        clip_mode=coefs.ppo.clip_mode,
    )
    value = compute_value_loss(
        scored.values,
        x.returns,
        x.weights,
        total_weight=counts["weight"],
        clip=coefs.ppo.value_clip,
        anchor_values=x.anchor_values,
    )
    entropies = compute_entropy_means(scored.entropy, x.learn, counts["learn"])
    bonus = (entropies * entropies.new_tensor([coefs.entropy[head] for head in heads])).sum()
    spread = scored.entropy, x.ceiling, x.available, [counts[f"available/{head}"] for head in heads]
    penalties = compute_floor_penalties(*spread, [coefs.floors.get(head, 0.0) for head in heads])
    floors = coefs.floor_coef * penalties.sum()
    total = surrogate.loss + coefs.ppo.vf_coef * value - bonus + floors
    numbers = dict(zip(TERMS, (surrogate.loss, value, entropies.sum(), floors), strict=True))
    numbers |= {f"bad/{term}": ~torch.isfinite(number) for term, number in numbers.items()}
    numbers |= {"loss": total, "kl": surrogate.kl, "clip": surrogate.clip_fraction}
    numbers["clamped"] = surrogate.num_clamped
    with torch.no_grad():
        shares = compute_entropy_shares(*spread)
    numbers |= {
        f"entropy_share/{head}": shares[k] for k, head in enumerate(heads) if counts[f"available/{head}"] > 0
    }
    return Loss(total, numbers, surrogate.max_ratio)


def compute_zero(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return 0 that depends on every parameter, so that each of them gets a gradient on every rank."""
    return torch.stack([parameter.sum() * 0.0 for parameter in parameters]).sum()


def _divisor(count: float) -> float:
    return count if count > 0 else 1.0
