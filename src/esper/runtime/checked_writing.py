"""A file or folder gets its name only once what was written has been loaded again and compared."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from esper.leyline import ExportError

_Result = TypeVar("_Result")


def write_checked(target: Path, write: Callable[[Path], None], check: Callable[[Path], _Result]) -> _Result:
    """Write under a temporary name beside the target, check what was written, then give it its name.

    Args:
        target: File or folder; its parent is made. Must not exist.
        write: Writes to the path it is given.
        check: Loads from there and raises if something differs; what it returns is returned.

    Raises:
        ExportError: If the place cannot be written; nothing is left behind then, nor if `write` or `check`
            raise.
    """
    # The suffix stays, because some writers and readers go by it.
    written = target.with_name(f".tmp-{uuid.uuid4().hex}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(written)
        result = check(written)
        written.rename(target)
    except OSError as error:
        raise ExportError(
            f"{target} cannot be written: {error.strerror or error}; choose another place"
        ) from error
    finally:
        if written.is_dir():
            shutil.rmtree(written)
        elif written.exists():
            written.unlink()
    return result
