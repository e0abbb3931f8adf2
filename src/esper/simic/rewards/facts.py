"""What a reward may look at: one step of one host, before and after. Never the test split, never a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from esper.leyline import ActionResult, Observation, Verdict


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StepFacts:
    """One policy step: act, train, validate, observe; the reward is computed after all of them."""

    before: Observation
    """What the policy decided from."""
    after: Observation
    """After the interval that the action caused; on the last step after the seeds that were not kept have
    been removed, with the metric of the network that leaves."""
    result: ActionResult
    """What was asked for and what was done; an illegal action counts as WAIT."""
    verdict: Verdict
    """The governor's judgement of the interval."""
    is_last: bool
    """The episode ends with this step, at the horizon or by failure; a cut from outside does not count."""
    never_metric_before: float
    """Validation metric of the same host that never grows, at the same interval as `before`; 0 at the start,
    where the metric of `before` counts as 0, too."""
    never_metric_after: float
    """The same at the interval of `after`; at the horizon where the episode ends, even if the host failed
    before it: a failed host is compared with what it could have become."""

    @property
    def is_failure(self) -> bool:
        """Whether the governor ended the episode."""
        return self.verdict.is_failure
