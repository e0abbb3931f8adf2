"""Settings to objects: the one place where things of different rooms are made for each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, final

import torch

from esper.data import Batch, DeviceCache, TaskData
from esper.kasmina import (
    CNNHost,
    CNNHostConfig,
    MLPHost,
    MLPHostConfig,
    MorphogeneticModel,
    TransformerHost,
    TransformerHostConfig,
    build_seeded,
)
from esper.leyline import (
    ConfigError,
    EventSink,
    HostError,
    HostProbe,
    Layout,
    LossKind,
    NullProbe,
    NullSink,
    TamiyoPolicy,
    TaskSpec,
    derive_seed,
)
from esper.runtime.devices import available_memory, resolve_device, set_threads
from esper.runtime.diagnosing import Diagnosis, build_probe
from esper.runtime.experiment import ExperimentConfig, ModelConfig
from esper.runtime.own_blueprints import Offer, load_offer
from esper.runtime.policies import find_policy, refuse_without_scores
from esper.runtime.tasks import choose_augmentation, load_task
from esper.tolaria import (
    HostRanks,
    HostRun,
    HostRunParts,
    OneRank,
    estimate_need,
    input_dtype,
    refuse_shortage,
)

if TYPE_CHECKING:
    from torch import nn

_IMAGE_RANK = 3  # channels, height, width


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """One experiment, ready to run."""

    host_run: HostRun
    policy: TamiyoPolicy
    task: TaskSpec
    data: TaskData
    policy_fingerprint: str | None = None
    """Of a trained policy's files; a run may only go on with the same ones."""


def build_host(model: ModelConfig, task: TaskSpec) -> Callable[[], nn.Module]:
    """Return a maker of fresh hosts for a task; weights come from the global random stream.

    Raises:
        ConfigError: If the host's settings are out of range, or it does not take the task's inputs.
    """
    if (task.loss is LossKind.LANGUAGE_MODEL) != (model.kind == "transformer"):
        raise ConfigError(
            f"model.kind={model.kind!r} does not go with task {task.name!r}: a transformer takes tokens and "
            "guesses the next one, the other kinds take images and numbers"
        )
    if model.kind == "transformer":
        tokens = TransformerHostConfig(
            vocabulary=task.num_outputs,
            context=task.input_shape[0],
            width=model.width,
            num_blocks=model.num_blocks,
            num_heads=model.num_heads,
            mlp_ratio=model.mlp_ratio,
            positions=model.positions,
            is_tied=model.is_tied,
            dropout=model.dropout,
        )
        return lambda: TransformerHost(tokens)
    if model.kind == "mlp":
        num_inputs = 1
        for size in task.input_shape:
            num_inputs *= size
        flat = MLPHostConfig(
            num_inputs=num_inputs, hidden=model.hidden, num_classes=task.num_outputs, dropout=model.dropout
        )
        return lambda: MLPHost(flat)
    if len(task.input_shape) != _IMAGE_RANK:
        raise ConfigError(
            f"model.kind={model.kind!r} needs images, the inputs of task {task.name!r} have shape "
            f"{task.input_shape}: choose model.kind='mlp'"
        )
    image = CNNHostConfig(
        base_channels=model.base_channels,
        num_blocks=model.num_blocks,
        kernel_size=model.kernel_size,
        num_pools=model.num_pools,
        in_channels=task.input_shape[0],
        num_classes=task.num_outputs,
        norm=model.norm,
        dropout=model.dropout,
    )
    return lambda: CNNHost(image)


def check_memory(config: ExperimentConfig, task: TaskSpec, *, num_hosts: int) -> None:
    """Refuse hosts whose training cannot fit, from shapes alone: nothing of them is allocated.

    Args:
        config: The experiment.
        task: Its task.
        num_hosts: Hosts that live at once.

    Raises:
        ConfigError: If memory does not suffice; says what is needed, what there is and what to change.
    """
    device, build = resolve_device(config.host.device), build_host(config.model, task)
    with torch.device("meta"):
        host = build_seeded(build, 0)
    try:
        need = estimate_need(host, task.input_shape, config.host, input_dtype(task))
    except HostError:  # building it says better what is wrong
        return
    refuse_shortage(need, config.host, available_memory(device), num_hosts=num_hosts, device=str(device))


def assemble(  # noqa: PLR0913 - what several runs share, each by itself or None
    config: ExperimentConfig,
    sink: EventSink | None = None,
    *,
    loaded: tuple[TaskSpec, TaskData] | None = None,
    cache: DeviceCache | None = None,
    instance: int = 0,
    ranks: HostRanks | None = None,
    probe: HostProbe[MorphogeneticModel, Batch] | None = None,
    offer: Offer | None = None,
) -> Assembly:
    """Build everything that one experiment needs.

    Args:
        config: The whole experiment.
        sink: Where events go; None drops them.
        loaded: Task and data, where they are shared by several runs; None loads them.
        cache: Owner of the data on the device; None makes one for this run.
        instance: Id of the host run; with the seed it fixes every random stream.
        ranks: Copies of the host in other processes; None = there are none.
        probe: What sees model and gradients of every batch, before the telemetry profile's own probe.
        offer: What `load_offer` gave, where several runs share it with what was counted; None loads it.

    Raises:
        EsperError: If a name is unknown, data is missing, or a setting does not fit.
    """
    refuse_without_scores(config.policy, config)
    registry, names = load_offer(config.blueprints) if offer is None else offer
    for layout in Layout:
        for name in config.heuristic.rotation_for(layout.value):
            registry.get(name)  # a misspelt id would only be passed over
    task, data = load_task(config.task) if loaded is None else loaded
    device = resolve_device(config.host.device)
    set_threads(config.num_threads)
    looks = build_probe(config.telemetry, NullProbe() if probe is None else probe, has_sink=sink is not None)
    parts = HostRunParts(
        build_host=build_host(config.model, task),
        data=data,
        cache=DeviceCache() if cache is None else cache,
        registry=registry,
        device=device,
        blueprints=names,
        slots=config.slots,
        sink=NullSink() if sink is None else sink,
        probe=looks,
        augment=choose_augmentation(config.task),
        read_memory=partial(available_memory, device),
        ranks=OneRank() if ranks is None else ranks,
    )
    if loaded is None:  # a run by itself; who shares data among several asks for all of them at once
        check_memory(config, task, num_hosts=1)
    host_run = HostRun(task, config.host, parts, run_seed=config.seed, instance=instance)
    if isinstance(looks, Diagnosis):
        looks.bind(host_run)
    seed = derive_seed(config.seed, "policy", instance)
    choice = find_policy(config.policy, config, seed=seed, is_greedy=False)
    choice.policy.reset()
    return Assembly(
        host_run=host_run,
        policy=choice.policy,
        task=task,
        data=data,
        policy_fingerprint=choice.fingerprint,
    )
