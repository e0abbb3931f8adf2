"""Host runs that worker processes can build, and faults that strike inside them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from esper.data import Batch, TaskData
from esper.kasmina import MorphogeneticModel
from esper.leyline import (
    Action,
    ConfigError,
    Decision,
    EpochOutcome,
    EventSink,
    HostProbe,
    JsonValue,
    LifecycleOp,
)
from esper.tolaria import HostRun
from tolaria.small_run import germinate, make_config, make_data, make_parts, make_task

EPOCHS = 8

SCRIPTS: tuple[tuple[tuple[int, Action], ...], ...] = (
    (
        (0, germinate("block1")),
        (1, germinate("block2", "depthwise", 2)),
        (2, Action(op=LifecycleOp.ADVANCE, slot="block1")),
        (4, Action(op=LifecycleOp.CULL, slot="block2", tempo_epochs=1)),
        (5, germinate("block3", "conv_small")),
    ),
    ((0, germinate("block3")), (1, germinate("block1")), (3, Action(op=LifecycleOp.CULL, slot="block3"))),
    ((2, germinate("block2", "norm")),),
)
"""What is decided for a row: several seeds at once, culls, and almost nothing."""


class UnlikeItsArgumentsError(ConfigError):
    """An error whose constructor wants other arguments than it keeps."""

    def __init__(self, first: str, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.second = second


@dataclass(frozen=True, slots=True)
class Strike:
    """What happens in the middle of an interval of one instance."""

    instance: int
    epoch: int
    what: str
    """"raise", "exit", "kill" or "rollback"."""

    def happen(self, model: MorphogeneticModel) -> None:
        """Do it."""
        if self.what == "raise":
            raise UnlikeItsArgumentsError("one", 2)
        if self.what == "exit":
            os._exit(7)
        if self.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        for parameter in model.parameters():
            parameter.data.fill_(float("nan"))


@dataclass(slots=True)
class StrikeProbe:
    """Strikes in the last batch of an interval of the host that it belongs to."""

    strike: Strike | None
    epoch: int = 0

    def after_backward(self, model: MorphogeneticModel, batch: Batch, batch_index: int) -> None:
        """Strike when the time has come; once."""
        if self.strike is not None and self.epoch == self.strike.epoch and batch_index == 1:
            strike, self.strike = self.strike, None
            strike.happen(model)

    def after_epoch(self, model: MorphogeneticModel, outcome: EpochOutcome) -> None:
        """Count."""
        self.epoch += 1

    def after_validation(self, outputs: object, targets: object) -> None:
        """Do nothing."""

    def state(self) -> dict[str, JsonValue]:
        """Remember nothing."""
        return {}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class SmallHosts:
    """Makes what builds small hosts, in this process or in a worker."""

    data: TaskData
    strike: Strike | None = None
    refused: int | None = None
    """Instance that cannot be built."""

    def __call__(self, sink: EventSink) -> Callable[[int], HostRun]:
        """Return instance -> host run."""

        def build(instance: int) -> HostRun:
            if instance == self.refused:
                raise ConfigError(f"host {instance} is refused")
            strike = self.strike if self.strike is not None and self.strike.instance == instance else None
            probe: HostProbe[MorphogeneticModel, Batch] = StrikeProbe(strike)
            config = replace(make_config(epochs=EPOCHS), on_failure="restore", snapshot_every=1)
            parts = replace(make_parts(self.data, probe=probe, dropout=0.1), sink=sink)
            return HostRun(make_task(), config, parts, run_seed=5, instance=instance)

        return build


def small_hosts(strike: Strike | None = None) -> SmallHosts:
    """Return hosts on one set of data."""
    return SmallHosts(make_data(), strike)


def decide_row(row: int, epoch: int) -> Decision:
    """Return the scripted decision of a row at an epoch."""
    return Decision(action=dict(SCRIPTS[row % len(SCRIPTS)]).get(epoch, Action()), reason="scripted")
