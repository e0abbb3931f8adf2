"""What is said of a decision and of what it was paid to whoever asks about one; no console tells of them."""

from __future__ import annotations

from esper.leyline import DecisionMade, RewardGranted
from esper.nissa.text import clean_text


def word_decision(event: DecisionMade) -> str:
    """Return what was asked for, e.g. "GERMINATE block2 conv_light".

    Example:
        >>> word_decision(join_decisions(log.records)[0].decision)
        'GERMINATE hidden1 norm'
    """
    parts = (event.op, event.slot, event.blueprint)
    return " ".join(clean_text(part) for part in parts if part)


def word_reward(event: RewardGranted) -> str:
    """Return e.g. "+0.0165 (metric_change +0.0167, flops_rent -0.0002), +0.885 so far"; no parts of 0.

    Example:
        >>> paid = RewardGranted(epoch=3, total=0.25, parts={"lead": 0.5, "rent": -0.25}, return_so_far=1)
        >>> word_reward(paid)
        '+0.25 (lead +0.5, rent -0.25), +1 so far'
    """
    parts = ", ".join(f"{clean_text(name)} {share:+.3g}" for name, share in event.parts.items() if share)
    shown = f" ({parts})" if parts else ""
    return f"{event.total:+.3g}{shown}, {event.return_so_far:+.3g} so far"
