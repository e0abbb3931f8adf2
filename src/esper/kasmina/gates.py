"""The quality gates G0 to G5: pure functions of a seed's record. They refuse or allow; they decide nothing.

```
DORMANT -G0-> GERMINATED -G1-> TRAINING -G2-> BLENDING -G3-> PROBATIONARY -G4 and G5-> FOSSILIZED
```
Every gate lists what passed, what failed and the numbers it looked at. No gate uses the host's own
improvement as evidence about a seed: a host improves without it, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import final

from esper.kasmina.config import GateConfig
from esper.kasmina.seed_state import SeedState
from esper.leyline import SeedStage

_ALPHA_TOLERANCE = 1e-6


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """A gate's answer."""

    gate: str
    """"G0" ... "G5"."""
    passed: tuple[str, ...]
    """Names of the checks that passed."""
    failed: tuple[str, ...]
    """Checks that failed, each with its numbers."""
    measured: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_passed(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def score(self) -> float:
        """Share of the checks that passed, in [0, 1]."""
        total = len(self.passed) + len(self.failed)
        return len(self.passed) / total if total else 1.0

    @property
    def reason(self) -> str | None:
        """The failed checks in one line, or None."""
        return f"{self.gate}: " + "; ".join(self.failed) if self.failed else None


@final
class QualityGates:
    """The six gates with their thresholds; `keep_threshold` is the task's, unless the config has its own."""

    def __init__(self, config: GateConfig, *, keep_threshold: float) -> None:
        """Bind thresholds.

        Args:
            config: Thresholds.
            keep_threshold: The task's smallest contribution worth keeping, in gate-metric units.
        """
        self.config = config
        self.keep_threshold = keep_threshold if config.keep_threshold is None else config.keep_threshold

    def check_germination(self, state: SeedState, *, fits: bool) -> GateResult:
        """G0: the slot is empty and the blueprint fits its layout (the shape probe passed)."""
        return _collect(
            "G0",
            {
                "slot is dormant": (state.stage is SeedStage.DORMANT, lambda: state.stage.value),
                "blueprint fits": (fits, lambda: "the blueprint does not fit this slot"),
            },
        )

    def check_training(self, state: SeedState) -> GateResult:
        """G1: the seed is germinated and every parameter of it has an optimiser entry."""
        return _collect(
            "G1",
            {
                "stage is GERMINATED": (state.stage is SeedStage.GERMINATED, lambda: state.stage.value),
                "optimiser entries": (
                    state.has_optimizer_entries,
                    lambda: "the optimiser does not know the seed",
                ),
            },
        )

    def check_blending(self, state: SeedState) -> GateResult:
        """G2: incubated long enough, gradients seen and finite, and evidence that the seed learns.

        Evidence is a positive shadow gain on validation, or, while none is measured, a gradient ratio above
        the floor.
        """
        config = self.config
        gain = None if state.shadow_gain is None else state.shadow_gain.mean
        ratio = state.gradient_ratio
        has_evidence = gain > 0.0 if gain is not None else (ratio or 0.0) >= config.min_gradient_ratio
        return _collect(
            "G2",
            {
                "stage is TRAINING": (state.stage is SeedStage.TRAINING, lambda: state.stage.value),
                "incubated": (
                    state.epochs_in_stage >= config.min_incubation_epochs,
                    lambda: f"{state.epochs_in_stage} epochs incubated, needs {config.min_incubation_epochs}",
                ),
                "gradients measured": (ratio is not None, lambda: "no gradient was measured yet"),
                "gradients finite": (state.has_finite_gradients, lambda: "a gradient was not finite"),
                "evidence": (
                    has_evidence or not config.is_evidence_required,
                    lambda: f"shadow gain {_show(gain)}, gradient ratio {_show(ratio)}",
                ),
            },
            {"shadow_gain": gain, "gradient_ratio": ratio},
        )

    def check_probation(self, state: SeedState) -> GateResult:
        """G3: alpha has reached 1 and rests there."""
        return _collect(
            "G3",
            {
                "stage is BLENDING": (state.stage is SeedStage.BLENDING, lambda: state.stage.value),
                "full amplitude": (
                    abs(state.alpha - 1.0) <= _ALPHA_TOLERANCE and state.ramp is None,
                    lambda: f"alpha {state.alpha:.3f} of 1, {'ramping' if state.ramp else 'at rest'}",
                ),
            },
            {"alpha": state.alpha},
        )

    def check_stability(self, state: SeedState) -> GateResult:
        """G4: probation lasted, was measured, saw no rollback, and the metric did not fall."""
        config = self.config
        drop = 0.0
        if state.metric_now is not None and state.metric_at_stage_start is not None:
            drop = state.metric_at_stage_start - state.metric_now
        return _collect(
            "G4",
            {
                "stage is PROBATIONARY": (state.stage is SeedStage.PROBATIONARY, lambda: state.stage.value),
                "lasted": (
                    state.epochs_in_stage >= config.min_probation_epochs,
                    lambda: (
                        f"{state.epochs_in_stage} epochs on probation, needs {config.min_probation_epochs}"
                    ),
                ),
                "measured": (
                    state.num_measurements >= config.min_measurements,
                    lambda: f"{state.num_measurements} measurements, needs {config.min_measurements}",
                ),
                "no rollback": (not state.had_governor_event, lambda: "a rollback happened on probation"),
                "metric held": (
                    drop <= config.max_metric_drop,
                    lambda: f"metric fell by {drop:.4f}, at most {config.max_metric_drop:.4f}",
                ),
                "full amplitude": (
                    abs(state.alpha - 1.0) <= _ALPHA_TOLERANCE and state.ramp is None,
                    lambda: f"alpha {state.alpha:.3f} of 1",
                ),
            },
            {"metric_drop": drop},
        )

    def check_fossilization(self, state: SeedState) -> GateResult:
        """G5: a fresh contribution that exceeds its error and the threshold, with credit, in good health.

        Keep needs mean - k s.e. > 0 and mean >= threshold; in between, wait and pool more intervals.
        """
        config, estimate, credit = self.config, state.contribution, state.credit
        age, oldest = state.contribution_age_epochs, config.max_contribution_age_epochs
        is_required = config.is_evidence_required
        mean = None if estimate is None else estimate.mean
        lower = None if estimate is None else estimate.lower(config.keep_errors)
        return _collect(
            "G5",
            {
                "fresh": (
                    age is not None and age <= oldest,
                    lambda: f"contribution is {_show(age)} epochs old, at most {oldest}",
                ),
                "above its error": (
                    not is_required or (lower is not None and lower > 0.0),
                    lambda: f"contribution {_show(mean)} less {config.keep_errors:g} s.e. is {_show(lower)}",
                ),
                "above threshold": (
                    not is_required or (mean is not None and mean >= self.keep_threshold),
                    lambda: f"contribution {_show(mean)}, needs {self.keep_threshold:.4g}",
                ),
                "credit": (
                    not is_required or (credit is not None and credit > 0.0),
                    lambda: f"credit {_show(credit)}, needs > 0",
                ),
                "healthy": (state.is_healthy, lambda: f"{state.num_skipped_batches} skipped batches"),
            },
            {"contribution": mean, "lower": lower, "credit": credit},
        )

    def refuse_advance(self, state: SeedState) -> str | None:
        """Return why ADVANCE would be refused from the present stage, or None."""
        if state.stage is SeedStage.GERMINATED:
            return self.check_training(state).reason
        if state.stage is SeedStage.TRAINING:
            return self.check_blending(state).reason
        if state.stage is SeedStage.BLENDING:
            return self.check_probation(state).reason
        return f"nothing advances from {state.stage.value}"

    def refuse_fossilize(self, state: SeedState) -> str | None:
        """Return why FOSSILIZE would be refused now (G4, then G5), or None."""
        if state.stage is not SeedStage.PROBATIONARY:
            return f"nothing is kept from {state.stage.value}"
        return self.check_stability(state).reason or self.check_fossilization(state).reason


def _collect(
    gate: str,
    checks: Mapping[str, tuple[bool, Callable[[], str]]],
    measured: Mapping[str, float | None] | None = None,
) -> GateResult:
    """Gather the checks of a gate; why one failed is put into words only if it did."""
    numbers = {name: value for name, value in (measured or {}).items() if value is not None}
    return GateResult(
        gate=gate,
        passed=tuple(name for name, (is_ok, _) in checks.items() if is_ok),
        failed=tuple(f"{name} ({tell()})" for name, (is_ok, tell) in checks.items() if not is_ok),
        measured=numbers,
    )


def _show(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"
