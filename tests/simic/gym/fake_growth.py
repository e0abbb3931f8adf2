"""A growing host's inputs without a host: 2 slots, 3 blueprints, all seven heads, four decisions an episode.

A slot that is germinated holds a seed that may be culled; each legal GERMINATE earns 1. Rows differ by seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from builders import make_space
from esper.leyline import JsonValue, LifecycleOp
from esper.simic.gym.single import GrowthEnv
from esper.simic.gym.spaces import GymOptions
from esper.simic.interfaces import EnvStep
from esper.tamiyo import ActionLayout, PolicyInputs, build_growth_layout

BLUEPRINTS = (("norm", "norm", 16), ("depthwise", "depthwise", 150), ("conv_light", "conv", 650))
HORIZON = 4
OPS = tuple(LifecycleOp)
NUM_SLOTS, NUM_BLUEPRINTS = 2, 3


def make_fake(
    obs_mode: str = "dict", flatten_actions: bool = False, invalid_penalty: float = 0.0
) -> GrowthEnv:
    """Return the fake behind the single environment, as a registry would build it."""
    options = GymOptions(obs_mode=obs_mode, flatten_actions=flatten_actions, invalid_penalty=invalid_penalty)
    return GrowthEnv(lambda seed: FakeGrowth((seed,)), options=options)


class FakeGrowth:
    """E rows; the last slot takes the first two blueprints only."""

    def __init__(self, seeds: Sequence[int], summary: Mapping[str, JsonValue] | None = None) -> None:
        self._seeds = tuple(seeds)
        default: dict[str, JsonValue] = {"metric": 0.5, "ops": {"WAIT": 4}}
        self._summary = default if summary is None else dict(summary)
        self._layout = build_growth_layout(make_space(("a", "b"), BLUEPRINTS))
        count = len(seeds)
        self._t = torch.full((count,), HORIZON)
        self._has_seed = torch.zeros(count, NUM_SLOTS, dtype=torch.bool)
        self.is_broken = False
        self.num_closed = 0
        self.last_actions = torch.zeros(count, len(self._layout.heads), dtype=torch.int64)

    @property
    def num_envs(self) -> int:
        return len(self._seeds)

    @property
    def layout(self) -> ActionLayout:
        return self._layout

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"fake/{row}" for row in range(self.num_envs))

    def reset(self, mask: Tensor) -> None:
        self._t[mask] = 0
        self._has_seed[mask] = False

    def observe(self) -> PolicyInputs:
        count = self.num_envs
        glob = torch.zeros(count, 3)
        glob[:, 0] = 1.0 - self._t / HORIZON
        glob[:, 1] = torch.tensor([seed % 7 for seed in self._seeds]).float()
        glob[:, 2] = float("nan") if self.is_broken else 99.0
        slots = torch.stack([self._has_seed.float(), torch.ones(count, NUM_SLOTS)], dim=-1)
        mask_slot = torch.zeros(count, len(OPS), NUM_SLOTS, dtype=torch.bool)
        mask_slot[:, OPS.index(LifecycleOp.GERMINATE)] = ~self._has_seed
        mask_slot[:, OPS.index(LifecycleOp.CULL)] = self._has_seed
        mask_op = mask_slot.any(dim=-1)
        mask_op[:, 0] = True
        mask_blueprint = torch.ones(count, NUM_SLOTS, NUM_BLUEPRINTS, dtype=torch.bool)
        mask_blueprint[:, 1, 2] = False
        return {
            "global": glob,
            "slots": slots,
            "blueprints": torch.full((count, NUM_SLOTS, NUM_BLUEPRINTS, 2), 0.25),
            "slot_families": self._has_seed.long() * 2,
            "blueprint_families": torch.tensor([[2, 4, 5], [2, 4, 0]]).expand(
                count, NUM_SLOTS, NUM_BLUEPRINTS
            ),
            "slot_exists": torch.ones(count, NUM_SLOTS, dtype=torch.bool),
            "blueprint_exists": torch.ones(count, NUM_SLOTS, NUM_BLUEPRINTS, dtype=torch.bool),
            "mask_op": mask_op,
            "mask_slot": mask_slot,
            "mask_blueprint": mask_blueprint & ~self._has_seed[:, :, None],
        }

    def step(self, actions: Tensor) -> EnvStep:
        assert actions.shape == (self.num_envs, len(self._layout.heads))
        self.last_actions = actions.clone()
        was_running = self._t < HORIZON
        reward = torch.zeros(self.num_envs)
        for row, (op, slot, *_) in enumerate(actions.tolist()):
            if not was_running[row]:
                continue
            if OPS[op] is LifecycleOp.GERMINATE:
                assert not self._has_seed[row, slot], "the adapter lets no illegal action through"
                self._has_seed[row, slot] = True
                reward[row] = 1.0
            elif OPS[op] is LifecycleOp.CULL:
                self._has_seed[row, slot] = False
        self._t = self._t + was_running.long()
        terminated = was_running & (self._t == HORIZON)
        return EnvStep(
            inputs=self.observe(),
            reward=reward,
            terminated=terminated,
            truncated=torch.zeros_like(terminated),
            is_valid=was_running,
            summaries=tuple(self._summary if flag else None for flag in terminated.tolist()),
        )

    def state(self) -> dict[str, JsonValue | Tensor]:
        return {"t": self._t.clone(), "has_seed": self._has_seed.clone()}

    def restore(self, state: Mapping[str, JsonValue | Tensor]) -> None:
        t, has_seed = state["t"], state["has_seed"]
        assert isinstance(t, Tensor)
        assert isinstance(has_seed, Tensor)
        self._t, self._has_seed = t.clone(), has_seed.clone()

    def close(self) -> None:
        self.num_closed += 1
