"""A growth run once more from its action log: the same host, the decisions on record, every event compared.

```
read       configuration, event log          whole and undamaged, or refused
play       apply what was decided, train      no policy is asked
compare    event by event, number by number   up to the first difference, or to the end of the record
```
Reads the run directory and never writes: the run may still be going on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

from esper.leyline import ConfigError, GovernorGaveUpError, JsonValue, RunFinished
from esper.runtime.assemble import Assembly, assemble
from esper.runtime.config_file import read_config
from esper.runtime.episode_log import read_decision, read_episode
from esper.runtime.event_comparison import Comparison, Difference
from esper.runtime.experiment import TRAINABLE_NAMES
from esper.runtime.resuming import refuse_unconfirmed_blueprints
from esper.runtime.run import describe_start
from esper.runtime.run_attempt import LateSink
from esper.runtime.run_folder import package_versions
from esper.runtime.run_records import CONFIG_NAME, read_meta


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """A run beside its repetition."""

    run_dir: Path
    task: str
    policy: str
    seed: int
    num_decisions: int
    """Decisions that were carried out again."""
    num_epochs: int
    """Epochs that came out as on record."""
    num_recorded_epochs: int
    is_result_compared: bool
    """Whether the end was reached: what was culled there, test metric, parameters, FLOPs."""
    difference: Difference | None = None
    """None = none was found."""
    other_versions: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Package -> (version on record, version here), where they are not the same."""

    @property
    def is_identical(self) -> bool:
        """Whether everything that was compared is the same."""
        return self.difference is None

    @property
    def text(self) -> str:
        """Lines for a person."""
        epochs = f"{self.num_epochs} of {self.num_recorded_epochs} epochs on record"
        if self.difference is None:
            end = ", and the result" if self.is_result_compared else "; no result compared"
            return f"identical: {epochs}, {self.num_decisions} decisions{end}"
        return f"{self.difference.text}\nidentical before that: {epochs}"

    def to_json(self) -> dict[str, JsonValue]:
        """Return plain data with stable keys."""
        return {
            "run_dir": str(self.run_dir),
            "task": self.task,
            "policy": self.policy,
            "seed": self.seed,
            "is_identical": self.is_identical,
            "num_decisions": self.num_decisions,
            "num_epochs": self.num_epochs,
            "num_recorded_epochs": self.num_recorded_epochs,
            "is_result_compared": self.is_result_compared,
            "difference": None if self.difference is None else self.difference.to_json(),
            "other_versions": {
                name: {"recorded": there, "here": here} for name, (there, here) in self.other_versions.items()
            },
        }


def replay_run(
    run: Path,
    *,
    num_epochs: int | None = None,
    on_epoch: Callable[[int, int], None] | None = None,
    is_code_trusted: bool = False,
) -> ReplayReport:
    """Repeat a growth run from its configuration, its seed and its decisions, and compare.

    Args:
        run: Its directory; nothing in it is changed.
        num_epochs: How many epochs to repeat, from the first; None = all that are on record.
        on_epoch: Told (epoch, epochs on record) of every epoch that came out as on record.
        is_code_trusted: Whether code of seeds that the run's configuration names may be imported.

    Raises:
        RunDirectoryError: If it is not a run, or its files cannot be read.
        ConfigError: If it trained a policy, `num_epochs` is out of range, or code is not trusted.
        DataError: If the event log is damaged or does not say what was decided, or a data set is missing.
    """
    meta = read_meta(run)
    config = read_config(run / CONFIG_NAME)
    if config.policy in TRAINABLE_NAMES:
        raise ConfigError(f"{run} trained a policy ({config.policy}); only a growth run can be replayed")
    refuse_unconfirmed_blueprints(run, config, is_trusted=is_code_trusted)
    episode = read_episode(run)
    if num_epochs is not None and not 1 <= num_epochs <= episode.num_epochs:
        raise ConfigError(f"{num_epochs} epochs to replay: {run} has 1 to {episode.num_epochs} on record")

    def tell(epoch: int) -> None:
        if on_epoch is not None:
            on_epoch(epoch, episode.num_epochs)

    sink, comparison = LateSink(), Comparison(episode.events, tell)
    # No policy is asked, so the one on record (a folder, a user's code) need not be there any more.
    assembly = assemble(replace(config, policy="never"), sink)
    sink.target = comparison
    comparison.emit(describe_start(config, assembly, None, is_resumed=False))
    end = _play(assembly, comparison, sys.maxsize if num_epochs is None else num_epochs)
    if end is not None:
        comparison.emit(end)
    versions = meta.get("versions")
    return ReplayReport(
        run_dir=run,
        task=config.task.name,
        policy=config.policy,
        seed=config.seed,
        num_decisions=comparison.num_decisions,
        num_epochs=comparison.num_epochs,
        num_recorded_epochs=episode.num_epochs,
        is_result_compared=comparison.is_result_compared,
        difference=comparison.difference,
        other_versions={
            name: (str(versions[name]), here)
            for name, here in package_versions().items()
            if isinstance(versions, Mapping) and versions.get(name, here) != here
        },
    )


def _play(assembly: Assembly, comparison: Comparison, last_epoch: int) -> RunFinished | None:
    """Repeat what is on record and return how it ended, or None where the end was not reached."""
    host_run, metric = assembly.host_run, assembly.task.metric
    try:
        while not host_run.is_finished and host_run.epoch < last_epoch and comparison.is_open:
            comparison.expect_decision(host_run.epoch)
            while (event := comparison.next_decision) is not None:
                host_run.apply(read_decision(event))
            if comparison.is_open:
                host_run.train_epoch()
    except GovernorGaveUpError:
        return _describe_end(assembly, "governor")
    if not (host_run.is_finished and comparison.is_open):
        return None
    test = host_run.finish()
    end = _describe_end(assembly, "governor" if host_run.is_terminated else "horizon")
    return replace(end, test_metrics={metric.name: metric.shown(test.metric)})


def _describe_end(assembly: Assembly, reason: str) -> RunFinished:
    bench = assembly.host_run.bench
    return RunFinished(
        epoch=assembly.host_run.epoch,
        reason=reason,
        total_params=bench.model.num_params,
        flops=bench.ledger.totals(),
    )
