"""A task of the benchmark that trains in a blink: few signals, a narrow network."""

from __future__ import annotations

from growth.tasks import BenchTask, TaskSettings
from growth.waves import WavesConfig, build_waves

from esper.data import DeviceCache
from esper.leyline import LossKind, MetricSpec, TaskSpec


def make_task(*, width: int = 4, epochs: int = 6, num_train: int = 640) -> BenchTask:
    """Return the task; enough rows remain beside those of the line search."""
    data = build_waves(WavesConfig(num_train=num_train, num_validation=100, num_test=50))
    settings = TaskSettings(name="waves", width=width, batch_size=64, epochs=epochs, statistics_rows=128)
    spec = TaskSpec(
        name="waves",
        loss=LossKind.CLASSIFICATION,
        input_shape=data.input_shape,
        num_outputs=data.num_classes,
        metric=MetricSpec(name="accuracy", is_higher_better=True, scale=0.05),
        horizon_epochs=epochs,
        keep_threshold=0.005,
        gates_use_loss=True,
    )
    return BenchTask(settings=settings, spec=spec, data=data, cache=DeviceCache())
