"""Every field of the experiment can be set by file and by flag, and the resolved configuration says so."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import tomli_w

from cli.calling import call
from cli.test_config_flags import COMPANIONS, LEAVES, _other_words
from esper.runtime.config_file import leaf_values
from esper.runtime.experiment import ExperimentConfig

KEYS = tuple(key for key, _ in LEAVES)
DEFAULTS = dict(LEAVES)
NO_VALUE = object()


def _read(text: str) -> dict[str, object]:
    """Dotted key -> value of a printed configuration; a key that TOML cannot show (None) is left out."""
    found: dict[str, object] = {}

    def walk(table: dict[str, object], prefix: str) -> None:
        for key, value in table.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            else:
                found[prefix + key] = value

    walk(tomllib.loads(text), "")
    return found


def _nested(key: str, value: object) -> dict[str, object]:
    """The smallest table that sets one dotted key."""
    first, dot, rest = key.partition(".")
    return {first: _nested(rest, value) if dot else value}


def _flags(key: str, present: object) -> list[list[str]]:
    """Arguments of which at least one sets the field to another value than its present one."""
    flag = "--" + key.replace("_", "-")
    if isinstance(present, bool):
        parent, dot, last = flag.removeprefix("--").rpartition(".")
        return [[f"--{parent}{dot}no-{last}"] if present else [flag]]
    return [[flag, *words.split()] for words in _other_words(key, DEFAULTS[key])]


def _setting(companion: tuple[str, ...]) -> tuple[str, object]:
    """The dotted key that a companion's arguments set, and its value."""
    name = companion[0].removeprefix("--")
    if len(companion) > 1:
        return name, companion[1]
    parent, dot, last = name.rpartition(".")
    return parent + dot + last.removeprefix("no-").replace("-", "_"), not last.startswith("no-")


def _merged(left: dict[str, object], right: dict[str, object]) -> dict[str, object]:
    """Both tables in one; they share sections, never values."""
    found = dict(left)
    for key, value in right.items():
        inner = found.get(key)
        both = isinstance(inner, dict) and isinstance(value, dict)
        found[key] = _merged(inner, value) if both else value  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("key", KEYS)
def test_a_field_set_by_flag_is_read_back_and_set_by_file_it_is_the_same(key: str, tmp_path: Path) -> None:
    base = ["config", "show", "--preset", "digits"]
    companion = COMPANIONS.get(key, ())
    plain = _read(call([*base, *companion]).out)
    for arguments in _flags(key, plain.get(key)):
        by_flag = call([*base, *companion, *arguments])
        if by_flag.code == 0 and _read(by_flag.out).get(key, NO_VALUE) != plain.get(key, NO_VALUE):
            break
    else:
        pytest.fail(f"no flag changes {key}: {by_flag.err}")
    changed = _read(by_flag.out)
    assert {name for name in changed if changed[name] != plain.get(name, NO_VALUE)} == {key}
    path = tmp_path / "one.toml"
    table = _nested(key, changed[key])
    if companion:
        table = _merged(_nested(*_setting(companion)), table)
    path.write_text(tomli_w.dumps(table), encoding="utf-8")
    by_file = call([*base, "--config", str(path)])
    assert (by_file.code, by_file.err) == (0, "")
    assert _read(by_file.out) == changed
    origins = [line for line in by_file.out.splitlines() if line.endswith("  # file")]
    names = {line.split(" = ")[0] for line in origins}
    others = {_setting(companion)[0].rpartition(".")[2]} if companion else set()
    assert names == {key.rpartition(".")[2]} | others


def test_no_field_is_left_out() -> None:
    assert set(KEYS) == {key for key, _ in leaf_values(ExperimentConfig())}
    assert len(KEYS) > 50
