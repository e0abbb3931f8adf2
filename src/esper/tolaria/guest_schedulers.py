"""Schedulers of a user's optimiser whose per-group lists grow and shrink with the groups.

torch's schedulers keep one value per group in lists that are made once; a group that comes later breaks them
at their next step, or lets them drift. Here every such list is named in one table and is extended by the
value of the new group's reference, cut, and reordered alike; no scheduler is rebuilt, so the host's rates go
on bit for bit. A class that is not torch's is tried on a copy when it is handed over. Knows lists and
indices; no seed.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import cast, final

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from esper.leyline import ConfigError, ForeignCheckpointError, JsonValue
from esper.tolaria.guest_plain import decode_plain, encode_plain

# Keys of the schedulers' public state_dict() that hold one value per group, over all of torch's classes.
_PER_GROUP = frozenset(
    {"base_lrs", "_last_lr", "lr_lambdas", "max_lrs", "min_lrs", "base_momentums", "max_momentums"}
)
_OWN_HOMES = ("torch.optim.lr_scheduler", "torch.optim.swa_utils")
_TRIAL_STEPS = 3
_MAX_UNCERTAIN = 6
# What code of a user may raise on a copy of its scheduler; anything else is no answer to the trial.
_TRIAL_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


@final
@dataclass(slots=True, kw_only=True, frozen=True)
class _Followed:
    scheduler: LRScheduler
    names: frozenset[str]
    """Attributes with one value per group."""


@final
class GuestSchedulers:
    """Every scheduler of one optimiser, those inside of others included."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        """Start with none."""
        self._optimizer = optimizer
        self._roots: list[LRScheduler] = []
        self._followed: list[_Followed] = []

    @property
    def num_schedulers(self) -> int:
        """How many were handed over, those inside of others not counted."""
        return len(self._roots)

    def follow(self, scheduler: LRScheduler, per_group: Iterable[str] | None = None) -> None:
        """Keep one more scheduler in step; handing it over again changes nothing.

        Args:
            scheduler: On this optimiser.
            per_group: For a class that is not torch's: its attributes with one value per group beside those
                that torch's have; it is not tried then. None = find out on a copy.

        Raises:
            ConfigError: If it is no scheduler, is on another optimiser, lacks an attribute, holds another
                number of values than there are groups, or cannot live with one group more.
        """
        extra = None if per_group is None else frozenset(per_group)
        known = {id(entry.scheduler) for entry in self._followed}
        inside = {id(inner): inner for inner in _walk(scheduler)}
        if id(scheduler) in known:
            return
        self._followed += [
            self._examine(inner, extra if inner is scheduler else None)
            for key, inner in inside.items()
            if key not in known
        ]
        self._roots = [*(root for root in self._roots if id(root) not in inside), scheduler]

    def check(self) -> None:
        """Check that every list has one value per group.

        Raises:
            ConfigError: Naming the scheduler and the attribute.
        """
        if not self._roots and any("initial_lr" in group for group in self._optimizer.param_groups):
            raise ConfigError(
                "the optimiser's groups have 'initial_lr', so a scheduler was built on it; none was given: "
                "pass schedulers=[scheduler], or controller.follow(scheduler) where a trainer made it (or "
                "drop that key if the scheduler is no longer used), else its next step would fail for want "
                "of a value for the new group"
            )
        for entry in self._followed:
            _check_lengths(entry.scheduler, entry.names, len(self._optimizer.param_groups))

    def extend(self, sources: Sequence[int]) -> None:
        """Give every list one value more per new group.

        Args:
            sources: For each new group, in order, the index of the group whose values it takes.
        """
        for entry in self._followed:
            for name, values in _lists(entry.scheduler, entry.names):
                setattr(entry.scheduler, name, [*values, *(_copy_value(values[index]) for index in sources)])

    def select(self, indices: Sequence[int]) -> None:
        """Keep, in this order, the values of these former groups: cuts and reorders."""
        for entry in self._followed:
            for name, values in _lists(entry.scheduler, entry.names):
                setattr(entry.scheduler, name, [values[index] for index in indices])

    def state(self) -> list[JsonValue]:
        """Return [class name, its state_dict as plain data] per scheduler.

        Raises:
            ConfigError: If a state holds what is not plain data.
        """
        return [
            [_kind(root), encode_plain(root.state_dict(), f"state of scheduler {_kind(root)}")]
            for root in self._roots
        ]

    def read(self, saved: JsonValue) -> list[dict[str, object]]:
        """Check saved states against the schedulers that are here; nothing is changed.

        Raises:
            ForeignCheckpointError: Naming the first scheduler or key that differs.
        """
        entries = saved if isinstance(saved, list) else [saved]
        if len(entries) != len(self._roots):
            raise ForeignCheckpointError(
                f"saved with {len(entries)} scheduler(s), {len(self._roots)} here: build the same ones"
            )
        states: list[dict[str, object]] = []
        for entry, root in zip(entries, self._roots, strict=True):
            match entry:
                case [str(kind), state] if kind == _kind(root):
                    decoded = decode_plain(state, f"saved scheduler {kind}")
                case _:
                    raise ForeignCheckpointError(f"saved scheduler {entry!r:.80}, expected {_kind(root)}")
            got = decoded if isinstance(decoded, dict) else {}
            different = sorted(map(str, got.keys() ^ root.state_dict().keys()))
            if different:
                raise ForeignCheckpointError(
                    f"saved scheduler {_kind(root)}: {different} in only one of them"
                )
            states.append(got)
        return states

    def apply(self, states: Sequence[dict[str, object]]) -> None:
        """Put back what `read` returned; the groups must be in their saved order."""
        for root, state in zip(self._roots, states, strict=True):
            root.load_state_dict(state)

    def _examine(self, scheduler: LRScheduler, per_group: frozenset[str] | None) -> _Followed:
        # A trainer may have built it on a wrapper, which shows the groups of the optimiser inside.
        if getattr(scheduler.optimizer, "param_groups", None) is not self._optimizer.param_groups:
            raise ConfigError(
                f"scheduler {_kind(scheduler)} drives another optimiser: build it on the one that is passed"
            )
        lacking = sorted((per_group or frozenset()) - vars(scheduler).keys())
        if lacking:
            raise ConfigError(f"scheduler {_kind(scheduler)} has no attribute {lacking[0]!r}: see per_group=")
        names = (_PER_GROUP & vars(scheduler).keys()) | (per_group or frozenset())
        _check_lengths(scheduler, names, len(self._optimizer.param_groups))
        is_known = type(scheduler).__module__ in _OWN_HOMES or per_group is not None
        return _Followed(
            scheduler=scheduler,
            names=names if is_known else _find_names(scheduler, names, self._optimizer),
        )


def _walk(scheduler: object) -> Iterator[LRScheduler]:
    """Yield a scheduler and those inside of it."""
    if not isinstance(scheduler, LRScheduler):
        raise ConfigError(
            f"{_kind(scheduler)} is no torch.optim.lr_scheduler.LRScheduler: derive it from that, or set the "
            "rates of the optimiser's first groups by hand; those stay where they are, and seeds follow them"
        )
    yield scheduler
    for value in vars(scheduler).values():
        for inner in value if isinstance(value, list | tuple) else (value,):
            if isinstance(inner, LRScheduler) and inner is not scheduler:
                yield from _walk(inner)


def _lists(scheduler: LRScheduler, names: Iterable[str]) -> Iterator[tuple[str, Sequence[object]]]:
    for name in sorted(names):
        yield name, cast("Sequence[object]", vars(scheduler)[name])


def _check_lengths(scheduler: LRScheduler, names: Iterable[str], num_groups: int) -> None:
    for name, values in _lists(scheduler, names):
        if not isinstance(values, list | tuple) or len(values) != num_groups:
            got = f"{len(values)} values" if isinstance(values, list | tuple) else repr(values)
            raise ConfigError(
                f"scheduler {_kind(scheduler)}.{name} holds {got} for {num_groups} parameter groups: it was "
                "built before a group came or went; build it again, or hand it over before the first growth"
            )


def _copy_value(value: object) -> object:
    return value.clone() if isinstance(value, Tensor) else value


def _kind(value: object) -> str:
    return type(value).__name__


# ---------------------------------------------------------------------- trial of a class that is not torch's


def _find_names(
    scheduler: LRScheduler, known: frozenset[str], optimizer: torch.optim.Optimizer
) -> frozenset[str]:
    """Return the attributes that must grow with the groups: the fewest with which a copy goes on alike."""
    num_groups = len(optimizer.param_groups)
    uncertain = [
        name
        for name, value in vars(scheduler).items()
        if isinstance(value, list | tuple)
        and name not in known
        and len(value) == num_groups
        and not any(isinstance(item, LRScheduler) for item in value)
    ]
    try:
        expected = _try_steps(scheduler, frozenset(), optimizer, num_new=0)
    except _TRIAL_ERRORS as error:
        raise ConfigError(
            f"scheduler {_kind(scheduler)} is not torch's, and a copy of it could not be tried ({error!r}): "
            "name its attributes with one value per group, e.g. follow(scheduler, per_group=('warm_lrs',)), "
            "or pass per_group=() if it has none"
        ) from error
    sizes = range(len(uncertain) + 1) if len(uncertain) <= _MAX_UNCERTAIN else (0, 1, len(uncertain))
    reason = "no answer"
    for chosen in chain.from_iterable(combinations(uncertain, size) for size in sizes):
        names = known | frozenset(chosen)
        try:
            found = _try_steps(scheduler, names, optimizer, num_new=1)
        except _TRIAL_ERRORS as error:
            reason = repr(error)
            continue
        if found == expected:
            return names
        reason = "the host's rates would change"
    raise ConfigError(
        f"scheduler {_kind(scheduler)} does not go on with one more parameter group ({reason}): keep one "
        "value per group in list attributes, or make it follow len(optimizer.param_groups); if it does so in "
        "a way that a copy cannot show, name those attributes: follow(scheduler, per_group=(...))"
    )


def _try_steps(
    scheduler: LRScheduler, names: frozenset[str], optimizer: torch.optim.Optimizer, *, num_new: int
) -> list[list[float]]:
    """Step a copy whose groups hold no parameter of the user; return the former groups' rates per step."""
    num_groups = len(optimizer.param_groups)
    indices = [*range(num_groups), *[0] * num_new]
    stand_in = _build_stand_in(optimizer, indices)
    shadow = _shadow(scheduler, stand_in, names, indices)
    rates: list[list[float]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the copy never sees a step of its optimiser
        for _ in range(_TRIAL_STEPS):
            if isinstance(shadow, ReduceLROnPlateau):
                shadow.step(1.0)
            else:
                shadow.step()
            rates.append([float(group["lr"]) for group in stand_in.param_groups[:num_groups]])
    return rates


def _build_stand_in(optimizer: torch.optim.Optimizer, indices: Sequence[int]) -> torch.optim.Optimizer:
    groups = [
        {
            key: _copy_value(value)
            for key, value in optimizer.param_groups[index].items()
            if key != "param_names"
        }
        | {"params": [torch.zeros((), requires_grad=True)]}
        for index in indices
    ]
    stand_in = torch.optim.SGD(groups, lr=0.0)
    stand_in.defaults = dict(optimizer.defaults)
    return stand_in


def _shadow(
    scheduler: LRScheduler, stand_in: torch.optim.Optimizer, names: frozenset[str], indices: Sequence[int]
) -> LRScheduler:
    shadow = copy.copy(scheduler)
    for name, value in vars(scheduler).items():
        vars(shadow)[name] = _shadow_value(value, scheduler, stand_in, indices)
    for name in names:
        values = cast("Sequence[object]", vars(scheduler)[name])
        vars(shadow)[name] = [_copy_value(values[index]) for index in indices]
    return shadow


def _shadow_value(
    value: object, scheduler: LRScheduler, stand_in: torch.optim.Optimizer, indices: Sequence[int]
) -> object:
    if value is scheduler.optimizer:
        return stand_in
    if isinstance(value, LRScheduler):
        return _shadow(value, stand_in, _PER_GROUP & vars(value).keys(), indices)
    if isinstance(value, list | tuple):
        return type(value)(_shadow_value(item, scheduler, stand_in, indices) for item in value)
    if isinstance(value, Mapping | set):
        return copy.copy(value)
    return _copy_value(value)
