"""Experiment configurations as TOML: read strictly, laid over a preset, written with each value's origin.

Whatever is wrong with a file becomes one `ConfigError` of one line: file, dotted key, value, what was
expected, the nearest key. Knows no flags; those belong to the command line.
"""

from __future__ import annotations

import json
import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, final

import tomli_w
from pydantic import TypeAdapter, ValidationError

from esper.leyline import ConfigError, suggest
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.run_folder import replace_text

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

ORIGINS = ("default", "preset", "file", "flag", "policy")
"""Where a value may come from, weakest first; "policy" = what the policy of a run cannot do without."""

MAX_CONFIG_BYTES = 2**20
"""Largest file that is read: a full configuration is about 5 KiB, so more is not one."""

_MAX_DEPTH = 12
_MAX_SHOWN = 80
_LARGEST_INTEGER = 2**63 - 1
_ADAPTER: TypeAdapter[ExperimentConfig] = TypeAdapter(ExperimentConfig)
_NAMED_FIELD = re.compile(r"(?:\w+\.)*(\w+)=(.*)", re.DOTALL)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedExperiment:
    """A configuration and where each of its values comes from.

    Example:
        ResolvedExperiment(config=ExperimentConfig(), provenance={"seed": "default", ...})
    """

    config: ExperimentConfig
    provenance: Mapping[str, str]
    """Dotted key of every leaf, e.g. "host.optimizer.momentum" -> one of `ORIGINS`."""


def leaf_values(config: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield (dotted key, value) of every field that is not itself a nested configuration, in order.

    Args:
        config: A config dataclass instance.
        prefix: Dotted path of the parent with a trailing dot.
    """
    assert is_dataclass(config), config
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            yield from leaf_values(value, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, value


def provenance_of_preset(preset: ExperimentConfig) -> dict[str, str]:
    """Return the origin of each leaf of a preset: "default" where it equals the class default."""
    defaults = dict(leaf_values(ExperimentConfig()))
    return {
        key: "default" if key in defaults and defaults[key] == value else "preset"
        for key, value in leaf_values(preset)
    }


def read_table(path: Path) -> dict[str, object]:
    """Read a TOML file as plain data that JSON can hold: no dates, no NaN, no infinities, 64-bit integers.

    Raises:
        ConfigError: If it cannot be read, is too large, or is not such TOML.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"{_show_path(path)}: cannot be read: {reason}") from error
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(
            f"{_show_path(path)}: larger than {MAX_CONFIG_BYTES} bytes; a config is a small file"
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{_show_path(path)}: byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from error
    return parse_table(text, _show_path(path))


def parse_table(text: str, where: str) -> dict[str, object]:
    """Parse TOML text under the rules of `read_table`.

    Args:
        text: The text.
        where: Its name in messages.

    Raises:
        ConfigError: If it is not such TOML.
    """
    try:
        table: dict[str, object] = tomllib.loads(text)
    except RecursionError as error:
        raise ConfigError(f"{where}: nested too deeply; a config has at most {_MAX_DEPTH} levels") from error
    except ValueError as error:
        raise ConfigError(f"{where}: not valid TOML: {_one_line(str(error))}") from error
    _check_plain(table, (), where, 0)
    return table


def load_config(path: Path, base: ExperimentConfig) -> ResolvedExperiment:
    """Lay a TOML file over a preset.

    Args:
        path: The file; keys that it lacks keep the preset's values.
        base: The preset.

    Raises:
        ConfigError: If the file cannot be read, or a key or value is refused.
    """
    return merge_table(read_table(path), base, _show_path(path))


def merge_table(table: Mapping[str, object], base: ExperimentConfig, where: str) -> ResolvedExperiment:
    """Lay a parsed TOML table over a preset; `where` names the file in messages.

    Raises:
        ConfigError: If a key is unknown, or a value has the wrong type or is out of its range.
    """
    known = _ADAPTER.dump_python(base, mode="json")
    config = _validate(_merge(known, table), where, known)
    given = {".".join(path) for path in _leaf_paths(table)}
    provenance = provenance_of_preset(base)
    origins = {
        key: "file" if _is_given(key, given) else provenance.get(key, "file")
        for key, _ in leaf_values(config)
    }
    return ResolvedExperiment(config=config, provenance=origins)


def read_config(path: Path) -> ExperimentConfig:
    """Read a complete configuration, as `write_config` wrote it; a key that it lacks has the class default.

    Raises:
        ConfigError: If the file cannot be read, or a key or value is refused.
    """
    return load_config(path, ExperimentConfig()).config


def render_config(config: ExperimentConfig, provenance: Mapping[str, str]) -> str:
    """Return the configuration as TOML, every value with its origin in a comment.

    Values that are None stand as comments, because TOML has no null.

    Raises:
        ConfigError: If a value cannot be written, such as text that is not valid Unicode.
    """
    check_values(config)
    dump = _ADAPTER.dump_python(config, mode="json")
    return "\n".join(_render_table(dump, (), provenance)).strip("\n") + "\n"


def write_config(path: Path, config: ExperimentConfig, provenance: Mapping[str, str]) -> None:
    """Write `render_config` to a file, atomically; reading it back gives an equal object.

    Raises:
        ConfigError: If a value cannot be written.
        OSError: If the file cannot be written.
    """
    text = render_config(config, provenance)
    again = merge_table(parse_table(text, str(path)), ExperimentConfig(), str(path)).config
    assert again == config, "a configuration must survive its own file: an optional field defaults to a value"
    replace_text(path, text)


def check_values(config: ExperimentConfig) -> None:
    """Refuse what no field may hold: non-finite numbers, integers over 64 bits, text that is not Unicode.

    Raises:
        ConfigError: Naming the dotted key.
    """
    for key, value in leaf_values(config):
        for item in value if isinstance(value, tuple) else (value,):
            _check_scalar(item.value if isinstance(item, Enum) else item, key)


def _validate(merged: Mapping[str, object], where: str, known: Mapping[str, object]) -> ExperimentConfig:
    try:
        config = _ADAPTER.validate_json(json.dumps(merged), strict=True, extra="forbid")
    except ValidationError as error:
        problems = error.errors(include_url=False)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(f"{where}: {_describe(problems[0], known)}{more}") from error
    return config


def _describe(problem: ErrorDetails, known: Mapping[str, object]) -> str:
    """Return "key = value: what was expected" for one finding of the validator."""
    location = tuple(str(part) for part in problem["loc"])
    key = _dotted(location)
    if problem["type"] == "unexpected_keyword_argument":
        return f"unknown key {key!r}: {_suggest_key(location, known)}"
    message = _one_line(problem["msg"])
    if problem["type"] == "value_error":
        message = message.removeprefix("Value error, ")
        named = _NAMED_FIELD.match(message)
        if named is not None and named[1] in _table_at(known, location):
            return f"{_dotted((*location, named[1]))}={named[2]}"
        return f"{key}: {message}" if key else message
    message = message.replace("Input should be", "expected", 1)
    if problem["type"] == "missing" and location[-1].isdigit():
        missing = f"expected a longer list, entry {int(location[-1]) + 1} is missing"
        return f"{_dotted(location[:-1])} = {_shorten(problem['input'])}: {missing}"
    if problem["type"].startswith("dataclass"):
        message = "expected a table with the keys " + ", ".join(_table_at(known, location))
    return f"{key} = {_shorten(problem['input'])}: {message}"


def _suggest_key(location: Sequence[str], known: Mapping[str, object]) -> str:
    """Name the nearest key: the same name in another table, else a similar one in this table."""
    name = location[-1]
    elsewhere = [path for path in _leaf_paths(known) if path[-1] == name]
    if elsewhere:
        return "did you mean " + " or ".join(repr(".".join(path)) for path in elsewhere) + "?"
    return suggest(name, _table_at(known, location[:-1]))


def _table_at(known: Mapping[str, object], location: Sequence[str]) -> Mapping[str, object]:
    table: Mapping[str, object] = known
    for part in location:
        inner = table.get(part)
        if not isinstance(inner, Mapping):
            return {}
        table = inner
    return table


def _merge(base: Mapping[str, object], over: Mapping[str, object]) -> dict[str, object]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _leaf_paths(table: Mapping[str, object], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaf_paths(value, (*path, key))
        else:
            yield (*path, key)


def _is_given(key: str, given: set[str]) -> bool:
    return key in given or any(other.startswith(key + ".") for other in given)


def _render_table(
    table: Mapping[str, object], path: tuple[str, ...], provenance: Mapping[str, str]
) -> Iterator[str]:
    leaves = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    if path and leaves:
        yield f"\n[{'.'.join(path)}]"
    for key, value in leaves.items():
        origin = provenance.get(".".join((*path, key)), "default")
        if value is None:
            yield f"# {key} is not set  # {origin}"
        else:
            yield f"{_render_line(key, value)}  # {origin}"
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _render_table(value, (*path, key), provenance)


def _render_line(key: str, value: object) -> str:
    """Return `key = value`, a list on the same line: line ends inside text are escapes."""
    text = tomli_w.dumps({key: value}).rstrip()
    return text.replace("[\n    ", "[").replace(",\n]", "]").replace("\n    ", " ")


def _check_plain(value: object, path: tuple[str, ...], where: str, depth: int) -> None:
    """Refuse what JSON cannot hold or what would overflow later, with the dotted key."""
    if depth > _MAX_DEPTH:
        raise ConfigError(f"{where}: {_dotted(path[:3])}... is nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_plain(item, (*path, str(key)), where, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, path, where, depth + 1)
    else:
        _check_scalar(value, f"{where}: {_dotted(path)}")


def _check_scalar(value: object, key: str) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, int):
        if abs(value) > _LARGEST_INTEGER:
            raise ConfigError(
                f"{key}: an integer of {value.bit_length()} bits; expected at most 64-bit integers"
            )
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(f"{key} = {value}: expected a finite number")
    elif isinstance(value, str):
        if "\0" in value or not _is_unicode(value):
            raise ConfigError(f"{key} = {_shorten(value)}: expected text in UTF-8 without NUL characters")
    else:
        raise ConfigError(
            f"{key} = {_shorten(str(value))}: expected text, a number, true or false, or a list"
        )


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _dotted(path: Sequence[str]) -> str:
    return ".".join(part if _BARE_KEY.fullmatch(part) else _shorten(part) for part in path)


def _shorten(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def _one_line(text: str) -> str:
    """Join the words; of too many keep the beginning, which names the key, and the end, which the remedy."""
    joined = " ".join(text.split())
    if len(joined) <= 4 * _MAX_SHOWN:
        return joined
    return f"{joined[: 2 * _MAX_SHOWN]} ... {joined[-2 * _MAX_SHOWN :]}"


def _show_path(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace").replace("\n", "\\n")
