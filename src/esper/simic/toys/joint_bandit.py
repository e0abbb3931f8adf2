"""JointBandit: one decision over a masked joint action, with a table of rewards that is known in full.

Because every joint action can be listed, the expected reward of any policy and its gradient are exact sums.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor

from esper.leyline import JsonValue, derive_seed
from esper.simic.toys.rollout import ToyRolloutEnv
from esper.simic.toys.task import ToyMasks, ToyStep
from esper.tamiyo import ActionLayout

NUM_SLOTS = 2
NUM_BLUEPRINTS = 3
_OPS = ("WAIT", "GERMINATE", "FOSSILIZE", "CULL")
_USES_SLOT = (False, True, True, True)
_USES_BLUEPRINT = (False, True, False, False)


class BanditState(NamedTuple):
    """The bandit before (t = 0) or after (t = 1) its only decision."""

    t: int = 0


@final
class JointBandit:
    """Four operations, two slots, three blueprints, masks that depend on the operation; one constant feature.

    An illegal action counts as WAIT.

    Example:
        bandit = JointBandit(table_seed=0)
        bandit.actions, bandit.rewards  # [N, 3] legal joint actions and what they earn, [N]
    """

    name = "joint_bandit"
    term_names = ("reward",)

    def __init__(self, *, table_seed: int = 0) -> None:
        """Draw masks and rewards, the latter uniform in [-1, 1].

        Args:
            table_seed: Another number is another bandit; rows and episodes all share one.
        """
        source = random.Random(derive_seed(table_seed, "joint_bandit"))
        self._table_seed = table_seed
        self._layout = ActionLayout(
            op_names=_OPS,
            uses={"op": (True,) * len(_OPS), "slot": _USES_SLOT, "blueprint": _USES_BLUEPRINT},
        )
        self._masks = ToyMasks(
            op=(True,) * len(_OPS),
            slot=tuple(
                _draw_some(source, NUM_SLOTS) if used else (False,) * NUM_SLOTS for used in _USES_SLOT
            ),
            blueprint=tuple(_draw_some(source, NUM_BLUEPRINTS) for _ in range(NUM_SLOTS)),
        )
        self._table = {action: source.uniform(-1.0, 1.0) for action in self._legal_actions()}

    @property
    def layout(self) -> ActionLayout:
        """Operation, slot, blueprint: sizes 4, 2, 3."""
        return self._layout

    @property
    def actions(self) -> Tensor:
        """[N, 3] int64: every legal joint action once, 0 in columns that its operation does not use."""
        return torch.tensor(list(self._table))

    @property
    def rewards(self) -> Tensor:
        """[N] float64: the reward of each of `actions`."""
        return torch.tensor(list(self._table.values()), dtype=torch.float64)

    def begin(self, seed: int) -> BanditState:
        """Return the only first state."""
        return BanditState()

    def features(self, state: BanditState) -> tuple[float, ...]:
        """Return the constant 1."""
        return (1.0,)

    def masks(self, state: BanditState) -> ToyMasks:
        """Return the masks of the table."""
        return self._masks

    def step(self, state: BanditState, action: tuple[int, ...]) -> ToyStep[BanditState]:
        """Look the action up; the episode is over."""
        op, slot, blueprint = action
        key = (op, slot * _USES_SLOT[op], blueprint * _USES_BLUEPRINT[op])
        return ToyStep(
            BanditState(state.t + 1), {"reward": self._table.get(key, self._table[0, 0, 0])}, is_last=True
        )

    def describe(self, state: BanditState) -> dict[str, JsonValue]:
        """Return the best reward of the table, the ceiling of an episode."""
        return {"best_reward": max(self._table.values())}

    def pack(self, state: BanditState) -> list[int]:
        """Return t."""
        return [state.t]

    def unpack(self, numbers: Sequence[int]) -> BanditState:
        """Return the state that `pack` was given."""
        return BanditState(*numbers)

    def rules(self) -> dict[str, JsonValue]:
        """Return the table's seed and every legal action with its reward."""
        return {
            "table_seed": self._table_seed,
            "table": [[*key, value] for key, value in self._table.items()],
        }

    def _legal_actions(self) -> list[tuple[int, int, int]]:
        assert self._masks.slot is not None
        assert self._masks.blueprint is not None
        legal = []
        for op in range(len(_OPS)):
            slots = [s for s in range(NUM_SLOTS) if self._masks.slot[op][s]] if _USES_SLOT[op] else [0]
            for slot in slots:
                options = [b for b in range(NUM_BLUEPRINTS) if self._masks.blueprint[slot][b]]
                legal += [(op, slot, item) for item in (options if _USES_BLUEPRINT[op] else [0])]
        return legal


def _draw_some(source: random.Random, size: int) -> tuple[bool, ...]:
    """Draw a mask with at least one True; every other index is legal with probability 1/2."""
    kept = source.randrange(size)
    return tuple(place == kept or source.random() < 0.5 for place in range(size))


def build_joint_bandit(seeds: Sequence[int], *, table_seed: int = 0) -> ToyRolloutEnv[BanditState]:
    """Return rows of one bandit, one per seed."""
    return ToyRolloutEnv(JointBandit(table_seed=table_seed), seeds)
