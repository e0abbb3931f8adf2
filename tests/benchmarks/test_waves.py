"""The generated signals: what depends on what, and that they are as described."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from growth.waves import NUM_CLASSES, NUM_RAW, NUM_SAMPLES, WavesConfig, build_templates, build_waves

from esper.leyline import ConfigError

SMALL = WavesConfig(num_train=200, num_validation=60, num_test=60)


def test_equal_settings_give_equal_rows_and_another_seed_other_classes() -> None:
    first, again, other = build_waves(SMALL), build_waves(SMALL), build_waves(replace(SMALL, seed=1))
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert torch.equal(first.train.targets, again.train.targets)
    assert not torch.equal(first.train.inputs, other.train.inputs)
    assert not torch.allclose(build_templates(0), build_templates(1))


def test_the_size_of_one_part_moves_no_row_of_another() -> None:
    whole, fewer = build_waves(SMALL), build_waves(replace(SMALL, num_train=100))
    assert torch.equal(whole.validation.inputs, fewer.validation.inputs)
    assert torch.equal(whole.test.targets, fewer.test.targets)


def test_every_class_comes_equally_often() -> None:
    data = build_waves(SMALL)
    assert torch.bincount(data.train.targets).tolist() == [20] * NUM_CLASSES
    assert data.train.inputs.shape == (200, NUM_SAMPLES)
    assert data.input_shape == (NUM_SAMPLES,)
    assert data.num_classes == NUM_CLASSES


def test_without_noise_shift_and_stretch_a_class_is_its_template_and_a_ramp() -> None:
    config = replace(SMALL, noise=0.0, shift=0.0, stretch=0.0)
    data = build_waves(config).train
    for label in range(NUM_CLASSES):
        rows = data.inputs[data.targets == label].double()
        values = torch.linalg.svdvals(rows)
        # Items differ in gain and tilt alone: every one is a sum of two shapes.
        assert values[2] < 1e-4 * values[0]
        assert values[1] > 1e-2 * values[0]


def test_templates_have_mean_zero_and_unit_deviation() -> None:
    templates = build_templates(0)
    assert torch.allclose(templates.mean(dim=1), torch.zeros(NUM_CLASSES, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(
        templates.std(dim=1, correction=0), torch.ones(NUM_CLASSES, dtype=torch.float64), atol=1e-12
    )


def test_no_template_is_cut_off_at_the_longest_and_farthest() -> None:
    config = WavesConfig()
    longest = 0.5 * NUM_RAW * (1.0 + config.stretch)
    assert longest < NUM_RAW


@pytest.mark.parametrize(
    "bad", [{"noise": -0.1}, {"noise": float("nan")}, {"shift": 1.5}, {"stretch": 0.6}, {"num_test": 5}]
)
def test_settings_out_of_range_are_refused_by_name(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"waves.{next(iter(bad))}"):
        replace(WavesConfig(), **bad)  # type: ignore[arg-type]
