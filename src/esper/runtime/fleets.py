"""Settings to a fleet: which implementation runs the hosts of a policy in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from esper.leyline import ConfigError, Observation
from esper.runtime.families import HostFactory
from esper.tolaria import Fleet, FleetConfig, FusedFleet, ProcessFleet, SerialFleet

ColumnsT = TypeVar("ColumnsT")


def build_fleet(
    config: FleetConfig,
    factory: HostFactory,
    instances: Sequence[int],
    encode: Callable[[Sequence[Observation]], ColumnsT],
) -> Fleet[ColumnsT]:
    """Return hosts that are run as the settings say; `close` it when done.

    Args:
        config: Which fleet.
        factory: Makes its hosts.
        instances: [E] seeds of the first hosts, each once.
        encode: Makes columns [E, ...] of E observations.

    Raises:
        ConfigError: If the kind is "auto".
        EsperError: If hosts cannot be built, or workers cannot be started.
    """
    if config.kind in ("process", "fused_process"):
        return ProcessFleet(factory.for_workers(), instances, encode=encode, config=config)
    if config.kind == "fused":
        return FusedFleet(factory.build, instances, encode=encode)
    if config.kind == "auto":
        raise ConfigError("fleet.kind='auto': measure first which fleet is the fastest (choose_fleet)")
    return SerialFleet(factory.build, instances, encode=encode)
