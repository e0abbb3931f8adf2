"""What is told of the steps of growing hosts: the decision, what it was made from, and what it was paid.

```
inputs, choice, value, valid  +  GrowthRolloutEnv.taken  ->  one table per real step, {"decision", "reward"}
```
Nothing is encoded or decided again: features and masks are those that the policy was given, probabilities
those that it drew from. The tables hold the fields of `DecisionMade` and `RewardGranted`, as plain data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol, final

import torch
from torch import Tensor

from esper.leyline import ActionResult, JsonValue, Observation
from esper.simic.carry_rows import ToldStep
from esper.tamiyo import (
    PolicyInputs,
    PolicyStep,
    count_options,
    describe_features,
    describe_legal,
    list_used_heads,
    round_number,
)


class TakenStep(NamedTuple):
    """What the environment knows of a step that one of its rows has just taken."""

    env_id: int
    instance: int
    before: Observation
    """What was decided from."""
    result: ActionResult
    reward: float
    terms: Mapping[str, float]
    return_so_far: float
    """Of the episode, this step included."""


class TakingEnv(Protocol):
    """An environment of growing hosts that says what its last step was; `GrowthRolloutEnv` is one."""

    @property
    def taken(self) -> tuple[TakenStep | None, ...]:
        """[E] the last step of each row; None where there was no real one."""


@final
class DecisionRecorder:
    """Tells of the steps of one environment.

    Example:
        DecisionRecorder(env, observations="first")(inputs, choice, value, valid)
    """

    def __init__(self, env: TakingEnv, *, observations: str) -> None:
        """Bind it.

        Args:
            env: Asked after each of its steps.
            observations: Of which environments features are told: "all", "first" (number 0) or "none".
        """
        self._env, self._observations = env, observations

    def __call__(
        self, inputs: PolicyInputs, choice: PolicyStep, value: Tensor, valid: Tensor
    ) -> list[ToldStep | None]:
        """Return [E] what is told of the step just taken; None where it was not a real one.

        Args:
            inputs: [E, ...] what was decided from, as the environment gave it, on the CPU.
            choice: What was decided.
            value: [E] raw scale.
            valid: [E] bool, on the CPU.
        """
        joint = choice.log_probs.sum(dim=-1).exp()
        columns = torch.cat([value[:, None], joint[:, None], *choice.shown.values()], dim=1)
        numbers = columns.cpu().tolist()  # sync: one copy of everything that is told
        sizes = {head: tensor.shape[1] for head, tensor in choice.shown.items()}
        return [
            self._tell(taken, inputs, row, numbers[row], sizes) if taken is not None and is_valid else None
            for row, (taken, is_valid) in enumerate(zip(self._env.taken, valid.tolist(), strict=True))
        ]

    def _tell(
        self, taken: TakenStep, inputs: PolicyInputs, row: int, numbers: list[float], sizes: Mapping[str, int]
    ) -> ToldStep:
        before, action = taken.before, taken.result.requested
        value, joint, *shown = numbers
        is_observed = self._observations == "all" or (self._observations == "first" and taken.env_id == 0)
        legal = describe_legal(inputs, row, action, before.space)
        common: dict[str, JsonValue] = {"instance": taken.instance, "env_id": taken.env_id}
        decision: dict[str, JsonValue] = {
            "epoch": before.signals.epoch,
            "op": action.op.value,
            "slot": action.slot,
            "blueprint": action.blueprint,
            "reason": "learned",
            "confidence": _round(min(joint, 1.0)) or 0.0,
            "refusal": taken.result.refusal,
            "value": _round(value),
            "probabilities": _name_probabilities(shown, sizes, before, list_used_heads(action)),
            "blend": action.blend.value,
            "curve": action.curve.value,
            "tempo_epochs": action.tempo_epochs,
            "alpha_target": action.alpha_target,
            "observation": describe_features(inputs, row, before.space.slot_ids) if is_observed else {},
            "legal": {head: list(mask) for head, mask in legal.items()},
        }
        reward: dict[str, JsonValue] = {
            "epoch": before.signals.epoch + 1,
            "total": taken.reward,
            "parts": dict(taken.terms),
            "return_so_far": taken.return_so_far,
        }
        return {"decision": decision | common, "reward": reward | common}


def _round(number: float) -> float | None:
    """Return a number for reading; None if it is not finite, which a checkpoint could not hold."""
    return round_number(number) if math.isfinite(number) else None


def _name_probabilities(
    shown: list[float], sizes: Mapping[str, int], before: Observation, used: tuple[str, ...]
) -> dict[str, JsonValue]:
    """Return head -> probabilities of the host's own options; empty where one is not finite."""
    if not all(map(math.isfinite, shown)):
        return {}
    found: dict[str, JsonValue] = {}
    counts, start = count_options(before.space), 0
    for head, size in sizes.items():
        if head in used:
            own = shown[start : start + min(size, counts[head])]
            found[head] = [round_number(number) for number in own]
        start += size
    return found
