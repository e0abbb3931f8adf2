"""Autocast for forward passes, and the loss scale that fp16 needs.

Parameters, optimiser state, alpha and statistics stay float32. bf16 needs no scale. In fp16 the scale belongs
to the loss and the skip to the group: only the host's overflow moves the scale; a seed that overflows alone
is skipped and counted. After `_SEED_PATIENCE` skips in a row it gets one backed-off scale, after as many more
it is blamed. Knows flags of groups; no model, no optimiser.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import final

import torch
from torch import Tensor

from esper.leyline import ConfigError, ForeignCheckpointError, JsonValue, suggest
from esper.tolaria.group_flags import GroupFlag, GroupFlags

_DTYPES: Mapping[str, torch.dtype | None] = MappingProxyType(
    {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}
)
_INITIAL_SCALE = 65536.0
_MIN_SCALE = 1.0  # an overflow at scale 1 is no matter of scaling: the skipped batches are the governor's
_GROWTH_INTERVAL = 2000
_GROWTH = 2.0
_BACKOFF = 0.5
_SEED_PATIENCE = 8


@final
class Autocast:
    """Makes autocast contexts of one device and precision.

    Example:
        with Autocast(torch.device("cuda"), "bf16").context():
            outputs = model(inputs)
    """

    def __init__(self, device: torch.device, amp: str) -> None:
        """Bind device and mode.

        Args:
            device: Where the forward passes run.
            amp: "off", "bf16" or "fp16".

        Raises:
            ConfigError: If the mode is unknown.
        """
        if amp not in _DTYPES:
            raise ConfigError(f"amp={amp!r}: {suggest(amp, _DTYPES)}")
        self._device_type = device.type
        self._dtype = _DTYPES[amp]

    def context(self) -> AbstractContextManager[object]:
        """Return a context for one forward pass; without mixed precision it does nothing.

        One context per pass: weights that change inside one keep being used in their old cast.
        """
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self._device_type, dtype=self._dtype)


@final
class LossScaler:
    """Dynamic loss scale; disabled, it scales by exactly 1, counts nothing and never moves."""

    def __init__(self, *, is_enabled: bool) -> None:
        """Start at 65,536 when enabled."""
        self.is_enabled = is_enabled
        self._scale = _INITIAL_SCALE if is_enabled else 1.0
        self._clean_steps = 0
        self._seed_skips: dict[str, int] = {}

    @property
    def scale_value(self) -> float:
        """Factor on the loss, a power of two: scaling and unscaling lose no bit of a normal number."""
        return self._scale

    @property
    def inverse_scale(self) -> float:
        """Factor that turns scaled gradients back."""
        return 1.0 / self._scale

    @property
    def seed_skips(self) -> Mapping[str, int]:
        """Slot -> batches in a row in which its seed overflowed although the host did not."""
        return MappingProxyType(self._seed_skips)

    @property
    def blamed(self) -> tuple[str, ...]:
        """Slots whose seeds went on overflowing after the scale had backed off for them."""
        return tuple(slot for slot, skips in self._seed_skips.items() if skips >= 2 * _SEED_PATIENCE)

    def scale(self, loss: Tensor) -> Tensor:
        """Return the loss times the scale."""
        return loss * self._scale if self.is_enabled else loss

    def update(self, flags: GroupFlags) -> None:
        """Move the scale: down on the host's overflow, up after 2,000 clean steps.

        Args:
            flags: Of this batch, after unscaling; seeds that are not in it are forgotten.
        """
        if not self.is_enabled:
            return
        if flags.is_host_faulty:
            self._back_off()
            return
        self._clean_steps += 1
        if self._clean_steps >= _GROWTH_INTERVAL:
            self._scale *= _GROWTH
            self._clean_steps = 0
        self._seed_skips = {slot: self._count_skips(slot, flag) for slot, flag in flags.seeds.items()}
        if any(
            self._seed_skips[slot] == _SEED_PATIENCE and flags.seeds[slot].is_faulty for slot in flags.seeds
        ):
            self._back_off()

    def _count_skips(self, slot: str, flag: GroupFlag) -> int:
        skips = self._seed_skips.get(slot, 0)
        if flag.is_faulty:
            return skips + 1
        return 0 if flag.has_gradient else skips

    def _back_off(self) -> None:
        self._scale = max(_MIN_SCALE, self._scale * _BACKOFF)
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
        """Put back what `state` returned.

        Raises:
            ForeignCheckpointError: If it was saved with another precision, or is malformed.
        """
        if state.get("is_enabled") is not self.is_enabled:
            raise ForeignCheckpointError(
                f"saved loss scaler has is_enabled={state.get('is_enabled')!r}, this run {self.is_enabled}: "
                "resume with the precision that the run was started with"
            )
        try:
            scale, clean_steps = float(str(state["scale"])), int(str(state["clean_steps"]))
            saved = state["seed_skips"]
            if not isinstance(saved, Mapping):
                raise TypeError(f"seed_skips is {saved!r}")
            skips = {slot: int(str(count)) for slot, count in saved.items()}
        except (KeyError, TypeError, ValueError) as error:
            raise ForeignCheckpointError(f"saved loss scaler is malformed: {error!r}") from error
        self._scale, self._clean_steps, self._seed_skips = scale, clean_steps, skips
