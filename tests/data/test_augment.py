from __future__ import annotations

import pytest
import torch

from esper.data.augment import AugmentConfig, augment_seed, compute_augmented
from esper.leyline import ConfigError

IMAGES = torch.arange(1, 1 + 6 * 2 * 4 * 5, dtype=torch.uint8).reshape(6, 2, 4, 5)


def _candidates(image: torch.Tensor, pad: int) -> list[torch.Tensor]:
    padded = torch.nn.functional.pad(image, (pad, pad, pad, pad))
    crops = [padded[:, y : y + 4, x : x + 5] for y in range(2 * pad + 1) for x in range(2 * pad + 1)]
    return crops + [crop.flip(2) for crop in crops]


def test_each_result_is_a_crop_of_the_padded_image_mirrored_or_not() -> None:
    out = compute_augmented(IMAGES, AugmentConfig(padding=2), seed=5)
    for image, got in zip(IMAGES, out, strict=True):
        assert any(torch.equal(got, candidate) for candidate in _candidates(image, 2))
    assert not torch.equal(out, IMAGES)


def test_flip_occurs_for_some_images_and_not_for_all() -> None:
    images = IMAGES[:1].expand(64, -1, -1, -1)
    out = compute_augmented(images, AugmentConfig(padding=0), seed=0)
    mirrored = [torch.equal(image, IMAGES[0].flip(2)) for image in out]
    same = [torch.equal(image, IMAGES[0]) for image in out]
    assert 10 < sum(mirrored) < 54
    assert sum(mirrored) + sum(same) == 64


def test_nothing_to_do_returns_an_equal_copy() -> None:
    out = compute_augmented(IMAGES, AugmentConfig(padding=0, has_flip=False), seed=0)
    assert torch.equal(out, IMAGES)
    assert out.data_ptr() != IMAGES.data_ptr()


def test_result_is_a_pure_function_of_the_seed() -> None:
    before, kept = torch.get_rng_state(), IMAGES.clone()
    first = compute_augmented(IMAGES, AugmentConfig(), seed=augment_seed(3, 1, 2))
    assert torch.equal(first, compute_augmented(IMAGES, AugmentConfig(), seed=augment_seed(3, 1, 2)))
    assert not torch.equal(first, compute_augmented(IMAGES, AugmentConfig(), seed=augment_seed(3, 1, 3)))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(IMAGES, kept)


def test_border_takes_the_fill_of_its_channel() -> None:
    images = torch.ones(8, 2, 4, 5)
    out = compute_augmented(images, AugmentConfig(padding=3), seed=1, fill=torch.tensor([-2.0, -3.0]))
    assert set(out[:, 0].flatten().tolist()) == {1.0, -2.0}
    assert set(out[:, 1].flatten().tolist()) == {1.0, -3.0}


@pytest.mark.parametrize("padding", [-1, 65])
def test_padding_out_of_range_is_refused(padding: int) -> None:
    with pytest.raises(ConfigError, match=r"augment\.padding"):
        AugmentConfig(padding=padding)
