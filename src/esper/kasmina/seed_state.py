"""Everything that is remembered about one slot and the seed in it, as plain data.

Only `lifecycle` writes `stage`; the rest is written by the slot, the lifecycle and what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import final

from esper.kasmina.blending import AlphaRamp
from esper.leyline import AlphaCurve, BlendForm, Estimate, JsonValue, SeedStage, UnknownNameError

_HISTORY_LIMIT = 100
_VELOCITY_MEMORY = 0.7


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SlotScores:
    """What a scorer found at one slot; None = not asked, or not defined there."""

    gradient_energy: float
    """E|dL/dh|^2 per item (>= 0)."""
    linear_share: float | None = None
    """Share of it that a linear map of the slot's features explains, cross-validated."""
    saturation: float | None = None
    """Effective rank of the slot's features over their channels, in [0, 1]."""
    blueprint_gains: Mapping[str, float] | None = None
    """Empty slot: blueprint -> share that its features explain, cross-validated."""
    alpha_slope: float | None = None
    """Live seed: dL/d(alpha) at the present alpha, on held-out items."""
    alpha_best: float | None = None
    """Live seed: where the parabola through held-out losses is lowest, in [0, 1]."""
    alpha_gain: float | None = None
    """Live seed: fall of that parabola from alpha 0 to there (>= 0)."""


@final
@dataclass(slots=True, kw_only=True)
class SeedState:
    """One slot's record. Ages count decision intervals; None = not measured.

    Example:
        SeedState(slot="block2", stage=SeedStage.TRAINING, seed_id="block2#1", blueprint="conv_light")
    """

    slot: str
    num_germinations: int = 0
    """Seeds that ever lived here; makes ids unique."""
    stage: SeedStage = SeedStage.DORMANT
    previous_stage: SeedStage | None = None
    epochs_in_stage: int = 0
    epochs_in_previous_stage: int = 0
    seed_age_epochs: int = 0
    seed_id: str | None = None
    blueprint: str | None = None
    blend: BlendForm = BlendForm.ADD
    curve: AlphaCurve = AlphaCurve.LINEAR
    tempo_epochs: int = 1
    alpha_target: float = 1.0
    alpha: float = 0.0
    """Master value; computed from `ramp` and the batch clock, never accumulated."""
    ramp: AlphaRamp | None = None
    birth_batch: int = 0
    build_seed: int = 0
    """Random seed from which the module was built."""
    num_params: int = 0
    flops_per_item: int = 0
    has_optimizer_entries: bool = False
    is_cull_pending: bool = False
    cull_reason: str | None = None
    contribution: Estimate | None = None
    contribution_age_epochs: int | None = None
    contribution_velocity: float | None = None
    num_measurements: int = 0
    """Contribution measurements in the present stage."""
    shadow_gain: Estimate | None = None
    shadow_gain_age_epochs: int | None = None
    metric_now: float | None = None
    """Validation metric of the network as it is, last interval."""
    metric_at_stage_start: float | None = None
    gate_metric_now: float | None = None
    """The metric that contributions are measured in (the task's, or minus the loss), last interval."""
    gate_metric_at_blend_start: float | None = None
    """The same when the ramp began: the network without this seed."""
    gradient_ratio: float | None = None
    gradient_norm: float | None = None
    has_finite_gradients: bool = True
    num_skipped_batches: int = 0
    had_governor_event: bool = False
    """Whether a rollback happened in the present stage."""
    scores: SlotScores | None = None
    """The last scores of the slot as it is now; forgotten with the seed that they were measured on."""
    scores_age_epochs: int | None = None
    history: list[tuple[str, int]] = field(default_factory=list)
    """(stage name, epoch) of the last 100 stage changes."""

    @property
    def credit(self) -> float | None:
        """min(contribution, gate metric now - gate metric at blend start); None while unknown.

        A seed that only made the host depend on it is costly to remove (high contribution) although the
        network is no better than before it came (no credit).
        """
        now, before = self.gate_metric_now, self.gate_metric_at_blend_start
        if self.contribution is None or now is None or before is None:
            return None
        return min(self.contribution.mean, now - before)

    @property
    def is_healthy(self) -> bool:
        """No non-finite gradient and no skipped batch in the last interval."""
        return self.has_finite_gradients and self.num_skipped_batches == 0

    def record_stage(self, stage: SeedStage, epoch: int) -> None:
        """Append to the history, keeping the last 100 entries."""
        self.history.append((stage.value, epoch))
        del self.history[:-_HISTORY_LIMIT]

    def record_contribution(self, estimate: Estimate) -> None:
        """Take a measurement that was pooled over the present stage; updates the velocity (EMA 0.7 / 0.3)."""
        if self.contribution is not None:
            change = estimate.mean - self.contribution.mean
            old = self.contribution_velocity if self.contribution_velocity is not None else change
            self.contribution_velocity = _VELOCITY_MEMORY * old + (1.0 - _VELOCITY_MEMORY) * change
        self.contribution = estimate
        self.contribution_age_epochs = 0
        self.num_measurements += 1

    def clear_measurements(self) -> None:
        """Forget contributions: a new stage measures a different thing."""
        self.contribution = None
        self.contribution_age_epochs = None
        self.contribution_velocity = None
        self.num_measurements = 0
        self.had_governor_event = False

    def clear_seed(self) -> None:
        """Forget the seed; the slot's own history, stage clocks and last cull reason stay."""
        blank = SeedState(slot=self.slot)
        for name in _SEED_FIELDS:
            setattr(self, name, getattr(blank, name))

    def to_dict(self) -> dict[str, JsonValue]:
        """Return plain data; stages and forms by name."""
        data: dict[str, JsonValue] = {}
        for item in fields(self):
            data[item.name] = _to_plain(getattr(self, item.name))
        return data

    @staticmethod
    def from_dict(data: dict[str, JsonValue]) -> SeedState:
        """Rebuild from `to_dict`.

        Raises:
            UnknownNameError: If a stage, form or curve has an unknown name; lists the known ones.
            ValueError: If a field is missing, unknown, or of another kind or range.
        """
        names = {item.name for item in fields(SeedState)}
        if set(data) != names:
            raise ValueError(f"seed state fields differ: {sorted(set(data) ^ names)}")
        read = {name: _from_plain(name, value) for name, value in data.items()}
        for item in fields(SeedState):
            _check_kind(item.name, str(item.type), read[item.name])
        return SeedState(**read)  # type: ignore[arg-type]


_SEED_FIELDS = (
    "seed_age_epochs",
    "seed_id",
    "blueprint",
    "blend",
    "curve",
    "tempo_epochs",
    "alpha_target",
    "alpha",
    "ramp",
    "birth_batch",
    "build_seed",
    "num_params",
    "flops_per_item",
    "has_optimizer_entries",
    "is_cull_pending",
    "contribution",
    "contribution_age_epochs",
    "contribution_velocity",
    "num_measurements",
    "shadow_gain",
    "shadow_gain_age_epochs",
    "metric_at_stage_start",
    "gate_metric_at_blend_start",
    "gradient_ratio",
    "gradient_norm",
    "has_finite_gradients",
    "num_skipped_batches",
    "had_governor_event",
    "scores",
    "scores_age_epochs",
)


def _to_plain(value: object) -> JsonValue:
    if isinstance(value, SeedStage | BlendForm | AlphaCurve):
        name: str = value.value
        return name
    if isinstance(value, AlphaRamp):
        return value.to_dict()
    if isinstance(value, Estimate):
        return [value.mean, value.standard_error, value.num_items, value.num_intervals]
    if isinstance(value, SlotScores):
        return asdict(value)
    if isinstance(value, list):
        return [[stage, epoch] for stage, epoch in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"seed state holds {type(value).__name__}, which has no plain form")


def _from_plain(name: str, value: JsonValue) -> object:
    if name == "stage" or (name == "previous_stage" and value is not None):
        return _read_name("stage", SeedStage, value)
    if name == "blend":
        return _read_name("blend form", BlendForm, value)
    if name == "curve":
        return _read_name("alpha curve", AlphaCurve, value)
    if name == "ramp" and isinstance(value, dict):
        return AlphaRamp.from_dict(value)
    if name in ("contribution", "shadow_gain") and isinstance(value, list):
        return _build_estimate(value)
    if name == "scores" and isinstance(value, dict):
        return _read_scores(value)
    if name == "history" and isinstance(value, list):
        return [(stage, epoch) for stage, epoch in value]
    return value


def _check_kind(name: str, kinds: str, value: object) -> None:
    """Refuse a value that a record of ours never holds: it would be found in the middle of a run."""
    for kind in kinds.split(" | "):
        if kind == "None" and value is None:
            return
        if kind == "int" and type(value) is int and value >= 0:
            return
        if kind == "float" and _is_number(value) and (name != "alpha" or 0.0 <= float(str(value)) <= 1.0):
            return
        if type(value).__name__ == kind.partition("[")[0] and kind not in ("int", "float"):
            return
    raise ValueError(f"seed state {name} is {str(value)[:80]!r}: expected {kinds}")


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _build_estimate(value: list[JsonValue]) -> Estimate:
    mean, error, num_items, num_intervals = value
    if not (_is_number(mean) and _is_number(error) and type(num_items) is type(num_intervals) is int):
        raise ValueError(f"estimate {str(value)[:80]!r}: expected two numbers and two counts")
    return Estimate(
        mean=float(str(mean)),
        standard_error=float(str(error)),
        num_items=int(str(num_items)),
        num_intervals=int(str(num_intervals)),
    )


def _read_scores(value: dict[str, JsonValue]) -> SlotScores:
    names = {item.name for item in fields(SlotScores)}
    if set(value) != names:
        raise ValueError(f"slot score fields differ: {sorted(set(value) ^ names)}")
    return SlotScores(**value)  # type: ignore[arg-type]


def _read_name(
    kind: str, names: type[SeedStage] | type[BlendForm] | type[AlphaCurve], value: object
) -> object:
    known = {item.value: item for item in names}
    if not isinstance(value, str) or value not in known:
        raise UnknownNameError(kind, str(value), known)
    return known[value]
