"""The argument parser of every command: one clear `ConfigError`, no usage dump, no abbreviations."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Never, final

from esper.leyline import ConfigError, suggest


@final
class CommandParser(argparse.ArgumentParser):
    """Parser of one command; its help is the docstring of the command's module.

    The first line of that docstring is `esper COMMAND ARGUMENTS: what it does.`
    """

    def __init__(self, command: str, description: str | None, *, has_help: bool = True) -> None:
        """Make a parser for `esper <command>`.

        Args:
            command: Words after `esper`.
            description: Usage and description, shown by --help.
            has_help: Whether -h and --help are answered here.
        """
        usage, _, text = (description or "").partition(": ")
        super().__init__(
            prog=f"esper {command}",
            usage=usage or None,
            description=text[:1].upper() + text[1:],
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=has_help,
        )

    def parse_all(self, args: Sequence[str]) -> argparse.Namespace:
        """Parse arguments, none of which may be left over.

        Raises:
            ConfigError: If one is unknown, missing, or of the wrong type.
        """
        parsed, extra = self.parse_known_args(args)
        if extra:
            raise ConfigError(f"{self.prog}: unknown argument {extra[0]!r}: {suggest(extra[0], self.flags)}")
        return parsed

    @property
    def flags(self) -> tuple[str, ...]:
        """Every flag of this parser."""
        return tuple(name for action in self._actions for name in action.option_strings)

    def error(self, message: str) -> Never:
        """Raise what argparse would print.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{self.prog}: {message}; see `{self.prog} --help`")


def split_verb(command: str, args: Sequence[str], verbs: Sequence[str]) -> tuple[str, list[str]]:
    """Return the verb of a command that has several (`runs ls`) and the arguments after it.

    Raises:
        ConfigError: If there is none, or it is unknown.
    """
    if not args:
        raise ConfigError(f"esper {command}: give one of {', '.join(verbs)}; see `esper {command} --help`")
    if args[0] not in verbs:
        raise ConfigError(f"esper {command}: unknown command {args[0]!r}: {suggest(args[0], verbs)}")
    return args[0], list(args[1:])


def asks_for_help(args: Sequence[str]) -> bool:
    """Whether -h or --help is among the arguments."""
    return "-h" in args or "--help" in args
