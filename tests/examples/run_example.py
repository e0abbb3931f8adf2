"""python run_example.py FILE: run an example as a stranger does, but offline, and with warnings as errors.

Warnings that other people's packages raise about themselves are passed over, each by its own sentence.
"""

from __future__ import annotations

import runpy
import socket
import sys
import warnings
from pathlib import Path

PASSED_OVER = (
    # lightning 2.6.6 calls what torch 2.13 has renamed.
    ("`isinstance\\(treespec, LeafSpec\\)` is deprecated", "lightning"),
    # What lightning advises here is not an error: the examples load eight by eight pixels.
    ("The '.*' does not have many workers", "lightning"),
    ("You defined a `validation_step`", "lightning"),
)


def refuse(*args: object, **kwargs: object) -> object:
    """Stand in for whatever would look up or reach another machine.

    Raises:
        RuntimeError: Always.
    """
    raise RuntimeError(f"an example tried to reach {args}: examples run offline")


def main(path: Path) -> None:
    """Run the file as a program."""
    setattr(socket, "getaddrinfo", refuse)  # noqa: B010 - to a type checker a function may not be replaced
    setattr(socket.socket, "connect", refuse)  # noqa: B010
    warnings.simplefilter("error")
    for message, module in PASSED_OVER:
        warnings.filterwarnings("ignore", message=message, module=module)
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name="__main__")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
