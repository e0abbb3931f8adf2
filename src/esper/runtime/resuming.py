"""Going on with a run: the same settings, saved state and topology. Knows no loop and no telemetry."""

from __future__ import annotations

from pathlib import Path

from esper.leyline import ConfigError, ForeignCheckpointError
from esper.runtime.assemble import Assembly
from esper.runtime.config_file import leaf_values, read_config
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.ranks import DistributedConfig
from esper.runtime.run_records import CONFIG_NAME, read_meta
from esper.tolaria import HostRun, StateRecord

_NOT_COMPARED = ("telemetry.", "checkpoint.", "distributed.", "num_threads")


def restore_assembly(assembly: Assembly, record: StateRecord, topology_hash: str) -> int:
    """Put a saved run back and return the last telemetry sequence number it had written.

    Raises:
        ForeignCheckpointError: If the record does not fit, the rebuilt topology has another hash, or the
            policy is another one.
    """
    policy = record.state.get("policy")
    if not isinstance(policy, dict):
        raise ForeignCheckpointError("the checkpoint holds no host run")
    if record.state.get("policy_fingerprint") != assembly.policy_fingerprint:
        raise ForeignCheckpointError(
            "the files of the trained policy are not those that the run was started with; put them back, or "
            "start a new run"
        )
    last_seq = restore_host(assembly.host_run, record, topology_hash)
    try:
        assembly.policy.restore(dict(policy))
    except (TypeError, ValueError, LookupError, AttributeError) as error:  # a user's own may have changed
        raise ForeignCheckpointError(
            f"policy {type(assembly.policy).__name__} does not take its saved memory back: "
            f"{type(error).__name__}: {error}"
        ) from error
    return last_seq


def restore_host(host_run: HostRun, record: StateRecord, topology_hash: str) -> int:
    """Put the host of a saved run back, whoever decided for it; return the last sequence number.

    Raises:
        ForeignCheckpointError: If the record does not fit, or the rebuilt topology has another hash.
    """
    run, last_seq = record.state.get("run"), record.state.get("last_seq")
    if not isinstance(run, dict) or not isinstance(last_seq, int):
        raise ForeignCheckpointError("the checkpoint holds no host run")
    host_run.restore(StateRecord(tensors=record.tensors, state=run))
    rebuilt = host_run.bench.model.topology_hash()
    if rebuilt != topology_hash:
        raise ForeignCheckpointError(
            f"the rebuilt topology has hash {rebuilt[:12]}, the checkpoint says {topology_hash[:12]}"
        )
    return last_seq


def refuse_other_size(record: StateRecord, num_ranks: int, config: DistributedConfig) -> None:
    """Refuse to go on in another number of processes than a host was saved by, unless that is wanted.

    Raises:
        ConfigError: Naming both numbers.
    """
    saved = record.state.get("num_ranks", 1)
    if saved != num_ranks and not config.is_elastic:
        raise ConfigError(
            f"the run was saved by {saved} processes, and here are {num_ranks}: go on with as many, "
            "or let its batches be dealt anew with --distributed.is-elastic true"
        )


def compare_configs(saved: ExperimentConfig, given: ExperimentConfig) -> list[str]:
    """Return the dotted keys that would change the numbers of a resumed run."""
    old, new = dict(leaf_values(saved)), dict(leaf_values(given))
    return [key for key in old if old[key] != new.get(key) and not key.startswith(_NOT_COMPARED)]


def refuse_changes(run_dir: Path, given: ExperimentConfig) -> None:
    """Refuse to go on under settings that would change the numbers.

    Raises:
        ConfigError: Naming each setting, its value there and the one given.
        RunDirectoryError: If the directory holds no run.
    """
    read_meta(run_dir)
    saved = read_config(run_dir / CONFIG_NAME)
    old, new = dict(leaf_values(saved)), dict(leaf_values(given))
    changed = [f"{key} (there {old[key]}, given {new[key]})" for key in compare_configs(saved, given)]
    if changed:
        raise ConfigError(
            f"{run_dir} was started with other settings: {', '.join(changed)}; resume without them, or start "
            "a new run"
        )
