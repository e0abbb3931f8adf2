"""Every field of the experiment can be set by file and by flag, and the resolved configuration says so."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import tomli_w

from cli.calling import call
from cli.test_config_flags import LEAVES, _other_words
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


def _flag(key: str, words: str) -> list[str]:
    flag = "--" + key.replace("_", "-")
    if isinstance(DEFAULTS[key], bool):
        parent, dot, last = flag.removeprefix("--").rpartition(".")
        return [f"--{parent}{dot}no-{last}"] if DEFAULTS[key] else [flag]
    return [flag, *words.split()]


@pytest.mark.parametrize("key", KEYS)
def test_a_field_set_by_flag_is_read_back_and_set_by_file_it_is_the_same(key: str, tmp_path: Path) -> None:
    plain = _read(call(["config", "show", "--preset", "digits"]).out)
    default = DEFAULTS[key]
    for words in [""] if isinstance(default, bool) else _other_words(key, default):
        by_flag = call(["config", "show", "--preset", "digits", *_flag(key, words)])
        if by_flag.code == 0 and _read(by_flag.out).get(key, NO_VALUE) != plain.get(key, NO_VALUE):
            break
    else:
        pytest.fail(f"no flag changes {key}: {by_flag.err}")
    changed = _read(by_flag.out)
    assert {name for name in changed if changed[name] != plain.get(name, NO_VALUE)} == {key}
    path = tmp_path / "one.toml"
    path.write_text(tomli_w.dumps(_nested(key, changed[key])), encoding="utf-8")
    by_file = call(["config", "show", "--preset", "digits", "--config", str(path)])
    assert (by_file.code, by_file.err) == (0, "")
    assert _read(by_file.out) == changed
    assert f"  # {path.name}" in by_file.out or "# file" in by_file.out


def test_no_field_is_left_out() -> None:
    assert set(KEYS) == {key for key, _ in leaf_values(ExperimentConfig())}
    assert len(KEYS) > 50
