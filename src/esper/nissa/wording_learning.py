"""What policy training says to a person: each event as one short line. Pure text: knows no terminal."""

from __future__ import annotations

from esper.leyline import AnomalyFound, PolicyTrainingStarted, PolicyUpdated
from esper.nissa.line import Line, Tone
from esper.nissa.text import clean_text, format_count, format_number

_SHOWN = (
    ("return", "rollout/ep_rew_mean"),
    ("gain", "rollout/gain_mean"),
    ("fossils", "rollout/fossils_mean"),
    ("wait", "rollout/op_share/WAIT"),
    ("entropy", "train/entropy/op"),
    ("kl", "train/approx_kl"),
    ("explained", "train/explained_variance"),
)
"""Word on the line, metric behind it; what was not measured is left out."""


def tell_training_start(event: PolicyTrainingStarted) -> Line:
    """Say what is trained on what."""
    what = "resumed" if event.is_resumed else "training"
    return Line(
        text=f"{what} a policy of {format_count(event.num_parameters)} parameters on "
        f"{clean_text(event.task)}: {event.num_rounds} rounds of {event.num_envs} hosts, "
        f"{event.horizon_epochs} epochs each, "
        f"seed {event.seed}"
    )


def tell_update(event: PolicyUpdated) -> Line:
    """Say how one round went."""
    found = [(word, event.metrics[name]) for word, name in _SHOWN if name in event.metrics]
    shown = "  ".join(f"{word} {format_number(value)}" for word, value in found)
    return Line(text=f"round {event.epoch}  steps {format_count(event.num_env_steps)}  {shown}")


def tell_anomaly(event: AnomalyFound) -> Line:
    """Warn, with the number, its threshold and what to do."""
    return Line(
        text=f"round {event.epoch}: {clean_text(event.name)} {format_number(event.value)} "
        f"(threshold {format_number(event.threshold)}): {clean_text(event.advice)}",
        tone=Tone.WARNING,
    )
