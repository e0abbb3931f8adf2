from __future__ import annotations

import dataclasses

import pytest
import torch

from esper.data.synthetic import SyntheticConfig, build_synthetic
from esper.leyline import ConfigError

SMALL = SyntheticConfig(num_train=200, num_validation=100, num_test=50)


def test_parts_have_the_stated_sizes_and_types() -> None:
    parts = build_synthetic(SMALL)
    assert [part.num_items for part in parts] == [200, 100, 50]
    assert parts[0].inputs.dtype == torch.float32
    assert parts[0].input_shape == (16,)


def test_same_config_gives_the_same_bits_and_another_seed_others() -> None:
    first, again = build_synthetic(SMALL)[0], build_synthetic(SMALL)[0]
    other = build_synthetic(dataclasses.replace(SMALL, seed=1))[0]
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.inputs, other.inputs)
    assert first.source != other.source


def test_size_of_one_part_moves_no_row_of_another() -> None:
    first = build_synthetic(SMALL)
    second = build_synthetic(dataclasses.replace(SMALL, num_train=300))
    assert torch.equal(first[1].inputs, second[1].inputs)
    assert torch.equal(first[1].targets, second[1].targets)


def test_every_class_occurs_in_every_default_task() -> None:
    for seed in range(5):
        train = build_synthetic(SyntheticConfig(seed=seed))[0]
        assert train.targets.bincount(minlength=4).min() > 0.05 * train.num_items


def test_noise_redraws_the_stated_fraction() -> None:
    config = SyntheticConfig(num_train=20_000)
    noisy = dataclasses.replace(config, noise=0.4)
    clean, dirty = build_synthetic(config)[0], build_synthetic(noisy)[0]
    assert torch.equal(clean.inputs, dirty.inputs)
    agreement = float((clean.targets == dirty.targets).double().mean())
    assert noisy.best_accuracy == pytest.approx(0.7)
    assert agreement == pytest.approx(0.7, abs=0.015)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_inputs", 0),
        ("teacher_width", 0),
        ("num_classes", 1),
        ("num_train", 0),
        ("num_validation", 0),
        ("num_test", -1),
        ("noise", 1.0),
        ("noise", -0.1),
        ("noise", float("nan")),
    ],
)
def test_out_of_range_is_refused_naming_the_field(field: str, value: float) -> None:
    changes: dict[str, object] = {field: value}
    with pytest.raises(ConfigError, match=rf"synthetic\.{field}"):
        dataclasses.replace(SMALL, **changes)  # type: ignore[arg-type]


def test_global_generator_is_not_moved() -> None:
    before = torch.get_rng_state()
    build_synthetic(SMALL)
    assert torch.equal(before, torch.get_rng_state())
