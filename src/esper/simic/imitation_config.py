"""Settings of a start by imitation. Numbers and names only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from esper.leyline import ConfigError
from esper.simic.ranges import require


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ImitationConfig:
    """A start by imitation of rules, before the first round."""

    teachers: tuple[str, ...] = ("heuristic",)
    """Which policies are imitated, by name, >= 1; each host is grown by every one of them, and the life that
    came to most is learned from. heuristic, because it keeps what it grows; with never beside it where some
    hosts are best left alone (and little doubt: who plants by chance leaves no host alone for long)."""
    num_rounds: int = 0
    """Rounds that each teacher plays, of one episode per environment each, >= 0; 0 = no imitation: what a
    policy finds alone is then its own merit."""
    epochs: int = 20
    """Passes over what the teacher did, >= 1; about as many as its critic needs."""
    learning_rate: float = 3e-4
    """Rate of Adam, > 0; the usual one for recurrent policies."""
    doubt_nats: float = 0.5
    """Mean -ln p of the teacher's decisions at which the policy stops following, >= 0; it then does the
    teacher's six times in ten. A policy without doubt would explore nothing after; its critic learns on."""
    max_grad_norm: float = 1.0
    """Largest global norm of the gradient, > 0; one, larger than in training: what is imitated
    does not move."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If no teacher is named, or one twice, or a value is outside its field's range.
        """
        if not self.teachers:
            raise ConfigError('imitation.teachers=[]: must name at least one policy, e.g. ["heuristic"]')
        if len(set(self.teachers)) != len(self.teachers):
            raise ConfigError(f"imitation.teachers={list(self.teachers)}: each at most once")
        require("imitation.num_rounds", self.num_rounds, 0)
        require("imitation.epochs", self.epochs, 1)
        require("imitation.doubt_nats", self.doubt_nats, 0)
        for name in ("learning_rate", "max_grad_norm"):
            require(f"imitation.{name}", getattr(self, name), 0, is_low_open=True)
