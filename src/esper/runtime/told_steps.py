"""The steps of one host as they are told: what each decision was made from, and what it came to.

```
act      observe > policy > evidence > apply          DecisionMade, by the host run
settle   observe after the interval > reward          RewardGranted
finish   the same once the host has been concluded    RewardGranted of the last step
```
A run may be saved between the two; what its decision was made from is then a part of what is saved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from pydantic import TypeAdapter, ValidationError

from esper.leyline import (
    ActionResult,
    EventSink,
    ForeignCheckpointError,
    JsonValue,
    Observation,
    RewardGranted,
)
from esper.runtime.assemble import Assembly
from esper.runtime.experiment import ExperimentConfig
from esper.simic import RewardState, StepFacts, build_lone_reward
from esper.tamiyo import add_evidence

STEPS_KEY = "steps"
"""Where a checkpoint holds the state of this object."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStep:
    """A decision that was carried out and whose interval has not ended."""

    before: Observation
    result: ActionResult


@final
class ToldSteps:
    """Decides, acts and pays for one host.

    Example:
        steps.act()
        host_run.train_epoch()
        steps.settle(hub)
    """

    def __init__(self, config: ExperimentConfig, assembly: Assembly) -> None:
        """Start before the first step.

        Args:
            config: The experiment.
            assembly: Host and policy.
        """
        self._host_run, self._policy = assembly.host_run, assembly.policy
        self._is_observation_kept = config.telemetry.observations != "none"
        self._reward: RewardState = build_lone_reward(config.reward, discount=config.training.gamma)
        self._return = 0.0
        self._open: OpenStep | None = None

    def act(self) -> None:
        """Let the policy decide, and carry that out."""
        before = self._host_run.observe()
        decision = add_evidence(
            self._policy.decide(before), before, is_observation_kept=self._is_observation_kept
        )
        self._open = OpenStep(before=before, result=self._host_run.apply(decision))

    def settle(self, sink: EventSink) -> None:
        """Pay for the interval that has just ended; the last one waits for `finish`."""
        if not self._host_run.is_finished:
            self._pay(sink, is_last=False)

    def finish(self, sink: EventSink) -> None:
        """Pay for the last interval, after the seeds that were not kept have been removed.

        The metric is that of the interval, before they were.
        """
        self._pay(sink, is_last=True)

    def _pay(self, sink: EventSink, *, is_last: bool) -> None:
        step, self._open = self._open, None
        if step is None:  # the checkpoint that it began before is of an older version
            return
        facts = StepFacts(
            before=step.before,
            after=self._host_run.observe(),
            result=step.result,
            verdict=self._host_run.verdict,
            is_last=is_last,
            never_metric_before=0.0,
            never_metric_after=0.0,
        )
        paid = self._reward.compute(facts)
        self._return += paid.total
        sink.emit(
            RewardGranted(
                epoch=step.before.signals.epoch + 1,
                instance=self._host_run.instance,
                total=paid.total,
                parts=paid.terms,
                return_so_far=self._return,
            )
        )

    # ------------------------------------------------------------------ state

    def state(self) -> dict[str, JsonValue]:
        """Return what a resumed run pays on from, as plain data."""
        # As text, for an observation may hold numbers that are not finite, which a checkpoint refuses.
        step = None if self._open is None else json.dumps(_adapter().dump_python(self._open, mode="json"))
        return {"reward": self._reward.state(), "return": self._return, "open": step}

    def restore(self, state: Mapping[str, JsonValue] | None) -> None:
        """Put back what `state` returned; None: a checkpoint of an older version, which does not know.

        Raises:
            ForeignCheckpointError: If a field is missing or malformed, or it was paid for other terms.
        """
        self._reward.reset()
        self._return, self._open = 0.0, None
        match state:
            case None:
                return
            case {"reward": dict(reward), "return": int() | float() as paid, "open": str() | None as step}:
                pass
            case _:
                raise ForeignCheckpointError(f"saved steps: fields missing or malformed in {state!r:.200}")
        self._reward.restore(reward)
        try:
            self._open = None if step is None else _adapter().validate_python(json.loads(step))
        except (ValidationError, ValueError) as error:
            raise ForeignCheckpointError(f"saved steps: the open one cannot be read: {error}") from error
        self._return = float(paid)


def read_steps(state: Mapping[str, JsonValue]) -> Mapping[str, JsonValue] | None:
    """Return what a checkpoint of a run holds of its steps; None: it is of an older version.

    Raises:
        ForeignCheckpointError: If it is no table.
    """
    found = state.get(STEPS_KEY)
    if found is not None and not isinstance(found, Mapping):
        raise ForeignCheckpointError(f"saved steps: expected a table, got {found!r:.80}")
    return found


def _adapter() -> TypeAdapter[OpenStep]:
    return TypeAdapter(OpenStep)
