"""The quantity of the mode "loss": for tasks that are judged by a loss, such as language models."""

from __future__ import annotations

from typing import final

from esper.simic.rewards.levels import Side, clip_level, compute_ratio
from esper.simic.rewards.rubric import RewardTermSpec


@final
class LossFall:
    """How far the validation loss has fallen; rises cost exactly what falls of the same size earn."""

    def __init__(self, bound: float) -> None:
        """Bind the largest loss that counts, in chance losses, >= 1."""
        self._bound = bound
        self.spec = RewardTermSpec(
            name="loss_fall",
            formula=f"-min(validation loss / loss of a uniform guess, {bound:g}); -1 before the first "
            "interval",
            unit="chance losses",
            low=-bound,
            high=0.0,
            why="Dense, and without the never-grown host. Symmetric: were rises charged less than falls "
            "earn, a loss that goes up and down would pay.",
            pays_without_growth=True,
        )

    def compute_level(self, side: Side) -> float:
        """See `Quantity.compute_level`."""
        observation = side.observation
        if not observation.signals.has_history:
            return -1.0
        loss = compute_ratio(observation.signals.validation_loss, observation.chance_loss)
        return clip_level(-loss, -self._bound, 0.0)
