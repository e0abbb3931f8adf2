"""Experiments by name, each a function that returns a full configuration. Files and flags come on top."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from esper.leyline import UnknownNameError
from esper.runtime.experiment import ExperimentConfig, ModelConfig, TaskConfig
from esper.simic import EntropyConfig, PPOConfig, TrainingConfig
from esper.tamiyo import HeuristicConfig, NetworkConfig
from esper.tolaria import HostRunConfig, MeasuringConfig, OptimizerConfig


def _grow_early() -> HeuristicConfig:
    """Rules for hosts that underfit: one convolution per slot from the start, and slow to condemn.

    Tuned on Fashion-MNIST, validation split, seeds 1000 and 1001: with the general defaults seeds were culled
    while the learning rate was still high and every contribution noisy.
    """
    return HeuristicConfig(
        is_stability_required=False,
        first_germination_epoch=1,
        germination_interval_epochs=1,
        blueprints_2d=("conv_heavy",),
        min_incubation_epochs=2,
        patience_epochs=5,
        min_judged_epochs=4,
        cull_errors=2.0,
    )


def _grow_language() -> HeuristicConfig:
    """Rules for language models that underfit: attention and MLPs from the start, slow to condemn."""
    return HeuristicConfig(
        is_stability_required=False,
        first_germination_epoch=2,
        germination_interval_epochs=2,
        blueprints_sequence=("mlp", "causal_attention"),
        min_incubation_epochs=2,
        patience_epochs=5,
        min_judged_epochs=4,
        cull_errors=2.0,
    )


def _know_more_in_training() -> NetworkConfig:
    """A policy whose critic knows what the same host would have come to without growth."""
    return NetworkConfig(is_critic_privileged=True)


def _learn_in_few_rounds() -> TrainingConfig:
    """Training in tens of rounds, because each costs the lives of its hosts.

    Chosen on digits, tuning seed 1000 (docs/LOG.md). An episode is tens of steps long and what it comes to is
    known at its end: nothing is discounted, and an advantage is what was reached less what the critic, who
    knows the present lead, had expected.
    """
    return TrainingConfig(
        num_updates=20,
        gamma=1.0,
        gae_lambda=1.0,
        ppo=PPOConfig(learning_rate=1e-3, max_grad_norm=5.0, target_kl=0.05),
        entropy=EntropyConfig(start=0.01, end=0.002),
    )


def digits() -> ExperimentConfig:
    """Handwritten digits 8x8, embedded in the package: the first run, under a minute on two cores.

    The host is deliberately too small, so that there is something to grow for (docs/LOG.md). One thread: its
    operations are too small to share, and on a busy machine threads that wait for each other take minutes.
    """
    return ExperimentConfig(
        num_threads=1,
        task=TaskConfig(name="digits"),
        model=ModelConfig(kind="cnn", base_channels=3, num_blocks=2, num_pools=2),
        host=HostRunConfig(batch_size=64, optimizer=OptimizerConfig(name="sgd", learning_rate=0.05)),
        heuristic=replace(_grow_early(), blueprints_2d=("conv_heavy", "conv_light", "depthwise")),
        network=_know_more_in_training(),
        training=_learn_in_few_rounds(),
    )


def fashion_mnist() -> ExperimentConfig:
    """Fashion-MNIST, 10,000 training rows: the main image task."""
    return ExperimentConfig(
        task=TaskConfig(name="fashion_mnist"),
        model=ModelConfig(kind="cnn", base_channels=5, num_blocks=3, num_pools=3),
        host=HostRunConfig(batch_size=128, optimizer=OptimizerConfig(name="sgd", learning_rate=0.1)),
        heuristic=_grow_early(),
        network=_know_more_in_training(),
        training=_learn_in_few_rounds(),
    )


def emoji9() -> ExperimentConfig:
    """Emoji drawings in colour, nine unbalanced classes."""
    return replace(fashion_mnist(), task=TaskConfig(name="emoji9"))


def cifar10() -> ExperimentConfig:
    """CIFAR-10 from a local folder, with a deliberately weak host of 6,418 parameters."""
    grey = fashion_mnist()
    return replace(grey, task=TaskConfig(name="cifar10"), model=replace(grey.model, base_channels=8))


def cifar10_deep() -> ExperimentConfig:
    """CIFAR-10 with five blocks, pooled down to one pixel: 99,922 parameters."""
    return replace(
        fashion_mnist(),
        task=TaskConfig(name="cifar10_deep"),
        model=ModelConfig(kind="cnn", base_channels=8, num_blocks=5, num_pools=5),
    )


def austen() -> ExperimentConfig:
    """The six novels of Jane Austen, byte by byte: two narrow transformer blocks learn to guess the next one.

    An interval is 200 batches, because a pass over the text would leave room for a handful of decisions. One
    thread, as for digits.
    """
    return ExperimentConfig(
        num_threads=1,
        task=TaskConfig(name="austen"),
        model=ModelConfig(kind="transformer", width=32, num_blocks=2, num_heads=2),
        host=HostRunConfig(
            batch_size=32,
            interval_batches=200,
            optimizer=OptimizerConfig(name="adamw", learning_rate=0.003, weight_decay=0.01),
            measuring=MeasuringConfig(contribution_items=1000, chunk_items=250),
        ),
        heuristic=_grow_language(),
        network=_know_more_in_training(),
        training=_learn_in_few_rounds(),
    )


def tinystories() -> ExperimentConfig:
    """TinyStories from a local folder, byte by byte, up to 64 MiB of it."""
    return replace(austen(), task=TaskConfig(name="tinystories"))


def text() -> ExperimentConfig:
    """A text of your own: --task.text.file names a .txt, .jsonl or .parquet file, or a folder of them."""
    return replace(austen(), task=TaskConfig(name="text"))


def synthetic() -> ExperimentConfig:
    """A teacher network of known width labels random inputs: the right size of the student is known."""
    return ExperimentConfig(
        num_threads=1,
        task=TaskConfig(name="synthetic"),
        model=ModelConfig(kind="mlp", hidden=(16, 16)),
        host=HostRunConfig(batch_size=128, optimizer=OptimizerConfig(name="adamw", learning_rate=0.003)),
        network=_know_more_in_training(),
        training=_learn_in_few_rounds(),
    )


_PRESETS: Mapping[str, Callable[[], ExperimentConfig]] = MappingProxyType(
    {
        build.__name__: build
        for build in (
            digits,
            fashion_mnist,
            emoji9,
            cifar10,
            cifar10_deep,
            austen,
            tinystories,
            text,
            synthetic,
        )
    }
)

PRESET_NAMES: tuple[str, ...] = tuple(_PRESETS)


def build_preset(name: str) -> ExperimentConfig:
    """Return a preset's full configuration.

    Raises:
        UnknownNameError: If there is no such preset.
    """
    if name not in _PRESETS:
        raise UnknownNameError("preset", name, PRESET_NAMES)
    return _PRESETS[name]()


def preset_for_task(task: str) -> ExperimentConfig:
    """Return the preset that carries a task's name.

    Raises:
        UnknownNameError: If there is no such task.
    """
    if task not in _PRESETS:
        raise UnknownNameError("task", task, PRESET_NAMES)
    return _PRESETS[task]()
