"""Tasks by name: what is learned, how it is scored, for how long, and what a kept seed must bring."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from esper.data import AugmentConfig, LoadOptions, TaskData, TextConfig, load_dataset
from esper.leyline import LossKind, MetricSpec, TaskSpec, UnknownNameError
from esper.runtime.experiment import TaskConfig

_ACCURACY = MetricSpec(name="accuracy", is_higher_better=True, scale=0.05)
_PERPLEXITY = MetricSpec(name="perplexity", is_higher_better=False, scale=0.1, is_exponential=True)
_BYTES = 256


def _classify(
    name: str, shape: tuple[int, ...], num_classes: int, horizon: int, keep: float, *, uses_loss: bool = True
) -> TaskSpec:
    return TaskSpec(
        name=name,
        loss=LossKind.CLASSIFICATION,
        input_shape=shape,
        num_outputs=num_classes,
        metric=_ACCURACY,
        horizon_epochs=horizon,
        keep_threshold=keep,
        gates_use_loss=uses_loss,
    )


def _model_language(name: str) -> TaskSpec:
    return TaskSpec(
        name=name,
        loss=LossKind.LANGUAGE_MODEL,
        input_shape=(TextConfig().context,),
        num_outputs=_BYTES,
        metric=_PERPLEXITY,
        horizon_epochs=24,
        keep_threshold=0.005,
        gates_use_loss=True,
    )


_TASKS = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            _classify("digits", (1, 8, 8), 10, 40, 0.005),
            _classify("fashion_mnist", (1, 28, 28), 10, 30, 0.005),
            _classify("emoji9", (3, 32, 32), 9, 40, 0.005),
            _classify("cifar10", (3, 32, 32), 10, 75, 0.005),
            _classify("cifar10_deep", (3, 32, 32), 10, 75, 0.005),
            _model_language("austen"),
            _model_language("tinystories"),
            _model_language("text"),
            _classify("synthetic", (16,), 4, 40, 0.005),
        )
    }
)
"""Task name -> facts; of texts as the default settings read them. Contributions are measured on the per-item
loss (nats): it resolves differences that an accuracy over a few thousand items cannot, and 0.005 nats is
about the smallest that is worth a slot."""

TASK_NAMES: tuple[str, ...] = tuple(_TASKS)

_AUGMENTED = frozenset({"cifar10", "cifar10_deep"})


def task_spec(name: str) -> TaskSpec:
    """Return a task's facts.

    Raises:
        UnknownNameError: If there is no such task.
    """
    if name not in _TASKS:
        raise UnknownNameError("task", name, TASK_NAMES)
    return _TASKS[name]


def load_task(config: TaskConfig) -> tuple[TaskSpec, TaskData]:
    """Return a task's facts together with its data, checked against each other.

    Raises:
        UnknownNameError: If there is no such task.
        DataError: If the data set is missing or damaged.
    """
    spec = task_spec(config.name)
    folder = None if config.data_dir is None else Path(config.data_dir)
    options = LoadOptions(num_train_rows=config.num_train_rows, text=config.text)
    data = load_dataset(config.name, folder, options)
    if (
        spec.loss is LossKind.LANGUAGE_MODEL
    ):  # context and vocabulary are a matter of settings and of the text
        spec = replace(spec, input_shape=data.input_shape, num_outputs=data.num_classes)
    assert data.input_shape == spec.input_shape, (data.input_shape, spec.input_shape)
    assert data.num_classes == spec.num_outputs, (data.num_classes, spec.num_outputs)
    return spec, data


def choose_augmentation(config: TaskConfig) -> AugmentConfig | None:
    """Return how training batches are augmented: as configured, else crop and flip for photographs only."""
    is_on = config.name in _AUGMENTED if config.is_augmented is None else config.is_augmented
    return AugmentConfig() if is_on else None
