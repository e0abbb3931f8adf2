"""The tasks of the benchmark: data, sizes and settings that all arms of a task share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType

from esper.data import DeviceCache, LoadOptions, TaskData, load_dataset
from esper.leyline import ConfigError, LossKind, MetricSpec, TaskSpec, canonical_hash, suggest
from esper.tamiyo import GreedyConfig
from esper.tolaria import HostRunConfig, OptimizerConfig
from growth.bill import FIRST_FRACTION, LAST_FRACTION, LINE_SEARCH, NUM_ROUNDS, SEARCH_ROWS
from growth.network import count_flops, count_params, match_width
from growth.policies import build_rules
from growth.waves import WavesConfig, build_waves

RATE_FACTORS = (1 / 3, 1.0, 3.0)
"""The grid of peak learning rates, times a task's default."""
KEEP_THRESHOLD = 0.005
"""Nats that a seed must bring to be kept, as in the built-in tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettings:
    """What fixes a task's runs; part of every row's protocol."""

    name: str
    width: int
    """Of every hidden layer of the small network; it is deliberately too small."""
    batch_size: int
    epochs: int
    """Of the small, the big and the grown networks where nothing is matched by FLOPs."""
    learning_rate: float = 0.1
    """Middle of the grid of peak rates."""
    num_hidden: int = 3
    num_train_rows: int | None = None
    """None = as the set has it: 10,000 of Fashion-MNIST, all of the others."""
    statistics_rows: int = 1_024
    """Most training rows that gradient statistics are taken on; well above the inputs of any layer, or the
    update fits noise."""
    data_seed: int = 0
    """Of generated data."""

    @property
    def rates(self) -> tuple[float, ...]:
        """The grid, rounded so that a rate is the same number in every row and on every command line."""
        return tuple(float(f"{factor * self.learning_rate:.4g}") for factor in RATE_FACTORS)

    @property
    def default_rate(self) -> float:
        return float(f"{self.learning_rate:.4g}")

    @property
    def optimizer(self) -> OptimizerConfig:
        """SGD with momentum, cosine decay to a hundredth of the peak, clipped: the same for every arm."""
        return OptimizerConfig(name="sgd")

    def hash_protocol(self) -> str:
        """Return what all rows of a table share."""
        growth = (FIRST_FRACTION, LAST_FRACTION, NUM_ROUNDS, LINE_SEARCH, SEARCH_ROWS)
        plain = asdict(self) | {
            "optimizer": asdict(self.optimizer),
            "growth": repr(growth),
            # What our policies and their hosts go by: another default is another protocol.
            "rules": repr((build_rules(), GreedyConfig(), HostRunConfig())),
        }
        return canonical_hash(plain)[:16]


TASKS: Mapping[str, TaskSettings] = MappingProxyType(
    {
        settings.name: settings
        for settings in (
            TaskSettings(name="digits", width=8, batch_size=64, epochs=40),
            TaskSettings(name="waves", width=16, batch_size=128, epochs=40),
            TaskSettings(name="fashion_mnist", width=32, batch_size=128, epochs=30, statistics_rows=4_096),
        )
    }
)
TASK_NAMES: tuple[str, ...] = tuple(TASKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchTask:
    """A task with its data loaded."""

    settings: TaskSettings
    spec: TaskSpec
    data: TaskData
    cache: DeviceCache

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def num_inputs(self) -> int:
        return math.prod(self.spec.input_shape)

    @property
    def num_train(self) -> int:
        return self.data.train.num_items

    @property
    def small(self) -> tuple[int, ...]:
        """Widths of the hidden layers of the small network."""
        return (self.settings.width,) * self.settings.num_hidden

    @property
    def big(self) -> tuple[int, ...]:
        """Widths whose parameters come nearest to, and do not exceed, what ours may grow to."""
        settings = self.settings
        wide = match_width(self.num_inputs, settings.width, settings.num_hidden, self.spec.num_outputs)
        return (wide,) * settings.num_hidden

    @property
    def statistics_rows(self) -> int:
        """Rows of gradient statistics; what the line search needs is left over."""
        return min(self.settings.statistics_rows, self.num_train - SEARCH_ROWS)

    def params(self, hidden: tuple[int, ...]) -> int:
        return count_params(self.num_inputs, hidden, self.spec.num_outputs)

    def forward_flops(self, hidden: tuple[int, ...]) -> int:
        """Return FLOPs of one item's forward pass."""
        return count_flops(self.num_inputs, hidden, self.spec.num_outputs)

    def epoch_flops(self, hidden: tuple[int, ...]) -> int:
        """Return FLOPs of one epoch of training: three forward passes per item, as the ledger has it."""
        return 3 * self.forward_flops(hidden) * self.num_train


def find_settings(name: str, *, epochs: int | None = None) -> TaskSettings:
    """Return the settings of a task.

    Args:
        name: One of `TASK_NAMES`.
        epochs: Another number than the task's own, for a short look.

    Raises:
        ConfigError: If there is no such task.
    """
    if name not in TASKS:
        raise ConfigError(f"task {name!r}: {suggest(name, TASK_NAMES)}")
    return TASKS[name] if epochs is None else replace(TASKS[name], epochs=epochs)


def load_bench_task(settings: TaskSettings) -> BenchTask:
    """Load or generate a task's data.

    Raises:
        DataError: If the set is missing or damaged.
    """
    if settings.name == "waves":
        data = build_waves(WavesConfig(seed=settings.data_seed))
    else:
        data = load_dataset(settings.name, None, LoadOptions(num_train_rows=settings.num_train_rows))
    spec = TaskSpec(
        name=settings.name,
        loss=LossKind.CLASSIFICATION,
        input_shape=data.input_shape,
        num_outputs=data.num_classes,
        metric=MetricSpec(name="accuracy", is_higher_better=True, scale=0.05),
        horizon_epochs=settings.epochs,
        keep_threshold=KEEP_THRESHOLD,
        gates_use_loss=True,
    )
    return BenchTask(settings=settings, spec=spec, data=data, cache=DeviceCache())
