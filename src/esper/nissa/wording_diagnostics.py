"""What diagnostics say to a person: short sentences of facts with their numbers. Knows no terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from esper.leyline import (
    ClassesMeasured,
    Event,
    GradientsMeasured,
    RedFlagRaised,
    SharpnessMeasured,
    WeightsMeasured,
)
from esper.nissa.line import Line, Tone
from esper.nissa.text import clean_text, format_number, format_percent

_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "plateau": "validation loss gained only {value:.2%} over its best in 5 epochs",
        "vanishing_gradients": "gradients vanish in {value:.0f} host layers",
        "exploding_gradients": "gradients explode in {value:.0f} host layers",
        "poor_health": "gradient health is {value:.2f}, under {threshold:.2f}",
        "isolation_leak": "{value:.0f} isolated seeds are not apart from the host",
        "validation_gap": "validation loss is {value:.3f} above training loss, allowed {threshold:.1f}",
        "uneven_classes": "accuracy differs by {value:.2f} over classes (deviation), allowed {threshold:.2f}",
        "sharp_loss": "sharpness is {value:.2f}, allowed {threshold:.1f}",
        "idle_seed": "the seed has had no gradient for {value:.0f} epochs",
        "costly_ramp": "validation loss rose by {value:.1%} while the seed was blended in",
    }
)
"""Flag -> the sentence that says what was seen."""


def tell_red_flag(event: RedFlagRaised) -> Line:
    """Warn in plain words: what, where, how much, what to do, and what is measured because of it."""
    return Line(text=f"red flag: {narrate_flag(event)}", tone=Tone.WARNING)


def narrate_flag(event: RedFlagRaised) -> str:
    """Return what was seen and what to do."""
    pattern = _WORDS.get(event.name)
    numbers = f"{format_number(event.value)} (threshold {format_number(event.threshold)})"
    said = f"{clean_text(event.name)} {numbers}"
    if pattern is not None:
        said = pattern.format(value=event.value, threshold=event.threshold)
    parts = [f"epoch {event.epoch}: {said}", f" ({clean_text(event.where)})" if event.where else ""]
    parts.append(f"; {clean_text(event.advice)}" if event.advice else "")
    if event.raised_to:
        length = _count(event.raised_epochs, "epoch")
        parts.append(f"; telemetry is {clean_text(event.raised_to)} for the next {length}")
    return "".join(parts)


def narrate(event: Event) -> str | None:
    """Return what a measurement came to in a sentence; None for other events.

    Example:
        >>> event = SharpnessMeasured(epoch=1, sharpness=2, loss=0.5, sigma=0.1, num_draws=4, num_items=64)
        >>> narrate(event)
        'Sharpness is 2.000 per unit of noise (4 draws of deviation 0.1 on 64 items, loss 0.500).'
    """
    match event:
        case GradientsMeasured():
            return _narrate_gradients(event)
        case WeightsMeasured():
            return _narrate_weights(event)
        case ClassesMeasured():
            return _narrate_classes(event)
        case SharpnessMeasured():
            return (
                f"Sharpness is {format_number(event.sharpness)} per unit of noise ({event.num_draws} draws "
                f"of deviation {event.sigma:g} on {event.num_items} items, loss {format_number(event.loss)})."
            )
        case RedFlagRaised():
            return f"Red flag at {narrate_flag(event)}."
    return None


def _narrate_gradients(event: GradientsMeasured) -> str:
    low, high = _extremes(event.layers)
    parts = [
        f"Gradient health is {event.health:.2f}: {_count(len(event.layers), 'host layer')}, norms from "
        f"{low} to {high} over {_count(event.num_batches, 'batch', 'batches')}",
        *(f"vanishing in {clean_text(name)}" for name in event.vanishing),
        *(f"exploding in {clean_text(name)}" for name in event.exploding),
        *(f"seed in {clean_text(slot)} {format_number(norm)}" for slot, norm in event.seeds.items()),
        *(
            f"{clean_text(slot)} is not isolated ({format_number(norm)})"
            for slot, norm in event.leaks.items()
            if norm
        ),
    ]
    return "; ".join(parts) + "."


def _narrate_weights(event: WeightsMeasured) -> str:
    low, high = _extremes(event.norms)
    near, far = _extremes(event.drift)
    text = f"Weight norms are from {low} to {high}; they have moved by {near} to {far} of where they were"
    if event.effective_ranks:
        name = min(event.effective_ranks, key=lambda each: event.effective_ranks[each])
        text += f"; the lowest effective rank is {event.effective_ranks[name]:.1f} ({clean_text(name)})"
    return text + "."


def _narrate_classes(event: ClassesMeasured) -> str:
    known = {place: value for place, value in enumerate(event.accuracy) if value is not None}
    if not known:
        return "No class has a validation item."
    worst, best = min(known, key=lambda each: known[each]), max(known, key=lambda each: known[each])
    text = (
        f"Accuracy is lowest for class {worst} ({format_percent(known[worst])} of "
        f"{_count(event.num_items[worst], 'item')}) and highest for class {best} "
        f"({format_percent(known[best])})"
    )
    mistaken = _most_mistaken(event.confusion)
    if mistaken is not None:
        true, guess, count = mistaken
        text += f"; class {true} is taken for {guess} most often ({_count(count, 'time')})"
    return text + "."


def _most_mistaken(confusion: Sequence[Sequence[int]]) -> tuple[int, int, int] | None:
    cells = [
        (count, true, guess)
        for true, row in enumerate(confusion)
        for guess, count in enumerate(row)
        if true != guess and count
    ]
    if not cells:
        return None
    count, true, guess = max(cells, key=lambda cell: (cell[0], -cell[1], -cell[2]))
    return true, guess, count


def _extremes(values: Mapping[str, float]) -> tuple[str, str]:
    found = list(values.values())
    return (format_number(min(found)), format_number(max(found))) if found else ("-", "-")


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
