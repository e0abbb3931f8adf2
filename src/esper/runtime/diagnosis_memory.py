"""What a diagnosis remembers of earlier epochs: losses, flags that show, idle seeds; and weights at birth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, final

from esper.kasmina import SeedSlot
from esper.leyline import EpochOutcome, GradientsMeasured, JsonValue, RedFlagRaised
from esper.nissa.diagnostics.flags import Flag, FlagFacts, find_flags
from esper.nissa.diagnostics.gradients import GradientFacts
from esper.nissa.diagnostics.weights import copy_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

SEED_PREFIX = "seed:"
"""Before the slot, where groups of host layers and of seeds stand in one table."""


@final
class NewFlag(NamedTuple):
    """A flag that did not show an epoch ago."""

    flag: Flag

    def describe(self, epoch: int, profile: str, raised_epochs: int) -> RedFlagRaised:
        """Return its event.

        Args:
            epoch: In which it was found.
            profile: In force from the next epoch on.
            raised_epochs: For how long, because of it; 0 = it stays as it is.
        """
        return RedFlagRaised(
            epoch=epoch,
            name=self.flag.name,
            value=self.flag.value,
            threshold=self.flag.threshold,
            where=self.flag.where,
            advice=self.flag.advice,
            raised_to=profile if raised_epochs else "",
            raised_epochs=raised_epochs,
        )


@final
class FlagHistory:
    """Earlier epochs as red flags need them."""

    def __init__(self) -> None:
        """Start empty."""
        self._losses: list[float] = []
        self._showing: set[str] = set()
        self._idle: dict[str, int] = {}
        self._alphas: dict[str, float] = {}
        self._rising: tuple[str, ...] = ()
        self._learners: list[str] = []

    def note_learners(self, slots: Sequence[str]) -> None:
        """Take the slots whose seeds can learn in a batch that was looked at."""
        self._learners = list(slots)

    def add(
        self, outcome: EpochOutcome, slots: Sequence[SeedSlot], gradients: GradientFacts, *, length: int
    ) -> None:
        """Take one epoch.

        Args:
            outcome: Its numbers.
            slots: As they are after it.
            gradients: As they were measured in it.
            length: Epochs to keep.
        """
        self._losses = [*self._losses, outcome.validation_loss][-length:]
        alphas = {str(slot.state.seed_id): slot.state.alpha for slot in slots if slot.seed is not None}
        self._rising = tuple(
            slot.slot_id
            for slot in slots
            if slot.seed is not None
            and slot.state.stage.affects_output
            and slot.state.alpha > self._alphas.get(str(slot.state.seed_id), 0.0)
        )
        self._alphas = alphas
        self._idle = {
            slot: self._idle.get(slot, 0) + 1 for slot in self._learners if _is_idle(slot, outcome, gradients)
        }
        self._learners = []

    def find_new(
        self,
        outcome: EpochOutcome,
        *,
        gradients: GradientsMeasured | None,
        class_spread: float | None,
        sharpness: float | None,
    ) -> tuple[NewFlag, ...]:
        """Return the flags that show now and did not before; one that needs what was not measured stays."""
        facts = FlagFacts(
            train_loss=outcome.train_loss,
            validation_losses=self._losses,
            health=None if gradients is None else gradients.health,
            vanishing=() if gradients is None else gradients.vanishing,
            exploding=() if gradients is None else gradients.exploding,
            leaking=() if gradients is None else tuple(s for s, norm in gradients.leaks.items() if norm),
            class_spread=class_spread,
            sharpness=sharpness,
            idle_epochs=self._idle,
            rising=self._rising,
        )
        found = find_flags(facts)
        kept = {"uneven_classes"} if class_spread is None else set()
        kept |= {"sharp_loss"} if sharpness is None else set()
        new = tuple(NewFlag(flag) for flag in found if flag.key not in self._showing)
        self._showing = {flag.key for flag in found} | (self._showing & kept)
        return new

    def state(self) -> dict[str, JsonValue]:
        """Return plain data; floats by their bits, because a loss may not be finite."""
        return {
            "losses": [loss.hex() for loss in self._losses],
            "showing": sorted(self._showing),
            "idle": dict(self._idle),
            "alphas": {seed: alpha.hex() for seed, alpha in self._alphas.items()},
            "learners": list(self._learners),
        }

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Put back what `state` returned.

        Raises:
            ValueError: If a part is malformed.
        """
        match state:
            case {
                "losses": list(losses),
                "showing": list(showing),
                "idle": dict(idle),
                "alphas": dict(alphas),
                "learners": list(learners),
            }:
                self._losses = [float.fromhex(str(loss)) for loss in losses]
                self._showing = {str(key) for key in showing}
                self._idle = {str(slot): int(str(count)) for slot, count in idle.items()}
                self._alphas = {str(seed): float.fromhex(str(alpha)) for seed, alpha in alphas.items()}
                self._learners = [str(slot) for slot in learners]
                self._rising = ()
            case _:
                raise ValueError(f"the history of diagnostics has the parts {sorted(state)}")


def _is_idle(slot: str, outcome: EpochOutcome, gradients: GradientFacts) -> bool:
    trained = outcome.slots.get(slot)
    if trained is not None and trained.num_skipped_batches:
        return False
    return not gradients.norms.get(SEED_PREFIX + slot, 0.0)


@final
class WeightBirths:
    """Copies of weights as they were when they were first seen, to measure drift from."""

    def __init__(self) -> None:
        """Start empty."""
        self._copies: dict[str, list[Tensor]] = {}
        self._since: dict[str, int] = {}
        self._ids: dict[str, str] = {}

    def note(
        self,
        groups: Mapping[str, Sequence[nn.Parameter]],
        *,
        epoch: int,
        ids: Mapping[str, str] | None = None,
    ) -> None:
        """Copy groups that are new, or hold another seed than before.

        Args:
            groups: Name -> parameters.
            epoch: Epochs finished now.
            ids: Group -> whose weights they are; one that is not named never changes.
        """
        for name, members in groups.items():
            owner = (ids or {}).get(name, "")
            if name not in self._copies or self._ids[name] != owner:
                self._copies[name] = copy_weights(members)
                self._since[name], self._ids[name] = epoch, owner

    def select(
        self, groups: Mapping[str, Sequence[nn.Parameter]]
    ) -> tuple[dict[str, list[Tensor]], dict[str, int]]:
        """Return copies and epochs of these groups, and forget those of every other one."""
        for name in [name for name in self._copies if name not in groups]:
            del self._copies[name], self._since[name], self._ids[name]
        return dict(self._copies), dict(self._since)

    def clear(self) -> None:
        """Forget all of them."""
        self._copies, self._since, self._ids = {}, {}, {}
