"""The learner: one rollout in, a better policy out (Schulman et al. 2017, with whole rows as sequences).

```
update -> advantages, returns -> counts of all rows -> statistics of returns move, critic follows
       -> anchor: old log-probabilities, recomputed at the present weights
       -> epochs -> minibatches of whole rows: score, backward, reduce, clip, decide together, step
```
Every decision around an optimiser step (skip, stop) is taken from numbers summed over all ranks, so that no
rank goes its own way. Numbers leave the device once per minibatch, in one piece, because that decision needs
them. Knows no environment and no process group: ranks come in as a `Collective` and a function over
gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from esper.leyline import Collective, ForeignCheckpointError, JsonValue, SingleProcess, UnknownNameError
from esper.simic.advantages import RowTable, choose_normalization, compute_normalization
from esper.simic.anomalies import (
    GRADIENT,
    MinibatchOutcome,
    compute_allowed_drift,
    compute_drift,
    describe_minibatches,
    describe_rollout,
)
from esper.simic.config import TrainingConfig
from esper.simic.interfaces import ActorCritic
from esper.simic.minibatches import plan_minibatches
from esper.simic.normalizers import InputNormalizer, ValueNormalizer, scalar_moments
from esper.simic.ppo_loss import (
    SQUARED_COLUMNS,
    TERMS,
    Loss,
    LossCoefs,
    LossTargets,
    build_targets,
    compute_loss,
    compute_row_columns,
    compute_zero,
)
from esper.simic.rollout_buffer import RolloutBatch
from esper.simic.schedules import compute_entropy_coefs, compute_floor_coef, compute_learning_rate
from esper.tamiyo import Memory, PolicyInputs, SequenceEvaluation
from esper.tolaria import Autocast, StateRecord

KL_FACTOR = 1.5
"""An update ends at this multiple of the target divergence."""
_ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")

GradientReduction = Callable[[Sequence[nn.Parameter]], None]
"""Replaces every `.grad` by its mean over the ranks, in place."""
_Evaluate = Callable[[PolicyInputs, Tensor, Memory, Tensor], SequenceEvaluation]


def keep_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Do nothing: the gradients of one process are their own mean."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerParts:
    """What a learner is made of."""

    network: ActorCritic
    """An `nn.Module`, on the device where it shall learn."""
    config: TrainingConfig
    seed: int
    """Of the order of rows, in [0, 2**63)."""
    collective: Collective = field(default_factory=SingleProcess)
    """Ranks that learn the same policy."""
    reduce_gradients: GradientReduction = keep_gradients
    """Called once per minibatch on every rank, with all trainable parameters."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateReport:
    """What one update did.

    Example:
        UpdateReport(metrics={"train/approx_kl": 0.004}, num_steps=4, is_stopped=False)
    """

    metrics: Mapping[str, float]
    """By the names of `anomalies.METRIC_TABLE`; what could not be known is absent."""
    num_steps: int
    """Optimiser steps executed."""
    is_stopped: bool
    """The divergence ended the update."""


class _Work(NamedTuple):
    """One rollout, prepared: everything that stays the same over the epochs."""

    batch: RolloutBatch
    targets: LossTargets
    coefs: LossCoefs
    table: RowTable
    normalization: tuple[float, float] | None
    """Of advantages, over the rollout; None = each minibatch its own."""


@final
class PPOLearner:
    """Improves a network on rollouts.

    Example:
        learner = PPOLearner(LearnerParts(network=network, config=TrainingConfig(), seed=0))
        learner.update(rollout.batch).metrics["train/approx_kl"]
    """

    def __init__(self, parts: LearnerParts) -> None:
        """Take the network over.

        Raises:
            TypeError: If the network is not an `nn.Module`.
            UnknownNameError: If the entropy settings name a head that the network lacks.
        """
        network, config = parts.network, parts.config
        if not isinstance(network, nn.Module):
            raise TypeError(f"network is a {type(network).__name__}: the learner needs an nn.Module")
        for head in config.entropy.named_heads - set(network.layout.heads):
            raise UnknownNameError("head of the action", head, network.layout.heads)
        self._network: ActorCritic = network
        self._module: nn.Module = network
        self._config, self._collective = config, parts.collective
        self._reduce = parts.reduce_gradients
        self._named = {name: p for name, p in self._module.named_parameters() if p.requires_grad}
        self._parameters = list(self._named.values())
        self._device = self._parameters[0].device
        self._optimizer = _build_optimizer(self._parameters, config, self._device)
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=config.amp == "fp16")
        self._generator = torch.Generator().manual_seed(parts.seed)
        self._evaluate = _build_evaluate(network, config.compile)
        self._update_index = 0
        self._num_steps = 0
        kept = config.normalization
        self.autocast = Autocast(self._device, config.amp)
        self.value_normalizer = ValueNormalizer(kept.value_norm, beta=kept.value_beta)
        self.input_normalizer = InputNormalizer(kept.inputs, bound=kept.input_bound)

    @property
    def update_index(self) -> int:
        """Updates that moved the weights; the schedules' clock."""
        return self._update_index

    @property
    def learning_rate(self) -> float:
        """Of the next update."""
        config = self._config
        return compute_learning_rate(
            self._update_index, config.num_updates, config.ppo.learning_rate, config.schedule
        )

    def update(self, batch: RolloutBatch) -> UpdateReport:
        """Learn from one rollout; every rank must call it with its own rows.

        An update in which no step was executed (all were skipped) does not advance the schedules.

        Raises:
            ConfigError: If there are more minibatches than rows, or one step in all and a `target_kl`.
            RuntimeError: If masks changed between sampling and update.
        """
        ppo = self._config.ppo
        plan = plan_minibatches(ppo, batch.num_rows, self._collective)
        rate = self.learning_rate
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        groups = plan.draw(self._generator)
        work, metrics = self._prepare(batch, groups)
        outcomes: list[MinibatchOutcome] = []
        for epoch in range(ppo.epochs):
            if epoch > 0:
                groups = plan.draw(self._generator)
            outcomes += self._run_epoch(work, groups)
            if outcomes[-1].is_over:
                break
        self.input_normalizer.apply_update(self._collective)
        num_steps = sum(outcome.is_executed for outcome in outcomes)
        self._num_steps += num_steps
        self._update_index += num_steps > 0
        metrics |= describe_minibatches(outcomes) | {"train/n_updates": float(self._num_steps)}
        metrics |= {"train/learning_rate": rate, "train/clip_range": ppo.clip_range}
        ratio = self._collective.all_max([max(outcome.max_ratio for outcome in outcomes)])[0]
        metrics |= {"train/ratio_max": ratio} if ratio > 0 else {}
        return UpdateReport(metrics=metrics, num_steps=num_steps, is_stopped=outcomes[-1].is_over)

    # ------------------------------------------------------------------ before the epochs

    def _prepare(self, batch: RolloutBatch, groups: list[list[int]]) -> tuple[_Work, dict[str, float]]:
        config, layout = self._config, self._network.layout
        raw = build_targets(batch, layout, config)
        columns = compute_row_columns(batch, layout, raw)
        table = RowTable(columns, self._collective, squared=SQUARED_COLUMNS)
        totals = table.totals(is_ordered=config.is_sum_ordered)
        if totals["changed_masks"] > 0:
            raise RuntimeError(
                f"{totals['changed_masks']:.0f} stored steps have other masks than were sampled with: "
                "somebody wrote into the rollout after it was collected"
            )
        moments = scalar_moments(totals["valid"], totals["return"], totals["return_squares"])
        self.value_normalizer.apply_update(moments, self._network.value_layer)
        log_probs, values = self._compute_anchor(batch, groups)
        targets = raw._replace(
            anchor_log_probs=log_probs,
            anchor_values=values,
            returns=self.value_normalizer.normalize(raw.returns),
        )
        normalization = choose_normalization(
            config.ppo.advantage_norm, totals, return_scale=self.value_normalizer.std
        )
        work = _Work(batch, targets, self._build_coefs(), table, normalization)
        drift = compute_drift(batch.log_probs, log_probs, batch.learn)
        metrics = describe_rollout(totals) | {"train/anchor_drift": self._collective.all_max([drift])[0]}
        metrics["train/anchor_drift_allowed"] = compute_allowed_drift(
            amp=config.amp, device_type=self._device.type, is_double=log_probs.dtype is torch.float64
        )
        return work, metrics

    def _build_coefs(self) -> LossCoefs:
        config, at = self._config, (self._update_index, self._config.num_updates)
        return LossCoefs(
            ppo=config.ppo,
            entropy=compute_entropy_coefs(*at, self._network.layout.heads, config.entropy),
            floors=config.entropy.floors.given,
            floor_coef=compute_floor_coef(*at, config.entropy),
        )

    def _compute_anchor(self, batch: RolloutBatch, groups: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Score the rollout at the present weights, in the very minibatches of the first epoch."""
        log_probs, values = torch.zeros_like(batch.log_probs), torch.zeros_like(batch.value)
        for group in filter(None, groups):
            rows = torch.tensor(group, device=self._device)
            with torch.no_grad():
                scored = self._score(batch.select(rows))
            log_probs[rows] = scored.log_probs
            values[rows] = scored.values
        return log_probs, values

    def _score(self, batch: RolloutBatch) -> SequenceEvaluation:
        # A context per pass: casts of weights made without gradients must not be found by the next pass.
        with self.autocast.context():
            return self._evaluate(batch.inputs, batch.actions, batch.memory, batch.steps.episode_start)

    # ------------------------------------------------------------------ one epoch, one minibatch

    def _run_epoch(self, work: _Work, groups: list[list[int]]) -> list[MinibatchOutcome]:
        outcomes = []
        for group, counts in zip(groups, work.table.group_totals(groups), strict=True):
            outcomes.append(self._run_minibatch(work, group, counts))
            if outcomes[-1].is_over:
                break
        return outcomes

    def _run_minibatch(self, work: _Work, group: list[int], counts: Mapping[str, float]) -> MinibatchOutcome:
        mean, divisor = work.normalization or compute_normalization(counts)
        # A rank without a row in this minibatch takes part with one that counts for nothing.
        rows = torch.tensor(group or [0], device=self._device)
        targets = work.targets.select(rows) if group else work.targets.select(rows).muted()
        targets = targets._replace(advantage=(targets.advantage - mean) / divisor)
        loss = compute_loss(self._score(work.batch.select(rows)), targets, counts, work.coefs)
        self._optimizer.zero_grad(set_to_none=True)
        # The loss is a local sum over the counts of all ranks, and the reduction a mean over ranks: hence the
        # factor. Together they weigh each rank's own mean by world * n_local / n_total.
        total = (loss.total + compute_zero(self._parameters)) * self._collective.world_size
        torch.autograd.backward(self._scaler.scale(total))
        self._reduce(self._parameters)
        if self._scaler.is_enabled():
            self._scaler.unscale_(self._optimizer)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._config.ppo.max_grad_norm)
        outcome = self._decide(loss, norm)
        if outcome.is_executed:
            self._scaler.step(self._optimizer)
        if self._scaler.is_enabled():
            self._scaler.update()
        return outcome

    def _decide(self, loss: Loss, norm: Tensor) -> MinibatchOutcome:
        """Read this rank's numbers, add those of the others, and say what happens to the step."""
        numbers = [*loss.numbers.values(), norm / self._collective.world_size, loss.max_ratio]
        read = torch.stack([number.detach().to(norm.dtype) for number in numbers])
        *local, max_ratio = read.tolist()  # sync: one per minibatch
        total = dict(zip((*loss.numbers, "grad_norm"), self._collective.all_sum(local), strict=True))
        bad = next((term for term in TERMS if total[f"bad/{term}"] > 0), None)
        if bad is None and not math.isfinite(total["grad_norm"]):
            bad = GRADIENT
        target = self._config.ppo.target_kl
        is_over = bad is None and target > 0 and total["kl"] > KL_FACTOR * target
        return MinibatchOutcome(total, max_ratio, bad, is_over)

    # ------------------------------------------------------------------ state

    def state(self) -> StateRecord:
        """Return copies of everything that learning goes on from, the network's weights included."""
        tensors = {f"network.{name}": x.detach().clone() for name, x in self._module.state_dict().items()}
        tensors["generator"] = self._generator.get_state()
        for name, parameter in self._named.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}/{key}"] = value.detach().clone()
        state: dict[str, JsonValue] = {
            "update_index": self._update_index,
            "num_steps": self._num_steps,
            "values": self.value_normalizer.state(),
            "inputs": self.input_normalizer.state(),
            "scaler": self._scaler.state_dict(),
        }
        return StateRecord(tensors=tensors, state=state)

    def restore(self, record: StateRecord) -> None:
        """Put back what `state` returned.

        Raises:
            ForeignCheckpointError: If it was saved for another network or with other settings.
        """
        keys = ("values", "inputs", "scaler", "update_index", "num_steps")
        moments = self._read_optimizer(record.tensors)
        match [*map(record.state.get, keys), record.tensors.get("generator")]:
            case [
                Mapping() as v,
                Mapping() as x,
                Mapping() as scaler,
                int(index),
                int(steps),
                Tensor() as rng,
            ]:
                self._load_weights(record.tensors)
                self.value_normalizer.restore(v)
                self.input_normalizer.restore(x)
                self._load_scaler(scaler)
                self._update_index, self._num_steps = index, steps
                self._generator.set_state(rng)
            case _:
                raise ForeignCheckpointError(f"saved learner lacks one of {keys} or its random stream")
        self._optimizer.state.clear()
        for parameter, saved in moments:
            self._optimizer.state[parameter] = saved

    def _read_optimizer(self, tensors: Mapping[str, Tensor]) -> list[tuple[nn.Parameter, dict[str, Tensor]]]:
        """Return each parameter's saved moments, where the update expects them; nothing is changed."""
        is_fused = bool(self._optimizer.defaults["fused"])
        found = []
        for name, parameter in self._named.items():
            saved = {key: tensors.get(f"optimizer.{name}/{key}") for key in _ADAM_STATE}
            present = {key: x for key, x in saved.items() if x is not None}
            if not present:
                continue
            if len(present) < len(_ADAM_STATE) or present["exp_avg"].shape != parameter.shape:
                raise ForeignCheckpointError(
                    f"saved optimiser state of {name!r} is incomplete or of another shape"
                )
            # Only fused kernels keep the step count on the device.
            places = {key: "cpu" if key == "step" and not is_fused else self._device for key in present}
            found.append((parameter, {key: x.to(places[key], copy=True) for key, x in present.items()}))
        return found

    def _load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        prefix = "network."
        weights = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
        try:
            self._module.load_state_dict(weights)
        except RuntimeError as error:
            raise ForeignCheckpointError(f"saved network does not fit this one: {error}") from error

    def _load_scaler(self, saved: Mapping[str, JsonValue]) -> None:
        if bool(saved) is not self._scaler.is_enabled():
            raise ForeignCheckpointError(
                f"saved with{'' if saved else 'out'} a loss scale, this run has amp={self._config.amp!r}: "
                "resume with the precision that the run was started with"
            )
        self._scaler.load_state_dict(dict(saved))


def _build_optimizer(
    parameters: list[nn.Parameter], config: TrainingConfig, device: torch.device
) -> torch.optim.Adam:
    is_fused = config.ppo.is_fused_optimizer
    is_fused = device.type == "cuda" if is_fused is None else is_fused
    rate, eps = config.ppo.learning_rate, config.ppo.adam_eps
    # Not fused, all tensors at once: the same arithmetic as one after another, without a Python loop.
    return torch.optim.Adam(parameters, lr=rate, eps=eps, fused=is_fused, foreach=not is_fused)


def _build_evaluate(network: ActorCritic, mode: str) -> _Evaluate:
    """Return how stored rows are scored: compiled for this network alone, or as it is."""
    if mode == "none":
        return network.evaluate
    compiled: _Evaluate = torch.compile(network.evaluate, mode=mode)
    return compiled
