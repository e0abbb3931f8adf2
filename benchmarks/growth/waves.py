"""A family of 1-D signals in ten classes, generated from a seed: small, hard for a linear map, free of files.

    template (12 heights per class) -> stretch -> place in 60 samples -> scale, tilt -> noise -> 40 samples

A class is one smooth template; an item is that template somewhere in a longer, noisy signal. Its class does
not sit at a fixed place, so that a linear classifier gets little and width or depth pays. Noise and shift are
settings: each pair of values is another instance of the family. The idea of such a set (Greydanus, MNIST-1D)
is public; templates, transforms and constants here are our own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from esper.data import ArraySplit, TaskData, compute_channel_stats
from esper.leyline import ConfigError, derive_seed

NUM_CLASSES = 10
NUM_KNOTS = 12
"""Heights that make up a template."""
NUM_RAW = 60
"""Samples of a signal before it is thinned out."""
NUM_SAMPLES = 40
"""Samples of an item."""
SMOOTHING = (0.25, 0.5, 0.25)
"""Weights of a moving mean over neighbouring samples of the noise, so that some of it looks like signal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WavesConfig:
    """One instance of the family."""

    noise: float = 0.25
    """Standard deviation of the noise over that of the templates, >= 0."""
    shift: float = 1.0
    """How far a template may lie from the middle, as a fraction of the room there is, in [0, 1]."""
    stretch: float = 0.3
    """Largest relative change of a template's length, in [0, 0.5]."""
    num_train: int = 4_000
    num_validation: int = 2_000
    num_test: int = 2_000
    seed: int = 0
    """Of templates and items; another seed is another set of classes."""

    def __post_init__(self) -> None:
        for name, high in (("noise", math.inf), ("shift", 1.0), ("stretch", 0.5)):
            if not 0.0 <= getattr(self, name) <= high:
                raise ConfigError(f"waves.{name}={getattr(self, name)}: must be in [0, {high}]")
        for name in ("num_train", "num_validation", "num_test"):
            if getattr(self, name) < NUM_CLASSES:
                raise ConfigError(f"waves.{name}={getattr(self, name)}: must be >= {NUM_CLASSES}")


def build_waves(config: WavesConfig) -> TaskData:
    """Return the three parts; each draws from a stream of its own, so that sizes do not move other rows."""
    templates = build_templates(config.seed)
    counts = {"train": config.num_train, "validation": config.num_validation, "test": config.num_test}
    train, validation, test = (_build_part(config, templates, part, num) for part, num in counts.items())
    mean, std = compute_channel_stats(train)
    return TaskData(
        name="waves",
        train=train,
        validation=validation,
        test=test,
        mean=mean,
        std=std,
        class_names=tuple(f"wave {label}" for label in range(NUM_CLASSES)),
        licence="none needed",
        credit="Synthetic signals.",
        citation="",
    )


def build_templates(seed: int) -> Tensor:
    """Return [classes, knots] float64: smoothed random walks, each with mean 0 and standard deviation 1."""
    generator = _generator(seed, "templates")
    steps = torch.randn(NUM_CLASSES, NUM_KNOTS, generator=generator, dtype=torch.float64)
    walks = steps.cumsum(dim=1)
    centred = walks - walks.mean(dim=1, keepdim=True)
    return centred / centred.std(dim=1, keepdim=True, correction=0)


def _build_part(config: WavesConfig, templates: Tensor, part: str, num_items: int) -> ArraySplit:
    generator = _generator(config.seed, part)
    # Every class equally often, then mixed: accuracy needs no weights.
    labels = torch.arange(num_items) % NUM_CLASSES
    labels = labels[torch.randperm(num_items, generator=generator)]
    signals = _place(templates[labels], config, generator)
    gain = 1.0 + 0.4 * (_uniform(generator, num_items) - 0.5)
    tilt = 1.5 * (_uniform(generator, num_items) - 0.5)
    ramp = torch.linspace(-1.0, 1.0, NUM_RAW, dtype=torch.float64)
    noise = torch.randn(num_items, NUM_RAW, generator=generator, dtype=torch.float64)
    raw = gain[:, None] * signals + tilt[:, None] * ramp + config.noise * (noise + _smooth(noise))
    thinned = F.interpolate(raw[:, None], size=NUM_SAMPLES, mode="linear", align_corners=True)[:, 0]
    return ArraySplit(inputs=thinned.to(torch.float32), targets=labels, source=f"waves/{part}/{config}")


def _place(templates: Tensor, config: WavesConfig, generator: torch.Generator) -> Tensor:
    """Return [N, raw samples]: each template as long as drawn, where drawn, and 0 elsewhere."""
    count = len(templates)
    length = 0.5 * NUM_RAW * (1.0 + config.stretch * (2.0 * _uniform(generator, count) - 1.0))
    room = (NUM_RAW - length) / 2.0
    start = room * (1.0 + config.shift * (2.0 * _uniform(generator, count) - 1.0))
    # Where each sample lies on the template, in knots.
    place = (torch.arange(NUM_RAW, dtype=torch.float64) - start[:, None]) / length[:, None] * (NUM_KNOTS - 1)
    left = place.floor().clamp(0, NUM_KNOTS - 2).to(torch.int64)
    share = place - left
    value = templates.gather(1, left) * (1.0 - share) + templates.gather(1, left + 1) * share
    return torch.where((place >= 0) & (place <= NUM_KNOTS - 1), value, 0.0)


def _smooth(noise: Tensor) -> Tensor:
    kernel = torch.tensor(SMOOTHING, dtype=noise.dtype).view(1, 1, -1)
    return F.conv1d(noise[:, None], kernel, padding=len(SMOOTHING) // 2)[:, 0]


def _uniform(generator: torch.Generator, count: int) -> Tensor:
    return torch.rand(count, generator=generator, dtype=torch.float64)


def _generator(seed: int, stream: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, "waves", stream))
