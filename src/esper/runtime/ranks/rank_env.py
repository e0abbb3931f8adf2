"""Who this process is among the ranks, from the variables that a launcher sets. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from esper.leyline import ConfigError

_PLACES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
_MAX_DIGITS = 9
"""Longer numbers are none that a launcher sets, and some are refused by `int` with an error of its own."""
_TRAP = (
    "the launcher may restart this training (TORCHELASTIC_MAX_RESTARTS={count}), and its workers meet in the "
    "launcher's own store, where a restarted worker finds the addresses of the dead ones and most restarts "
    "fail; start with: TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --rdzv-backend c10d ... "
    "--max-restarts {count} --shutdown-timeout 90"
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RankEnvironment:
    """One rank's place.

    Example:
        RankEnvironment(rank=1, world_size=2, local_rank=1, local_world_size=2, restart_count=0, run_id="7c")
    """

    rank: int
    """In [0, world_size)."""
    world_size: int
    """Number of ranks, >= 1."""
    local_rank: int
    """Place on this machine, in [0, local_world_size): the number of its GPU."""
    local_world_size: int
    """Ranks on this machine, in [1, world_size]."""
    restart_count: int = 0
    """Restarts by the launcher before this attempt, >= 0."""
    run_id: str = ""
    """The launcher's name of the run; empty if it gave none."""

    @property
    def session(self) -> str:
        """What all ranks of one attempt share and no two attempts do; as far as a launcher tells.

        Counts of restarts differ between machines, so that they name the attempt on a single one only.
        """
        is_single_machine = self.local_world_size == self.world_size
        return f"{self.run_id}/{self.restart_count}" if is_single_machine else f"{self.run_id}/-"


def read_rank_environment(environ: Mapping[str, str]) -> RankEnvironment | None:
    """Return this process's place; None if no launcher started it.

    Args:
        environ: Variables of the process, as torchrun sets them.

    Raises:
        ConfigError: If some of the variables are missing, or one is malformed or out of range.
    """
    if not any(name in environ for name in _PLACES):
        return None
    for name in (*_PLACES, *_ADDRESS):
        if name not in environ:
            present = ", ".join(other for other in _PLACES if other in environ)
            raise ConfigError(
                f"{name} is not set, but {present} is: start with torchrun, or unset what is set to train "
                "in one process"
            )
    world_size = _read_number(environ, "WORLD_SIZE", 1)
    local_world_size = _read_number(environ, "LOCAL_WORLD_SIZE", 1, world_size)
    _read_number(environ, "MASTER_PORT", 1, 65_535)
    return RankEnvironment(
        rank=_read_number(environ, "RANK", 0, world_size - 1),
        world_size=world_size,
        local_rank=_read_number(environ, "LOCAL_RANK", 0, local_world_size - 1),
        local_world_size=local_world_size,
        restart_count=_read_number(environ, "TORCHELASTIC_RESTART_COUNT", 0, default="0"),
        run_id=environ.get("TORCHELASTIC_RUN_ID", ""),
    )


def find_restart_trap(environ: Mapping[str, str]) -> str | None:
    """Return a warning if restarted workers would meet in the store of the dead attempt.

    Args:
        environ: Variables of the process, as torchrun sets them.

    Raises:
        ConfigError: If the number of restarts is malformed.
    """
    count = _read_number(environ, "TORCHELASTIC_MAX_RESTARTS", 0, default="0")
    is_shared = environ.get("TORCHELASTIC_USE_AGENT_STORE", "") == "True"
    return _TRAP.format(count=count) if count > 0 and is_shared else None


def _read_number(
    environ: Mapping[str, str],
    name: str,
    low: int,
    high: int = 10**_MAX_DIGITS,
    *,
    default: str | None = None,
) -> int:
    text = environ[name] if default is None else environ.get(name, default)
    is_number = text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS
    if not is_number or not low <= int(text) <= high:
        allowed = f"in [{low}, {high}]" if high < 10**_MAX_DIGITS else f">= {low}"
        raise ConfigError(f"{name}={text[:80]!r}: must be a whole number {allowed}; the launcher sets it")
    return int(text)
