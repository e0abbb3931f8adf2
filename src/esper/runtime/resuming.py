"""Going on with a run: the same settings, saved state and topology. Knows no loop and no telemetry.

A run directory may come from somebody else. What its configuration names as code is imported only once the
command line has said so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from esper.leyline import ConfigError, ForeignCheckpointError
from esper.runtime.assemble import Assembly
from esper.runtime.config_file import ResolvedExperiment, leaf_values, read_config
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.own_blueprints import is_reference
from esper.runtime.ranks import DistributedConfig
from esper.runtime.run_records import CONFIG_NAME, read_meta
from esper.tolaria import HostRun, StateRecord

TRUST_FLAG = "--trust-code"
"""Flag by which a command line says that the code which a run's configuration names may be imported."""
_NOT_COMPARED = ("telemetry.", "checkpoint.", "distributed.", "fleet.", "num_threads")
_REFERENCE = re.compile(r"\w+(?:\.\w+)*:\w+(?:=.*)?", re.DOTALL)
_SCHEDULE = "schedule:"


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
    """Refuse to go on in another number of processes than a run was saved by, unless that is wanted.

    Raises:
        ConfigError: Naming both numbers.
    """
    saved = record.state.get("num_ranks", 1)
    if saved != num_ranks and not config.is_elastic:
        raise ConfigError(
            f"the run was saved by {saved} processes, and here are {num_ranks}: go on with as many, "
            "or let its hosts and batches be dealt anew with --distributed.is-elastic"
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


def find_named_code(config: ExperimentConfig) -> dict[str, str]:
    """Return dotted key -> text of every setting that looks like "package.module:Class"; imports nothing."""
    found: dict[str, str] = {}
    for key, value in leaf_values(config):
        for item in value if isinstance(value, tuple) else (value,):
            if not isinstance(item, str) or not _REFERENCE.fullmatch(item):
                continue
            # A policy of this form is a file; a seed is a module, whatever its name.
            if key == "blueprints" or not item.startswith(_SCHEDULE):
                found.setdefault(key, item)
    return found


def refuse_unconfirmed_code(run_dir: Path, resolved: ResolvedExperiment, *, is_trusted: bool) -> None:
    """Refuse to import what only the configuration inside a run directory names.

    Args:
        run_dir: The run that is gone on with.
        resolved: Its configuration under the flags of this command.
        is_trusted: Whether the command line has said that such code may be imported.

    Raises:
        ConfigError: Naming each setting that the command line did not repeat.
    """
    named = {} if is_trusted else find_named_code(resolved.config)
    unconfirmed = _leave_out_flags(named, resolved.provenance)
    if unconfirmed:
        shown = ", ".join(f"{key} = {text[:80]!r}" for key, text in unconfirmed.items())
        raise ConfigError(
            f"{run_dir / CONFIG_NAME} names code, which going on would import and run: {shown}; if the run "
            f"is yours, or you have read that code, say so with {TRUST_FLAG} or repeat the setting as a flag"
        )


def refuse_unconfirmed_blueprints(run_dir: Path, config: ExperimentConfig, *, is_trusted: bool) -> None:
    """Refuse to rebuild a network with seeds whose code only the run's own configuration names.

    Args:
        run_dir: The run.
        config: Its configuration.
        is_trusted: Whether the command line has said that such code may be imported.

    Raises:
        ConfigError: Naming the code, and the flag that allows it.
    """
    named = () if is_trusted else tuple(filter(is_reference, config.blueprints))
    if named:
        raise ConfigError(
            f"{run_dir / CONFIG_NAME} names code of seeds, which rebuilding the network would import: "
            f"{', '.join(name[:80] for name in named)}; if the run is yours, or you have read that code, say "
            f"so with {TRUST_FLAG}"
        )


def choose_trust_flags(run_dir: Path) -> tuple[str, ...]:
    """Return the flags with which whoever began a run goes on with it: `TRUST_FLAG` if it names code."""
    path = run_dir / CONFIG_NAME
    return (TRUST_FLAG,) if path.is_file() and find_named_code(read_config(path)) else ()


def _leave_out_flags(named: Mapping[str, str], provenance: Mapping[str, str]) -> dict[str, str]:
    return {key: text for key, text in named.items() if provenance.get(key) != "flag"}
