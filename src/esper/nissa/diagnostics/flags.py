"""Red flags: signs that a host's training goes wrong, as pure detectors over plain numbers.

A detector sees one epoch's facts and those before it. It knows what was forced: a seed that could not learn
(its alpha was 0, it was on its way out, its update was skipped) is not blamed for a gradient of 0.

| flag | raised when |
|---|---|
| plateau | the best validation loss of the last 5 epochs is within 0.1 % of the best before them |
| vanishing_gradients | a host layer's norm is under 1e-7 in more than half of the measured batches |
| exploding_gradients | one is over 1e3, or not a number, in more than 1 % of them |
| poor_health | gradient health is under 0.5 |
| isolation_leak | anything passes between an isolated seed and the host |
| validation_gap | validation loss is more than 0.5 above training loss |
| uneven_classes | the deviation of accuracy over classes is over 0.25 |
| sharp_loss | sharpness is over 1 |
| idle_seed | a seed that could learn had no gradient for 3 epochs |
| costly_ramp | while a seed's alpha rose, validation loss rose by more than 5 % in an epoch |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, final

PLATEAU_EPOCHS = 5
PLATEAU_GAIN = 0.001
LOW_HEALTH = 0.5
LARGE_GAP = 0.5
LARGE_SPREAD = 0.25
LARGE_SHARPNESS = 1.0
IDLE_EPOCHS = 3
RAMP_RISE = 0.05


class Flag(NamedTuple):
    """One sign of trouble."""

    name: str
    value: float
    threshold: float
    where: str
    advice: str

    @property
    def key(self) -> str:
        """Name and place; one flag is told once until it is gone."""
        return f"{self.name}:{self.where}" if self.name in ("idle_seed", "costly_ramp") else self.name


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FlagFacts:
    """What detectors see of one epoch; None and empty = not measured."""

    train_loss: float
    validation_losses: Sequence[float]
    """Of the epochs so far, oldest first, this one last; at least one."""
    health: float | None = None
    vanishing: tuple[str, ...] = ()
    exploding: tuple[str, ...] = ()
    leaking: tuple[str, ...] = ()
    """Slots of isolated seeds from or to which something passes."""
    class_spread: float | None = None
    sharpness: float | None = None
    idle_epochs: Mapping[str, int] = field(default_factory=dict)
    """Slot -> epochs in a row in which its seed could learn and had no gradient."""
    rising: tuple[str, ...] = ()
    """Slots whose alpha rose in this epoch."""


def find_flags(facts: FlagFacts) -> tuple[Flag, ...]:
    """Return every sign that shows now, whether it is new or not."""
    found = [
        *_find_plateau(facts.validation_losses),
        *_find_gradients(facts),
        *_find_leaks(facts.leaking),
        *_find_gap(facts),
        *_find_uneven(facts.class_spread),
        *_find_sharp(facts.sharpness),
        *_find_idle(facts.idle_epochs),
        *_find_ramp(facts),
    ]
    return tuple(found)


def _find_plateau(losses: Sequence[float]) -> list[Flag]:
    if len(losses) <= PLATEAU_EPOCHS:
        return []
    before, since = min(losses[:-PLATEAU_EPOCHS]), min(losses[-PLATEAU_EPOCHS:])
    gain = (before - since) / abs(before) if before else 0.0
    if not gain < PLATEAU_GAIN:
        return []
    advice = "validation loss no longer falls: let it grow, lower the learning rate, or stop"
    return [Flag("plateau", gain, PLATEAU_GAIN, "", advice)]


def _find_gradients(facts: FlagFacts) -> list[Flag]:
    found = []
    if facts.vanishing:
        advice = "these layers hardly learn: look at initialisation, norms, and activations that are shut"
        where = ", ".join(facts.vanishing)
        found.append(Flag("vanishing_gradients", float(len(facts.vanishing)), 0.0, where, advice))
    if facts.exploding:
        advice = "lower optimizer.learning_rate or optimizer.clip_norm, and look at the inputs' scale"
        where = ", ".join(facts.exploding)
        found.append(Flag("exploding_gradients", float(len(facts.exploding)), 0.0, where, advice))
    if facts.health is not None and facts.health < LOW_HEALTH:
        advice = "several signs at once: read the norms per layer in GradientsMeasured"
        found.append(Flag("poor_health", facts.health, LOW_HEALTH, "", advice))
    return found


def _find_leaks(leaking: Sequence[str]) -> list[Flag]:
    if not leaking:
        return []
    advice = "an isolated seed and its host touch each other: the blueprint shares parameters or keeps state"
    return [Flag("isolation_leak", float(len(leaking)), 0.0, ", ".join(leaking), advice)]


def _find_gap(facts: FlagFacts) -> list[Flag]:
    gap = facts.validation_losses[-1] - facts.train_loss
    advice = "it learns its training items by heart: more data, augmentation, weight decay, or less growth"
    return [Flag("validation_gap", gap, LARGE_GAP, "", advice)] if gap > LARGE_GAP else []


def _find_uneven(spread: float | None) -> list[Flag]:
    if spread is None or spread <= LARGE_SPREAD:
        return []
    advice = "some classes are hardly learned: read ClassesMeasured for which ones"
    return [Flag("uneven_classes", spread, LARGE_SPREAD, "", advice)]


def _find_sharp(sharpness: float | None) -> list[Flag]:
    if sharpness is None or sharpness <= LARGE_SHARPNESS:
        return []
    advice = "small changes of the weights cost much: a lower learning rate or larger batches may help"
    return [Flag("sharp_loss", sharpness, LARGE_SHARPNESS, "", advice)]


def _find_idle(idle_epochs: Mapping[str, int]) -> list[Flag]:
    advice = "nothing that this seed does reaches the loss: cull it, or look at its blueprint"
    return [
        Flag("idle_seed", float(count), float(IDLE_EPOCHS), slot, advice)
        for slot, count in idle_epochs.items()
        if count >= IDLE_EPOCHS
    ]


def _find_ramp(facts: FlagFacts) -> list[Flag]:
    losses = facts.validation_losses
    if not facts.rising or len(losses) < 2 or losses[-2] <= 0.0:
        return []
    rise = losses[-1] / losses[-2] - 1.0
    if not rise > RAMP_RISE:
        return []
    advice = "blend it in more slowly (a longer tempo), or cull it if the loss does not come back"
    return [Flag("costly_ramp", rise, RAMP_RISE, slot, advice) for slot in facts.rising]
