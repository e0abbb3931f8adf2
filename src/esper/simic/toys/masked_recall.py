"""MaskedRecall: a corridor that needs memory and a junction that needs the mask.

```
decision 0          shows a cue c of 4; only action 0 is legal
decisions 1 .. L-1  show nothing; only action 0 is legal
decision L          junction: a hidden bit m makes actions {4m .. 4m+3} legal; 4m + c earns 1, all else 0
```
The bit is independent of the cue and not observed: if the mask told the cue, memory would go untested.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, final

from esper.leyline import ConfigError, JsonValue
from esper.simic.toys.rollout import ToyRolloutEnv
from esper.simic.toys.task import ToyMasks, ToyStep
from esper.tamiyo import ActionLayout

NUM_CUES = 4
NUM_ACTIONS = 8
_HALVES = NUM_ACTIONS // NUM_CUES


class RecallState(NamedTuple):
    """One episode of the corridor."""

    cue: int
    """c in [0, 4)."""
    half: int
    """m in {0, 1}: which half of the actions is legal at the junction."""
    t: int = 0
    """Decisions made, in [0, L + 1]."""


@final
class MaskedRecall:
    """The corridor and its junction; features are the cue one-hot (4) and a junction flag.

    Example:
        MaskedRecall(corridor=8)  # nine decisions, the first eight of them forced
    """

    name = "masked_recall"
    term_names = ("recall",)

    def __init__(self, *, corridor: int = 8) -> None:
        """Set the length.

        Args:
            corridor: L >= 1, decisions before the junction; memory must bridge all of them.

        Raises:
            ConfigError: If the corridor has no decision: the cue would be seen at the junction.
        """
        if corridor < 1:
            raise ConfigError(f"masked_recall.corridor={corridor}: must be >= 1, e.g. 8")
        self._corridor = corridor
        self._layout = ActionLayout(
            op_names=tuple(f"A{index}" for index in range(NUM_ACTIONS)), uses={"op": (True,) * NUM_ACTIONS}
        )

    @property
    def layout(self) -> ActionLayout:
        """One head of eight actions."""
        return self._layout

    def begin(self, seed: int) -> RecallState:
        """Draw cue and half, all eight pairs equally likely."""
        return RecallState(cue=seed % NUM_CUES, half=seed // NUM_CUES % _HALVES)

    def features(self, state: RecallState) -> tuple[float, ...]:
        """Return the cue at decision 0, the flag at the junction, zeros otherwise."""
        cue = tuple(float(state.t == 0 and state.cue == c) for c in range(NUM_CUES))
        return (*cue, float(state.t == self._corridor))

    def masks(self, state: RecallState) -> ToyMasks:
        """Return action 0 alone, or at the junction the half that the bit selects."""
        if state.t != self._corridor:
            return ToyMasks(op=tuple(action == 0 for action in range(NUM_ACTIONS)))
        return ToyMasks(op=tuple(action // NUM_CUES == state.half for action in range(NUM_ACTIONS)))

    def step(self, state: RecallState, action: tuple[int, ...]) -> ToyStep[RecallState]:
        """Move on; an illegal action does so, too, and scores 0 at the junction."""
        is_last = state.t == self._corridor
        is_right = is_last and action[0] == NUM_CUES * state.half + state.cue
        return ToyStep(state._replace(t=state.t + 1), {"recall": float(is_right)}, is_last)

    def describe(self, state: RecallState) -> dict[str, JsonValue]:
        """Return cue and half."""
        return {"cue": state.cue, "half": state.half}

    def pack(self, state: RecallState) -> list[int]:
        """Return cue, half and t."""
        return list(state)

    def unpack(self, numbers: Sequence[int]) -> RecallState:
        """Return the state that `pack` was given."""
        cue, half, t = numbers
        return RecallState(cue, half, t)

    def rules(self) -> dict[str, JsonValue]:
        """Return every constant of reward and dynamics."""
        return {"corridor": self._corridor, "num_cues": NUM_CUES, "num_actions": NUM_ACTIONS}


def best_success(*, has_memory: bool, has_mask: bool) -> float:
    """Return the largest success rate of a policy at the junction, by enumeration of all worlds.

    Args:
        has_memory: The policy knows the cue at the junction.
        has_mask: The policy knows which half is legal.

    Returns:
        1 with both, 1/2 with memory alone, 1/4 with the mask alone, 1/8 with neither.
    """

    def known(world: RecallState) -> Hashable:
        return (world.cue if has_memory else None, world.half if has_mask else None)

    worlds = [RecallState(cue, half) for cue in range(NUM_CUES) for half in range(_HALVES)]
    return _best_rate(worlds, known)


def _best_rate(worlds: Sequence[RecallState], known: Callable[[RecallState], Hashable]) -> float:
    task = MaskedRecall(corridor=1)
    groups: dict[Hashable, list[RecallState]] = {}
    for world in worlds:
        groups.setdefault(known(world), []).append(world._replace(t=1))
    wins = [
        max(sum(task.step(world, (action,)).reward for world in group) for action in range(NUM_ACTIONS))
        for group in groups.values()
    ]
    return sum(wins) / len(worlds)


def build_masked_recall(seeds: Sequence[int], *, corridor: int = 8) -> ToyRolloutEnv[RecallState]:
    """Return rows of MaskedRecall, one per seed."""
    return ToyRolloutEnv(MaskedRecall(corridor=corridor), seeds)
