"""Tasks by name, and their data."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from data.tiny_texts import write_prose
from esper.data import TextConfig
from esper.leyline import LossKind, UnknownNameError
from esper.runtime.experiment import TaskConfig
from esper.runtime.tasks import TASK_NAMES, choose_augmentation, load_task, task_spec


def test_every_task_has_its_own_name() -> None:
    assert [task_spec(name).name for name in TASK_NAMES] == list(TASK_NAMES)


def test_unknown_task_names_the_nearest_one() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
        task_spec("digit")


def test_digits_come_with_the_package_in_the_stated_parts() -> None:
    spec, data = load_task(TaskConfig(name="digits"))
    assert data.input_shape == spec.input_shape
    assert (data.train.num_items, data.validation.num_items, data.test.num_items) == (1077, 360, 360)


def test_synthetic_data_fit_their_task() -> None:
    spec, data = load_task(TaskConfig(name="synthetic"))
    assert (data.input_shape, data.num_classes) == (spec.input_shape, spec.num_outputs)


def test_small_validation_splits_gate_on_the_loss() -> None:
    assert task_spec("digits").gates_use_loss


@pytest.mark.parametrize(("name", "is_on"), [("cifar10", True), ("digits", False)])
def test_only_photographs_are_augmented_by_default(name: str, is_on: bool) -> None:
    assert (choose_augmentation(TaskConfig(name=name)) is not None) == is_on


def test_a_setting_wins_over_the_tasks_own_augmentation() -> None:
    assert choose_augmentation(TaskConfig(name="digits", is_augmented=True)) is not None


@pytest.mark.parametrize("name", ["austen", "tinystories", "text"])
def test_texts_are_judged_by_perplexity_and_gated_on_the_loss(name: str) -> None:
    spec = task_spec(name)
    assert spec.loss is LossKind.LANGUAGE_MODEL
    assert spec.gates_use_loss
    assert spec.metric.shown(-spec.chance_loss) == pytest.approx(256.0)
    assert spec.chance_loss == pytest.approx(math.log(256))


@pytest.mark.parametrize(("tokens", "num_outputs"), [("bytes", 256), ("characters", 27)])
def test_a_text_task_takes_the_context_and_the_vocabulary_of_its_data(
    tmp_path: Path, tokens: str, num_outputs: int
) -> None:
    path = tmp_path / "book.txt"
    path.write_text(write_prose(12_000))
    config = TaskConfig(name="text", text=TextConfig(file=str(path), context=9, tokens=tokens))
    spec, data = load_task(config)
    assert spec.input_shape == data.input_shape == (9,)
    assert spec.num_outputs == data.num_classes == num_outputs
