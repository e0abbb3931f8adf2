"""Autocast for forward passes, and the loss scale that fp16 needs.

Parameters, optimiser state, alpha and statistics stay float32. bf16 needs no scale. In fp16 the scale belongs
to the loss and the skip to the group: only the host's overflow moves the scale, a seed that overflows alone
is skipped and counted, and after `_SEED_PATIENCE` skips in a row the scale backs off once.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import final

import torch
from torch import Tensor

from esper.leyline import JsonValue
from esper.tolaria.optimizers import GroupFlags

_INITIAL_SCALE = 65536.0
_GROWTH_INTERVAL = 2000
_GROWTH = 2.0
_BACKOFF = 0.5
_SEED_PATIENCE = 8


@final
class Autocast:
    """Makes autocast contexts of one device and precision."""

    def __init__(self, device: torch.device, amp: str) -> None:
        """Bind device and mode ("off", "bf16" or "fp16")."""
        self._device_type = device.type
        self._dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(amp)

    def context(self) -> AbstractContextManager[object]:
        """Return a context for one forward pass; without mixed precision it does nothing."""
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self._device_type, dtype=self._dtype)


@final
class LossScaler:
    """Dynamic loss scale; disabled, it scales by exactly 1 and never moves."""

    def __init__(self, *, is_enabled: bool) -> None:
        """Start at 65,536 when enabled."""
        self.is_enabled = is_enabled
        self._scale = _INITIAL_SCALE if is_enabled else 1.0
        self._clean_steps = 0
        self._seed_skips: dict[str, int] = {}

    @property
    def scale_value(self) -> float:
        """Factor on the loss."""
        return self._scale

    @property
    def inverse_scale(self) -> float:
        """Factor that turns scaled gradients back."""
        return 1.0 / self._scale

    def scale(self, loss: Tensor) -> Tensor:
        """Return the loss times the scale."""
        return loss * self._scale if self.is_enabled else loss

    def update(self, flags: GroupFlags) -> None:
        """Move the scale: down on the host's overflow, up after 2,000 clean steps."""
        if not self.is_enabled:
            return
        if flags.is_host_faulty:
            self._back_off()
            return
        self._clean_steps += 1
        if self._clean_steps >= _GROWTH_INTERVAL:
            self._scale *= _GROWTH
            self._clean_steps = 0
        for slot, flag in flags.seeds.items():
            self._seed_skips[slot] = self._seed_skips.get(slot, 0) + 1 if flag.is_faulty else 0
            if self._seed_skips[slot] == _SEED_PATIENCE:
                self._back_off()

    def _back_off(self) -> None:
        self._scale *= _BACKOFF
        self._clean_steps = 0

    def state(self) -> dict[str, JsonValue]:
        """Return plain data."""
        return {
            "is_enabled": self.is_enabled,
            "scale": self._scale,
            "clean_steps": self._clean_steps,
            "seed_skips": dict(self._seed_skips),
        }

    def load(self, state: Mapping[str, JsonValue]) -> None:
        """Put back what `state` returned."""
        self._scale = float(str(state["scale"]))
        self._clean_steps = int(str(state["clean_steps"]))
        skips = state["seed_skips"]
        assert isinstance(skips, Mapping)
        self._seed_skips = {slot: int(str(count)) for slot, count in skips.items()}
