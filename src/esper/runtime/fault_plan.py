"""Faults on order: what a test wants to go wrong in a run, and at which of its named points.

```
FAULTS='kill@rank=1,phase=update,step=7; sleep@rank=0,operation=all_sum,seconds=5' ESPER_ALLOW_FAULTS=1
from_environ -> the faults of this rank and attempt -> reach(point, ...) at each point -> the fault happens
```
A drill comes from the environment of the process alone, and only together with its permission: no
configuration and no checkpoint can ask for one. Without one every point is an empty loop. Imports no torch.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import final

from esper.leyline import ConfigError, suggest

FAULTS_NAME = "FAULTS"
PERMISSION_NAME = "ESPER_ALLOW_FAULTS"
_ATTEMPT_NAME = "TORCHELASTIC_RESTART_COUNT"

POINTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "phase": ("phase", "step"),
        "collective": ("operation", "phase", "step"),
        "boundary": ("step",),
        "file": ("operation",),
        "event": ("event", "step", "slot"),
        "gradient": ("seed", "step", "batch"),
        "minibatch": ("step",),
    }
)
"""Point -> what it tells about itself: a rank begins a phase or enters an exchange; a loop asks whether it
should stop; before a file operation of a save; after an event was written; gradients of a host's batch are
there; gradients of a policy's minibatch are there. A step is an epoch of
a host or a round of a training: as many as are finished."""

_TEXTS = ("point", "phase", "operation", "event", "slot", "seed")
_NUMBERS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "rank": (0, 10**6),
        "attempt": (0, 10**6),
        "step": (0, 10**9),
        "batch": (0, 10**9),
        "call": (1, 10**9),
        "times": (1, 10**9),
        "seconds": (1, 86_400),
        "bit": (0, 63),
    }
)
_EVERYWHERE = ("point", "rank", "attempt", "call", "times")

KINDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "exception": (),
        "async-exception": (),
        "sigint": (),
        "sigterm": (),
        "kill": (),
        "stop": (),
        "abort": (),
        "segfault": (),
        "gil": ("seconds",),
        "sleep": ("seconds",),
        "nan": (),
        "bitflip": ("bit",),
        "io-error": (),
    }
)
"""Kind -> what can be said about it beyond where it happens. `stop` is SIGSTOP, `gil` a call that lets no
other thread run; without seconds it and `sleep` last for a day."""
TENSOR_KINDS = ("nan", "bitflip")
"""Kinds that are carried out by whoever holds the tensors."""
_ONLY_AT: Mapping[str, str] = MappingProxyType({"nan": "gradient", "bitflip": "gradient", "io-error": "file"})
_SIGNALS: Mapping[str, signal.Signals] = MappingProxyType(
    {
        "sigint": signal.SIGINT,
        "sigterm": signal.SIGTERM,
        "kill": signal.SIGKILL,
        "stop": signal.SIGSTOP,
    }
)
_DAY_S = 86_400


@final
class InjectedFaultError(Exception):
    """Raised by a fault of the kinds `exception` and `async-exception`; nothing in the program expects it."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong.

    Example:
        Fault(kind="kill", where={"phase": "update", "step": 7}, rank=1)
    """

    kind: str
    """One of `KINDS`."""
    where: Mapping[str, str | int] = field(default_factory=dict)
    """What a point must say about itself; the name of a point itself is `point`."""
    rank: int | None = None
    """Where it happens; None = on every rank."""
    attempt: int | None = None
    """Restarts before the attempt in which it happens; None = in every one."""
    call: int = 1
    """Which of the fitting moments, from 1."""
    times: int = 1
    """How many fitting moments in a row."""
    seconds: int = _DAY_S
    """How long `sleep` and `gil` last."""
    bit: int = 22
    """Which bit `bitflip` turns, from the lowest; 22 is the highest of a float32's fraction."""

    def fits(self, point: str, where: Mapping[str, str | int]) -> bool:
        """Whether this is a moment at which it may happen.

        Args:
            point: Name of the point.
            where: What the point says about itself.
        """
        if _ONLY_AT.get(self.kind, point) != point:
            return False
        here = {**where, "point": point}
        return all(key in here and here[key] == value for key, value in self.where.items())

    def describe(self) -> str:
        """Return it as it is written, without what has its default."""
        parts = dict(self.where)
        for name in ("rank", "attempt"):
            if (value := getattr(self, name)) is not None:
                parts[name] = value
        parts |= {name: getattr(self, name) for name in ("call", "times") if getattr(self, name) != 1}
        return self.kind + ("@" if parts else "") + ",".join(f"{key}={value}" for key, value in parts.items())


@final
class FaultPlan:
    """The faults of one process, each of which happens at its moment.

    Example:
        plan = FaultPlan.from_environ(os.environ, rank=1)
        plan.reach("phase", phase="update", step=7)
    """

    def __init__(self, faults: tuple[Fault, ...] = ()) -> None:
        """Take the faults; without any nothing ever happens.

        Args:
            faults: All of them are this process's own.
        """
        self._faults = faults
        self._num_fits = [0] * len(faults)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], rank: int = 0) -> FaultPlan:
        """Return what is ordered for this rank and attempt; nothing without permission.

        Args:
            environ: Variables of the process.
            rank: This process, >= 0.

        Raises:
            ConfigError: If the permission is neither 0 nor 1, or an order cannot be understood.
        """
        permission = environ.get(PERMISSION_NAME, "0")
        if permission not in ("", "0", "1"):
            raise ConfigError(
                f"{PERMISSION_NAME}={permission[:80]!r}: must be 1, or 0 to ignore {FAULTS_NAME}"
            )
        if permission != "1":
            return cls()
        attempt = environ.get(_ATTEMPT_NAME, "0")
        return cls(
            tuple(
                fault
                for fault in parse_faults(environ.get(FAULTS_NAME, ""))
                if fault.rank in (None, rank) and (fault.attempt is None or str(fault.attempt) == attempt)
            )
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing can ever happen."""
        return not self._faults

    def describe(self) -> str:
        """Return all faults on one line, for the log of a run that must not be taken for an ordinary one."""
        return "; ".join(fault.describe() for fault in self._faults)

    def take(self, point: str, **where: str | int) -> tuple[Fault, ...]:
        """Return the faults whose moment this is, and count it for the others.

        Args:
            point: One of `POINTS`.
            where: What it says about itself.
        """
        due = []
        for index, fault in enumerate(self._faults):
            if fault.fits(point, where):
                self._num_fits[index] += 1
                if fault.call <= self._num_fits[index] < fault.call + fault.times:
                    due.append(fault)
        return tuple(due)

    def reach(self, point: str, **where: str | int) -> None:
        """Let happen what was ordered for this moment.

        Args:
            point: One of `POINTS`.
            where: What it says about itself.

        Raises:
            InjectedFaultError: If that was ordered.
            OSError: If a file operation was to fail.
        """
        for fault in self.take(point, **where):
            cause(fault)


def cause(fault: Fault) -> None:
    """Let a fault happen to this process; those of tensors are for whoever holds the tensors.

    Raises:
        InjectedFaultError: If the fault is an exception.
        OSError: If it is a failed file operation.
    """
    if fault.kind in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[fault.kind])
    elif fault.kind == "exception":
        raise InjectedFaultError(f"as ordered: {fault.describe()}")
    elif fault.kind == "async-exception":
        thread = ctypes.c_ulong(threading.main_thread().ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(InjectedFaultError))
    elif fault.kind == "io-error":
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    elif fault.kind == "sleep":
        threading.Event().wait(fault.seconds)
    elif fault.kind == "gil":
        ctypes.PyDLL(None).sleep(fault.seconds)
    elif fault.kind == "abort":
        os.abort()
    elif fault.kind == "segfault":
        ctypes.string_at(0)


# ---------------------------------------------------------------------- reading an order


def parse_faults(text: str) -> tuple[Fault, ...]:
    """Return the faults of an order: `kind@key=value,key=value; kind@...`.

    Args:
        text: Blanks and empty parts are passed over.

    Raises:
        ConfigError: If a kind, key or value is unknown; says which are known.
    """
    return tuple(_parse_fault(part.strip()) for part in text.split(";") if part.strip())


def _parse_fault(text: str) -> Fault:
    kind, _, rest = text.partition("@")
    if kind not in KINDS:
        raise _refuse(text, f"unknown kind {kind[:80]!r}: {suggest(kind, KINDS)}")
    values: dict[str, str | int] = {}
    for part in filter(None, (item.strip() for item in rest.split(","))):
        key, equals, value = (item.strip() for item in part.partition("="))
        if not equals:
            raise _refuse(text, f"{part[:80]!r}: expected key=value")
        if key in values:
            raise _refuse(text, f"{key!r} is given twice")
        values[key] = _parse_value(text, key, value)
    point = _find_point(text, kind, values)
    keys = {key for name in (POINTS if point is None else (point,)) for key in POINTS[name]}
    known = (*_EVERYWHERE, *keys, *KINDS[kind])
    for key in values:
        if key not in known:
            raise _refuse(text, f"unknown key {key!r}: {suggest(key, known)}")
    where = {key: value for key, value in values.items() if key == "point" or key in keys}
    numbers = {key: value for key, value in values.items() if key not in where}
    return Fault(kind=kind, where=where, **numbers)  # type: ignore[arg-type]


def _find_point(text: str, kind: str, values: Mapping[str, str | int]) -> str | None:
    point = values.get("point", _ONLY_AT.get(kind))
    if point is not None and point not in POINTS:
        raise _refuse(text, f"unknown point {point!r}: {suggest(str(point), POINTS)}")
    if kind in _ONLY_AT and point != _ONLY_AT[kind]:
        raise _refuse(text, f"{kind} happens at the point {_ONLY_AT[kind]!r} only, not at {point!r}")
    return None if point is None else str(point)


def _parse_value(text: str, key: str, value: str) -> str | int:
    known = (*_TEXTS, *_NUMBERS)
    if key not in known:
        raise _refuse(text, f"unknown key {key[:80]!r}: {suggest(key, known)}")
    if key in _TEXTS:
        if not value:
            raise _refuse(text, f"{key} has no value")
        return value
    low, high = _NUMBERS[key]
    is_number = value.isascii() and value.isdecimal() and len(value) <= len(str(high))
    if not is_number or not low <= int(value) <= high:
        raise _refuse(text, f"{key}={value[:80]!r}: must be a whole number in [{low}, {high}]")
    return int(value)


def _refuse(text: str, problem: str) -> ConfigError:
    return ConfigError(f"{FAULTS_NAME}: {text[:120]!r}: {problem}")
