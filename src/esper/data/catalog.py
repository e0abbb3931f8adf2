"""What sets exist, which files they consist of, where they are looked for, and whether the files are whole.

The only place that knows folders. Nothing here, nor anywhere in this room, uses a network: a missing set is
an error that says where it was looked for and how to get it.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from esper.data.reading import read_bytes
from esper.data.records import DATASET_RECORDS, DatasetLayout, DatasetRecord, FileRecord
from esper.data.text_files import read_beginning
from esper.leyline import DataError, UnknownNameError

DATA_VARIABLE = "ESPER_DATA"
"""Environment variable that names the folder with the sets."""

_CHECK_MAX_BYTES = 1 << 30


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetStatus:
    """One line of `esper data list`."""

    name: str
    state: Literal["embedded", "generated", "given", "found", "missing"]
    """"given" = read from a file that the user names."""
    path: Path | None
    """Folder of the files; None where missing, generated or given."""
    licence: str
    credit: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of `esper data check`: a file and what was found."""

    file: str
    is_ok: bool
    message: str


def dataset_record(name: str) -> DatasetRecord:
    """Return the record of a set.

    Raises:
        UnknownNameError: If there is no such set.

    Example:
        >>> dataset_record("digits").licence
        'BSD-3-Clause'
    """
    for record in DATASET_RECORDS:
        if record.name == name:
            return record
    raise UnknownNameError("data set", name, (record.name for record in DATASET_RECORDS))


def locate(name: str, data_dir: Path | None = None) -> Path:
    """Return the folder that holds the files of a set.

    Order: `data_dir`, the folder named by ESPER_DATA, the user's cache folder, the system folder of the
    set. In each, the first folder that holds every required file wins.

    Args:
        name: The set.
        data_dir: Folder with one sub-folder per set; None skips this place.

    Raises:
        UnknownNameError: If there is no such set.
        DataError: If `data_dir` is given and is no folder, if the set is generated and has no files, or if it
            is nowhere, saying where it was looked for and how to get it.

    Example:
        >>> locate("digits").name
        'files'
    """
    record = dataset_record(name)
    if record.is_given:
        raise DataError(f"data set {name!r} has no place of its own: {record.how_to_get}")
    if not record.layouts:
        raise DataError(f"data set {name!r} is generated from its configuration and has no files")
    return _locate(record, data_dir)[0]


def list_datasets(data_dir: Path | None = None) -> tuple[DatasetStatus, ...]:
    """Return the state of every set, sorted by name.

    Args:
        data_dir: As in `locate`.

    Raises:
        DataError: If `data_dir` is given and is no folder.

    Example:
        >>> [status.name for status in list_datasets()][:3]
        ['austen', 'cifar10', 'cifar10_deep']
    """
    if data_dir is not None and not _is_folder(data_dir):
        raise DataError(
            f"data folder {data_dir} does not exist; give the folder that holds the folders of the sets"
        )
    return tuple(
        _status(record, data_dir) for record in sorted(DATASET_RECORDS, key=lambda record: record.name)
    )


def check(name: str, data_dir: Path | None = None) -> tuple[Finding, ...]:
    """Verify every file of a set: there, of the right length, with the right checksum.

    Lengths and checksums are those of the decompressed bytes, because equal data may be packed differently.

    Args:
        name: The set.
        data_dir: As in `locate`.

    Returns:
        One finding per file, in the order of the record; none for a generated set.

    Raises:
        UnknownNameError: If there is no such set.
        DataError: If the set is nowhere.

    Example:
        >>> check("synthetic")
        ()
    """
    record = dataset_record(name)
    if not record.layouts:
        return ()
    folder, layout = _locate(record, data_dir)
    return tuple(_check_file(folder, file) for file in layout.files)


def cache_folder() -> Path | None:
    """Return the user's cache folder for data; None where no home folder is known.

    XDG_CACHE_HOME counts only if it is absolute, as its specification demands.

    Example:
        >>> folder = cache_folder()
        >>> folder is None or folder.parts[-2:] == ("esper", "data")
        True
    """
    configured = os.environ.get("XDG_CACHE_HOME", "")
    if configured and Path(configured).is_absolute():
        return Path(configured) / "esper" / "data"
    try:
        return Path.home() / ".cache" / "esper" / "data"
    except RuntimeError:
        return None


def _status(record: DatasetRecord, data_dir: Path | None) -> DatasetStatus:
    state: Literal["embedded", "generated", "given", "found", "missing"] = (
        "given" if record.is_given else "generated"
    )
    path: Path | None = None
    if record.embedded_folder is not None:
        state, path = "embedded", record.embedded_folder
    elif record.layouts:
        try:
            state, path = "found", locate(record.name, data_dir)
        except DataError:
            state = "missing"
    return DatasetStatus(
        name=record.name, state=state, path=path, licence=record.licence, credit=record.credit
    )


def _locate(record: DatasetRecord, data_dir: Path | None) -> tuple[Path, DatasetLayout]:
    """Return the folder that holds every required file of one layout, and that layout."""
    if record.embedded_folder is not None:
        return record.embedded_folder, record.layouts[0]
    if data_dir is not None and not _is_folder(data_dir):
        raise DataError(
            f"data folder {data_dir} does not exist; give the folder that holds the folder of {record.name!r}"
        )
    tried: list[str] = []
    for folder, layout in _candidates(record, data_dir):
        missing = [file.name for file in layout.files if file.is_required and not _find_file(folder, file)]
        if not missing:
            return folder, layout
        tried.append(
            f"  {folder}: " + (f"lacks {', '.join(missing)}" if _is_folder(folder) else "no such folder")
        )
    looked = "\n".join(dict.fromkeys(tried))
    raise DataError(
        f"data set {record.name!r} was not found. Looked in:\n{looked}\nTo get it: {record.how_to_get}"
    )


def _candidates(record: DatasetRecord, data_dir: Path | None) -> tuple[tuple[Path, DatasetLayout], ...]:
    """Return every folder in which the set may lie, in the order of the search."""
    roots: list[Path] = [] if data_dir is None else [data_dir]
    configured = os.environ.get(DATA_VARIABLE, "")
    if configured:
        roots.append(Path(configured))
    cache = cache_folder()
    if cache is not None:
        roots.append(cache)
    found = [
        (root / folder, layout) for root in roots for layout in record.layouts for folder in layout.folders
    ]
    found += [(folder, layout) for folder in record.system_folders for layout in record.layouts]
    return tuple(dict.fromkeys(found))


def _find_file(folder: Path, file: FileRecord) -> Path | None:
    for name in (file.name, *file.other_names):
        try:
            for path in sorted(folder.glob(name)) if "*" in name else (folder / name,):
                if path.is_file():
                    return path
        except OSError:
            continue
    return None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _check_file(folder: Path, file: FileRecord) -> Finding:
    path = _find_file(folder, file)
    if path is None:
        return Finding(file=str(folder / file.name), is_ok=False, message="missing")
    is_known = file.num_bytes is not None or bool(file.sha256 or file.md5)
    try:
        # With nothing to compare it with, a file of gigabytes need not be read.
        content = read_bytes(path, _CHECK_MAX_BYTES) if is_known else read_beginning(path, 1)[0]
    except DataError as error:
        return Finding(file=str(path), is_ok=False, message=str(error))
    if file.num_bytes is not None and len(content) != file.num_bytes:
        message = f"{len(content)} bytes; expected {file.num_bytes}"
        return Finding(file=str(path), is_ok=False, message=message)
    for algorithm, expected in (("sha256", file.sha256), ("md5", file.md5)):
        got = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
        if expected and got != expected:
            return Finding(file=str(path), is_ok=False, message=f"{algorithm} is {got}; expected {expected}")
    message = "length matches" if file.num_bytes is not None else "readable; no checksum is known"
    if file.sha256 or file.md5:
        message = "checksum matches"
    return Finding(file=str(path), is_ok=True, message=message)
