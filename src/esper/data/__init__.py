"""Data sets and batches: finds, checks and reads files without trusting them, deals them to host instances.

Knows nothing of models, policies or runs, and never uses a network.
"""

from esper.data.augment import AugmentConfig, compute_augmented
from esper.data.batching import Batch, SharedBatchIterator, StackedBatches
from esper.data.catalog import (
    DATA_VARIABLE,
    DatasetStatus,
    Finding,
    cache_folder,
    check,
    dataset_record,
    list_datasets,
    locate,
)
from esper.data.device_cache import DeviceCache, DeviceStorage, StorageKind, build_storage
from esper.data.loading import DATASET_NAMES, LoadOptions, load_dataset
from esper.data.records import DatasetLayout, DatasetRecord, FileRecord
from esper.data.sampler import epoch_order
from esper.data.splits import ArraySplit, TaskData, compute_channel_stats
from esper.data.synthetic import SyntheticConfig, build_synthetic
from esper.data.text import UNKNOWN_TOKEN, TextConfig

__all__ = [
    "DATASET_NAMES",
    "DATA_VARIABLE",
    "UNKNOWN_TOKEN",
    "ArraySplit",
    "AugmentConfig",
    "Batch",
    "DatasetLayout",
    "DatasetRecord",
    "DatasetStatus",
    "DeviceCache",
    "DeviceStorage",
    "FileRecord",
    "Finding",
    "LoadOptions",
    "SharedBatchIterator",
    "StackedBatches",
    "StorageKind",
    "SyntheticConfig",
    "TaskData",
    "TextConfig",
    "build_storage",
    "build_synthetic",
    "cache_folder",
    "check",
    "compute_augmented",
    "compute_channel_stats",
    "dataset_record",
    "epoch_order",
    "list_datasets",
    "load_dataset",
    "locate",
]
