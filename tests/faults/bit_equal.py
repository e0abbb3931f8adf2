"""Two runs compared to the last bit: what they did, and everything that their last checkpoints hold."""

from __future__ import annotations

from pathlib import Path

from esper.leyline import JsonValue
from esper.nissa import effective_log
from esper.tolaria.checkpoint.strict_json import parse_json

TENSORS, STATE = "tensors.safetensors", "state.json"
ABOUT_ATTEMPTS = ("last_seq",)
"""The part of a saved state that counts events, those of interruptions included."""


def saved_names(run_dir: Path) -> list[str]:
    """Return the names of a run's checkpoints, oldest first."""
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir() if path.is_dir())


def last_checkpoint(run_dir: Path) -> Path:
    """Return the folder that LATEST names."""
    return run_dir / "checkpoints" / (run_dir / "checkpoints" / "LATEST").read_text(encoding="ascii").strip()


def read_state(folder: Path) -> dict[str, JsonValue]:
    """Return what a checkpoint says beside its tensors, without what tells of attempts."""
    value = parse_json((folder / STATE).read_bytes())
    assert isinstance(value, dict)
    state = value["state"]
    assert isinstance(state, dict)
    return {name: part for name, part in state.items() if name not in ABOUT_ATTEMPTS}


def assert_bit_equal(left: Path, right: Path) -> int:
    """Check that two finished runs are the same one; return how many bytes and events were compared.

    Weights, moments, statistics and random streams lie in the tensors of the last checkpoint, all of whose
    bytes count, and in its state; decisions, stages and numbers in the events.
    """
    logs = [effective_log(run) for run in (left, right)]
    assert logs[0] == logs[1]
    folders = [last_checkpoint(run) for run in (left, right)]
    assert folders[0].name == folders[1].name
    tensors = [(folder / TENSORS).read_bytes() for folder in folders]
    assert tensors[0] == tensors[1]
    states = [read_state(folder) for folder in folders]
    assert states[0] == states[1]
    return len(tensors[0]) + len(logs[0])
