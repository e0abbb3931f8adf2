"""Flags of the commands that take a configuration: preset < TOML file < flags.

Every field is a dotted flag that tyro derives from the dataclass (`--host.optimizer.momentum 0.8`); a few
have a short one. Holds no default value.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import final

import tyro

from esper.cli.arguments import CommandParser
from esper.cli.output import report_note
from esper.leyline import ConfigError, UnknownNameError
from esper.nissa import clean_text
from esper.runtime.config_file import (
    ResolvedExperiment,
    check_values,
    leaf_values,
    merge_table,
    provenance_of_preset,
    read_table,
)
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.policies import check_reference
from esper.runtime.presets import PRESET_NAMES, build_preset, preset_for_task
from esper.runtime.run_records import META_NAME

SHORT_FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "--task": "--task.name",
        "--data-dir": "--task.data-dir",
        "--epochs": "--host.epochs",
        "--device": "--host.device",
        "--amp": "--host.amp",
        "--compile": "--host.compile",
        "--envs": "--envs.num-envs",
        "--fleet": "--fleet.kind",
        "--rounds": "--training.num-updates",
        "--max-hours": "--checkpoint.max-hours",
        "--on-alert": "--telemetry.on-alert",
    }
)
"""Short flag -> dotted flag; `--seed` and `--policy` are dotted flags already."""

SHORT_GROUPS: Mapping[str, str] = MappingProxyType({"--ppo.": "--training.ppo."})
"""Beginning of a dotted flag -> the longer one that it stands for."""

_COMMAND, _COMMAND_FLAG = "on_alert", "--telemetry.on-alert"
_SAME_WORDS_AS_FILES = (tyro.conf.EnumChoicesFromValues,)
_RULE = "\u2500"
_FRAME = re.compile(r"[\u2500-\u257f]+")
_OF_FIELD = re.compile(r"Error parsing [\w.]+: (?=[\w.]+=)")
_OF_FLAG = re.compile(r"Error parsing (?P<name>--[\w.-]+): ")
_SHOWN_VALUE = 40
"""Characters of a refused value that a message repeats."""
_DESCRIPTION = "Every field of the configuration, with its value before flags."


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigRequest:
    """What the command line says about the configuration."""

    prog: str
    """Command, as messages name it."""
    preset: str | None = None
    config_file: Path | None = None
    own_flags: tuple[str, ...] = ()
    """Flags of the command itself, for suggestions."""
    flags: tuple[str, ...] = ()
    """Dotted flags with their values; short ones are already replaced."""


def build_config_parser(command: str, description: str | None) -> CommandParser:
    """Return a parser with --preset and --config; it leaves dotted flags and --help to `parse_request`."""
    pairs = [*SHORT_FLAGS.items(), *((f"{a}*", f"{b}*") for a, b in SHORT_GROUPS.items())]
    shorts = "\n".join(f"  {short:<15}  {dotted}" for short, dotted in pairs)
    parser = CommandParser(command, description, has_help=False)
    parser.epilog = f"short flags:\n{shorts}\nAll others are listed below."
    parser.add_argument(
        "--preset",
        metavar="P",
        help=f"start from this preset: {', '.join(PRESET_NAMES)}; default: the task's",
    )
    parser.add_argument("--config", type=Path, metavar="F", help="TOML file, laid over the preset")
    return parser


def parse_request(parser: CommandParser, args: Sequence[str]) -> tuple[argparse.Namespace, ConfigRequest]:
    """Split a command line into the command's own arguments and what it says about the configuration.

    Raises:
        ConfigError: If one of the command's own arguments is wrong.
    """
    given, rest = parser.parse_known_args(args)
    request = ConfigRequest(
        prog=parser.prog,
        preset=given.preset,
        config_file=given.config,
        own_flags=parser.flags,
        flags=tuple(_expand(token) for token in rest),
    )
    return given, request


def resolve_request(request: ConfigRequest) -> ResolvedExperiment:
    """Return the configuration of a command line: preset < file < flags.

    The preset is the one asked for, else the one of the task that the flags or the file name.

    Raises:
        ConfigError: If a name, key, flag or value is refused.
    """
    path = request.config_file
    table = {} if path is None else read_user_table(path, request)
    base = _choose_base(request, table)
    if path is None:
        merged = ResolvedExperiment(config=base, provenance=provenance_of_preset(base))
    else:
        merged = merge_table(table, base, str(path))
    return apply_flags(merged, request)


def read_user_table(path: Path, request: ConfigRequest) -> Mapping[str, object]:
    """Read a TOML file, but for a command that a run directory would have us run.

    A run directory may come from somebody else; only what a user writes on the command line or in a file of
    their own is run for alerts.

    Raises:
        ConfigError: If it cannot be read or is no TOML.
    """
    table = read_table(path)
    section = table.get("telemetry")
    if (
        not isinstance(section, Mapping)
        or not section.get(_COMMAND)
        or not (path.parent / META_NAME).exists()
    ):
        return table
    if value_of_flag(request.flags, _COMMAND_FLAG) is None:
        report_note(
            f"{path} names a command for alerts, which is not run; to have one, give --on-alert again"
        )
    return {**table, "telemetry": {key: value for key, value in section.items() if key != _COMMAND}}


def apply_flags(resolved: ResolvedExperiment, request: ConfigRequest) -> ResolvedExperiment:
    """Lay the flags of a request over a configuration.

    Raises:
        ConfigError: If a flag or a value is refused.
    """
    _refuse_unknown(request, resolved.config)
    refusal = io.StringIO()
    try:
        with contextlib.redirect_stderr(refusal):
            config: ExperimentConfig = tyro.cli(
                ExperimentConfig,
                default=resolved.config,
                args=list(request.flags),
                prog=request.prog,
                description=_DESCRIPTION,
                config=_SAME_WORDS_AS_FILES,
            )
    except SystemExit as stop:
        raise ConfigError(f"{request.prog}: {explain_refusal(refusal.getvalue(), request.flags)}") from stop
    except OverflowError as error:
        raise ConfigError(f"{request.prog}: a flag's number is too large: {error}") from error
    check_values(config)
    try:
        check_reference(config.policy)
    except ConfigError as error:
        is_from_file = resolved.provenance["policy"] == "file" and config.policy == resolved.config.policy
        if is_from_file and request.config_file is not None:
            raise ConfigError(f"{request.config_file}: {error}") from error
        raise
    given = keys_of_flags(request.flags, config)
    origins = {key: "flag" if key in given else origin for key, origin in resolved.provenance.items()}
    return ResolvedExperiment(config=config, provenance=origins)


def explain_refusal(box: str, flags: Sequence[str]) -> str:
    """Return what tyro's framed message says, in one line: flag, value, what was expected, what it means.

    Args:
        box: As tyro printed it: paragraphs between rules, the words broken into lines.
        flags: The command line, where the value is found.
    """
    said, about = (*_paragraphs(box), [], [])[:2]
    words = " ".join(said)
    broken = _OF_FIELD.match(words)
    if broken is not None:  # a config's own refusal names field, value and range
        return words[broken.end() :]
    flag = _OF_FLAG.match(words)
    if flag is None:
        return f"{words[:1].lower()}{words[1:]}".rstrip(".")
    name = flag["name"]
    given = f"{name} {' '.join(_values_of_flag(flags, name))[:_SHOWN_VALUE]}"
    if len(about) < 3:  # no title, flag with type, and meaning
        return f"{given}: {words[flag.end() :]}"
    return f"{given}: expected {about[1].removeprefix(name).strip()}: {' '.join(about[2:])}"


def _values_of_flag(flags: Sequence[str], name: str) -> list[str]:
    """Return every word given to the last flag of this name."""
    starts = [index for index, flag in enumerate(flags) if flag.partition("=")[0] == name]
    first, *rest = flags[starts[-1] :] if starts else ("",)
    words = itertools.takewhile(lambda word: not word.startswith("--"), rest)
    return [first.partition("=")[2]] if "=" in first else list(words)


def _paragraphs(box: str) -> list[list[str]]:
    """Take the frame and the title off: the lines of text between one rule and the next.

    The frame is drawn with box characters on a terminal that has them; else only rules of dashes are drawn,
    and the title stands in a paragraph of its own.
    """
    found: list[list[str]] = [[]]
    for line in map(clean_text, box.splitlines()):
        text = _FRAME.sub("", line).strip()
        if _RULE in line or (text and not text.strip("-")):
            found.append([])
        elif text:
            found[-1].append(text)
    filled = [lines for lines in found if lines]
    return filled if _RULE in box else filled[1:]


def keys_of_flags(flags: Sequence[str], config: ExperimentConfig) -> frozenset[str]:
    """Return the dotted keys that flags set; `--a.no-is-on` sets a.is_on."""
    values = dict(leaf_values(config))
    keys = (_key_of_flag(flag, values) for flag in flags if flag.startswith("--"))
    return frozenset(key for key in keys if key is not None)


def write_flag_help(prog: str, request: ConfigRequest) -> None:
    """Print the list of dotted flags to stdout, with the values of the preset asked for."""
    with contextlib.suppress(SystemExit):  # how tyro leaves after its help
        tyro.cli(
            ExperimentConfig,
            default=_choose_base(request, {}),
            args=["--help"],
            prog=prog,
            description=_DESCRIPTION,
            config=_SAME_WORDS_AS_FILES,
        )


def value_of_flag(flags: Sequence[str], name: str) -> str | None:
    """Return the last value given to a flag, as `--name value` or `--name=value`; None if it is not given."""
    found: str | None = None
    for index, flag in enumerate(flags):
        if flag == name and index + 1 < len(flags):
            found = flags[index + 1]
        elif flag.startswith(name + "="):
            found = flag.removeprefix(name + "=")
    return found


def _choose_base(request: ConfigRequest, table: Mapping[str, object]) -> ExperimentConfig:
    if request.preset is not None:
        return build_preset(request.preset)
    task = value_of_flag(request.flags, "--task.name")
    if task is not None:
        return preset_for_task(task)
    section = table.get("task")
    named = section.get("name") if isinstance(section, Mapping) else None
    if not isinstance(named, str):
        return preset_for_task(ExperimentConfig().task.name)
    try:
        return preset_for_task(named)
    except UnknownNameError as error:
        raise ConfigError(f"{request.config_file}: task.name: {error}") from error


def _key_of_flag(flag: str, values: Mapping[str, object]) -> str | None:
    name = flag.removeprefix("--").partition("=")[0].replace("-", "_")
    if name in values:
        return name
    parent, dot, last = name.rpartition(".")
    positive = f"{parent}{dot}{last.removeprefix('no_')}"
    return positive if isinstance(values.get(positive), bool) else None


def _refuse_unknown(request: ConfigRequest, config: ExperimentConfig) -> None:
    """Name the nearest flags, the short and the command's own ones included, which tyro does not know."""
    values = dict(leaf_values(config))
    for flag in request.flags:
        if flag.startswith("--") and _key_of_flag(flag, values) is None:
            dotted = ["--" + key.replace("_", "-") for key in values]
            name = flag.partition("=")[0].replace("_", "-")
            near = difflib.get_close_matches(name, [*SHORT_FLAGS, *request.own_flags, *dotted], n=3)
            same = [key for key in dotted if key.rpartition(".")[2] == name.removeprefix("--")]
            nearest = list(dict.fromkeys([*same, *near]))[:3]
            hint = f"did you mean {' or '.join(nearest)}? " if nearest else ""
            raise ConfigError(
                f"{request.prog}: unknown flag {name!r}: {hint}`{request.prog} --help` lists all"
            )


def _expand(token: str) -> str:
    name, equals, value = token.partition("=")
    for short, full in SHORT_GROUPS.items():
        if name.startswith(short):
            name = full + name.removeprefix(short)
    return SHORT_FLAGS.get(name, name) + equals + value
