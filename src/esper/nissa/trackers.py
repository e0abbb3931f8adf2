"""The trackers that a run can feed: their names, what they need, and how they are built.

They only write files below the run's directory. Their libraries are extras, imported when the first record
arrives.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from esper.leyline import ConfigError
from esper.nissa.backends.base import OutputBackend
from esper.nissa.backends.tensorboard import TensorBoardBackend
from esper.nissa.backends.wandb import WandbBackend

TRACKERS: Mapping[str, Callable[[Path, str], OutputBackend]] = MappingProxyType(
    {"tensorboard": lambda folder, run_id: TensorBoardBackend(folder), "wandb": WandbBackend}
)
"""Name in `TRACKER_NAMES` -> builder from the run's directory and id."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers whose library is not installed.

    Args:
        names: As `TelemetryConfig.trackers` holds them.

    Raises:
        ConfigError: With what to install.

    Example:
        >>> check_trackers(["no_such_tracker"])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        esper.leyline.errors.ConfigError: telemetry.trackers: no_such_tracker is not installed: ...
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"telemetry.trackers: {', '.join(missing)} is not installed: "
            f"pip install 'esper-lite[{','.join(missing)}]', or leave it out"
        )


def build_trackers(names: Sequence[str], *, folder: Path, run_id: str) -> tuple[OutputBackend, ...]:
    """Build trackers that write below a run's directory; nothing is imported or written yet.

    Args:
        names: Of `TRACKERS`.
        folder: The run's directory.
        run_id: Name of the run.

    Raises:
        ConfigError: As `check_trackers` does.

    Example:
        >>> (tracker,) = build_trackers(["tensorboard"], folder=run_dir, run_id="one")
        >>> type(tracker).__name__
        'TensorBoardBackend'
    """
    check_trackers(names)
    return tuple(TRACKERS[name](folder, run_id) for name in names)
