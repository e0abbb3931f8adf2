"""What one attempt at an experiment works with, put together before its loop begins. Runs nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol, final

from esper.leyline import Event, EventSink, InterruptedRunError
from esper.runtime.assemble import Assembly
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.fault_points import FaultPoints
from esper.runtime.policies import SCORES_NOTICE, add_scores, lacks_scores, resolve_auto
from esper.runtime.run_folder import RunFolder
from esper.tolaria import StateRecord

_SCORE_KEY = "host.measuring.score_every"


class StopQuestion(Protocol):
    """What a loop asks at its boundaries; see `RunStop`."""

    def __call__(self) -> bool:
        """Whether to save and leave."""

    def pauses(self) -> bool:
        """Whether to stop at this boundary, to leave or only to save."""

    def take_save_request(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""

    @property
    def is_time_over(self) -> bool:
        """Whether it was the time limit that said stop."""

    @property
    def reason(self) -> str:
        """Why the run stops, as the end of a sentence that begins with "stopped"."""

    def describe(self, saved: str | None, run_dir: Path) -> InterruptedRunError:
        """Return the error that ends the attempt at a run whose place was saved under a name, or was not."""


@final
class SettledExperiment(NamedTuple):
    """An experiment whose policy is known by its own name and gets what it needs."""

    config: ExperimentConfig
    provenance: Mapping[str, str]
    notices: tuple[str, ...]
    """What was added, for a person."""


def settle_policy(config: ExperimentConfig, provenance: Mapping[str, str]) -> SettledExperiment:
    """Return the experiment with "auto" resolved and scores added for a policy that reads them."""
    config = replace(config, policy=resolve_auto(config.policy))  # so that a later version resumes the same
    if not lacks_scores(config.policy, config):
        return SettledExperiment(config, provenance, ())
    return SettledExperiment(
        add_scores(config, config.policy), {**provenance, _SCORE_KEY: "policy"}, (SCORES_NOTICE,)
    )


@final
class LateSink:
    """Stands where the hub will be until the run directory exists; what comes before that is dropped."""

    def __init__(self) -> None:
        """Start without a target."""
        self.target: EventSink | None = None

    def emit(self, event: Event) -> None:
        """Hand the event on, if there is anybody yet."""
        if self.target is not None:
            self.target.emit(event)


def _keep(_record: StateRecord, _topology_hash: str) -> None:
    """Pass what was loaded on to nobody."""


@final
class HeldRun(NamedTuple):
    """What one attempt at a run that has a directory works with."""

    config: ExperimentConfig
    assembly: Assembly
    folder: RunFolder
    """Held."""
    points: FaultPoints
    """Where a drill may strike."""
    num_ranks: int = 1
    """Processes that share the host."""
    pass_on: Callable[[StateRecord, str], None] = _keep
    """Hears what was loaded, and its topology's hash, before it is put back."""
