"""The flags of the command line are frozen: a new, renamed or changed one is a line in cli_flags.txt."""

from __future__ import annotations

from dataclasses import dataclass, field

from cli_flags import FROZEN, build_flags, flag_lines


@dataclass(frozen=True, slots=True, kw_only=True)
class _InnerConfig:
    rate: float = 0.1
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _OuterConfig:
    task: str
    inner: _InnerConfig = field(default_factory=lambda: _InnerConfig(rate=0.5))
    extra: _InnerConfig | None = None
    limit: int | None = None


def test_flags_are_the_frozen_ones() -> None:
    assert FROZEN.read_text(encoding="utf-8") == build_flags(), (
        "review the change, then run `python scripts/cli_flags.py --update`"
    )


def test_every_leaf_is_listed_with_the_default_that_its_parent_gives_it() -> None:
    assert list(flag_lines(_OuterConfig)) == [
        "task: str = required",
        "inner.rate: float = 0.5",
        "inner.names: tuple[str, ...] = ()",
        "extra: _InnerConfig | None = None",
        "extra.rate: float = 0.1",
        "extra.names: tuple[str, ...] = ()",
        "limit: int | None = None",
    ]


def test_a_changed_default_changes_the_list() -> None:
    assert list(flag_lines(_InnerConfig)) != list(flag_lines(_InnerConfig, _InnerConfig(rate=0.2)))
