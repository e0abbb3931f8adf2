"""Small hosts of every family for fleets: images, flat inputs, words; in double where that is the default.

In double two ways to the same sum differ by about 1e-16 of it, so that what differs by more is a mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import nn

from esper.data import ArraySplit, DeviceCache, TaskData
from esper.kasmina import (
    CNNHost,
    CNNHostConfig,
    MLPHost,
    MLPHostConfig,
    TransformerHost,
    TransformerHostConfig,
    builtin_registry,
)
from esper.leyline import Action, AlphaCurve, BlendForm, Event, LifecycleOp, LossKind, MetricSpec, TaskSpec
from esper.tolaria import HostRun, HostRunConfig, HostRunParts, OptimizerConfig
from tolaria.small_run import ListSink, make_config, make_data, make_split, make_task

VOCABULARY = 7
CONTEXT = 6
RUN_SEED = 5
CPU = torch.device("cpu")
CLIP = OptimizerConfig(clip_norm=0.5)
"""SGD with a clip that bites in most batches."""


def build_cache(data: TaskData) -> DeviceCache:
    """Return a cache; where double is the default type it holds the images normalised in double."""
    cache = DeviceCache()
    if torch.get_default_dtype() != torch.float64:
        return cache
    for split in (data.train, data.validation, data.test):
        single = cache.storage(split, device=CPU, mean=data.mean, std=data.std)
        if not single.is_tokens:
            inputs = single.normalise(single.inputs.clone()).double()
            double = replace(single, inputs=inputs, shift=single.shift.double(), is_normalised=True)
            key = next(key for key, kept in cache._entries.items() if kept is single)
            cache._entries[key] = double
    return cache


@final
@dataclass(slots=True)
class InstanceSink:
    """Keeps events by host, whatever their order among hosts."""

    of_host: dict[int, ListSink] = field(default_factory=dict)

    def emit(self, event: Event) -> None:
        """Take one event."""
        self.of_host.setdefault(event.instance, ListSink()).emit(event)


def image_data(num_items: int = 77) -> TaskData:
    """Return bright quarters; 77 items in batches of 32 end in a short one."""
    return replace(make_data(), train=make_split(num_items, 1))


def word_data() -> TaskData:
    """Return windows of tokens in which the next one follows from two before it."""

    def split(num_items: int, seed: int) -> ArraySplit:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randint(VOCABULARY, (num_items, CONTEXT + 1), generator=generator)
        for place in range(2, CONTEXT + 1):
            rows[:, place] = (rows[:, place - 1] + rows[:, place - 2]) % VOCABULARY
        tokens = rows.to(torch.uint8)
        return ArraySplit(
            inputs=tokens[:, :-1].clone(), targets=tokens[:, 1:].clone(), source=f"sums/{seed}/{num_items}"
        )

    return replace(
        make_data(),
        name="sums",
        train=split(50, 1),
        validation=split(30, 2),
        test=split(30, 3),
        mean=(),
        std=(),
        class_names=tuple("abcdefg"),
    )


def word_task() -> TaskSpec:
    """Return the task of the words."""
    return TaskSpec(
        name="words",
        loss=LossKind.LANGUAGE_MODEL,
        input_shape=(CONTEXT,),
        num_outputs=VOCABULARY,
        metric=MetricSpec(name="accuracy", is_higher_better=True, scale=0.05),
        horizon_epochs=10,
        keep_threshold=0.0,
        gates_use_loss=True,
    )


def cnn(norm: str = "batch", *, base: int = 4, dropout: float = 0.0) -> Callable[[], nn.Module]:
    """Return a builder of a CNN for 8 x 8 grey images; its first two blocks halve the map."""
    config = CNNHostConfig(
        in_channels=1, num_classes=4, base_channels=base, num_pools=2, norm=norm, dropout=dropout
    )
    return lambda: CNNHost(config)


def mlp(norm: str = "none") -> Callable[[], nn.Module]:
    """Return a builder of an MLP for the same images."""
    config = MLPHostConfig(num_inputs=64, num_classes=4, hidden=(6, 5), norm=norm)
    return lambda: MLPHost(config)


def words() -> nn.Module:
    """Return a transformer for the windows of tokens."""
    return TransformerHost(
        TransformerHostConfig(vocabulary=VOCABULARY, context=CONTEXT, width=8, num_blocks=2, num_heads=2)
    )


def make_host_parts(
    build_host: Callable[[], nn.Module],
    data: TaskData | None = None,
    *,
    blueprints: tuple[str, ...] = (),
) -> HostRunParts:
    """Return parts that the hosts of one fleet share; pricing few blueprints makes hosts quick to build."""
    chosen = image_data() if data is None else data
    return HostRunParts(
        build_host=build_host,
        data=chosen,
        cache=build_cache(chosen),
        registry=builtin_registry(),
        device=CPU,
        blueprints=blueprints,
        sink=InstanceSink(),
    )


def quick_config(**changes: object) -> HostRunConfig:
    """Return settings of a short life with gates that open early, and fields of them changed."""
    base = make_config()
    measuring = replace(base.measuring, contribution_items=50, calibration_items=40)
    return replace(base, **({"optimizer": CLIP, "measuring": measuring} | changes))  # type: ignore[arg-type]


def grow(
    slot: str,
    blueprint: str,
    blend: BlendForm = BlendForm.ADD,
    curve: AlphaCurve = AlphaCurve.LINEAR,
    *,
    tempo: int = 1,
    target: float = 1.0,
) -> Action:
    """Return a GERMINATE action."""
    return Action(
        op=LifecycleOp.GERMINATE,
        slot=slot,
        blueprint=blueprint,
        blend=blend,
        curve=curve,
        tempo_epochs=tempo,
        alpha_target=target,
    )


def do(op: LifecycleOp, slot: str, *, tempo: int = 1, target: float = 1.0) -> Action:
    """Return an action on a seed that lives."""
    return Action(op=op, slot=slot, tempo_epochs=tempo, alpha_target=target)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Hosts of a fleet."""

    parts: Callable[[], HostRunParts]
    """Called once a fleet: sinks and caches are its own."""
    config: HostRunConfig = field(default_factory=quick_config)
    task: TaskSpec = field(default_factory=make_task)
    others: Mapping[int, HostRunConfig] = field(default_factory=dict)
    """Instance -> settings in place of `config`."""

    def builder(self) -> tuple[Callable[[int], HostRun], InstanceSink]:
        """Return what builds a host of an instance id, and where the events go."""
        parts = self.parts()
        assert isinstance(parts.sink, InstanceSink)

        def build(instance: int) -> HostRun:
            config = self.others.get(instance, self.config)
            return HostRun(self.task, config, parts, run_seed=RUN_SEED, instance=instance)

        return build, parts.sink
