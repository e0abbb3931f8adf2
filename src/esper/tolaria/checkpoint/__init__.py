"""Checkpoints: a directory of safetensors and JSON, written atomically, hashed, read without running code.

Nothing here knows a model, an optimiser or an event: a `StateRecord` goes in and the same record comes out.
"""

from esper.tolaria.checkpoint.background import (
    BackgroundWriter,
    SaveOutcome,
    SaveRequest,
    attempt_save,
    detach_record,
)
from esper.tolaria.checkpoint.file_ops import FileOps
from esper.tolaria.checkpoint.manifest import FORMAT_VERSION, FileEntry, Manifest
from esper.tolaria.checkpoint.record import (
    LoadedCheckpoint,
    Rejection,
    SavedCheckpoint,
    StateRecord,
    match_tensors,
)
from esper.tolaria.checkpoint.rng import capture_rng, restore_rng
from esper.tolaria.checkpoint.store import CheckpointStore, checkpoint_name, checkpoint_place

__all__ = [
    "FORMAT_VERSION",
    "BackgroundWriter",
    "CheckpointStore",
    "FileEntry",
    "FileOps",
    "LoadedCheckpoint",
    "Manifest",
    "Rejection",
    "SaveOutcome",
    "SaveRequest",
    "SavedCheckpoint",
    "StateRecord",
    "attempt_save",
    "capture_rng",
    "checkpoint_name",
    "checkpoint_place",
    "detach_record",
    "match_tensors",
    "restore_rng",
]
