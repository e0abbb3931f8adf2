"""A run's newest network, rebuilt on the CPU to be looked at: nothing is trained or decided any more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import final

from esper.runtime.assemble import Assembly, assemble
from esper.runtime.config_file import read_config
from esper.runtime.resuming import refuse_unconfirmed_blueprints, restore_host
from esper.runtime.run import CHECKPOINT_KIND
from esper.runtime.run_records import CHECKPOINTS_NAME, CONFIG_NAME, read_meta
from esper.tolaria import CheckpointStore


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SavedHost:
    """A host as its newest whole checkpoint has it."""

    assembly: Assembly
    checkpoint: str
    passed_over: tuple[str, ...]
    """Newer checkpoints that are damaged, each with file and reason."""


def load_saved_host(run: Path, *, is_code_trusted: bool) -> SavedHost:
    """Rebuild the host of a run.

    Args:
        run: The run's directory.
        is_code_trusted: Whether code of seeds that its configuration names may be imported.

    Raises:
        RunDirectoryError: If `run` is not a run.
        CheckpointError: If no valid checkpoint is there.
        ConfigError: If code is not trusted.
    """
    read_meta(run)
    config = read_config(run / CONFIG_NAME)
    # Nothing is decided any more, so that whoever did is not built, and no user's code is imported.
    refuse_unconfirmed_blueprints(run, config, is_trusted=is_code_trusted)
    host = replace(config.host, device="cpu", compile="none")
    assembly = assemble(replace(config, policy="never", host=host))
    store = CheckpointStore(run / CHECKPOINTS_NAME, kind=CHECKPOINT_KIND, esper_version=version("esper-lite"))
    loaded = store.load()
    restore_host(assembly.host_run, loaded.record, loaded.topology_hash)
    return SavedHost(assembly=assembly, checkpoint=loaded.name, passed_over=tuple(map(str, loaded.rejected)))
