"""Configs are frozen, documented, complete, strict, and every field is read by something."""

from __future__ import annotations

import ast
import importlib
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w
from pydantic import TypeAdapter, ValidationError

from source_tree import SRC, ConfigClass, plant, read_configs, read_sources


def find_config_faults(root: Path) -> list[str]:
    """Name `*Config` classes not frozen, slotted and keyword-only, and fields without a docstring."""
    found = []
    for config in read_configs(read_sources(root)):
        where = f"{config.file.name}:{config.line} {config.name}"
        for setting in ("frozen=True", "slots=True", "kw_only=True"):
            if setting not in config.decorator:
                found.append(f"{where}: lacks {setting}")
        found += [
            f"{where}.{item.name}: no docstring under it" for item in config.fields if not item.docstring
        ]
    return found


def _inside_configs(tree: ast.Module) -> set[ast.AST]:
    """Nodes inside a `*Config` class: checking a field, or deriving another from it, is not using it."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config")
        for inner in ast.walk(node)
    }


def find_unread_fields(root: Path) -> list[str]:
    """Name config fields that no expression outside the configs themselves reads."""
    files = read_sources(root)
    read: set[str] = set()
    for file in files:
        ignored = _inside_configs(file.tree)
        read |= {
            node.attr
            for node in ast.walk(file.tree)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node not in ignored
        }
    return [
        f"{config.file.name}:{item.line} {config.name}.{item.name} is read nowhere"
        for config in read_configs(files)
        for item in config.fields
        if item.name not in read
    ]


def load_class(config: ConfigClass) -> type:
    """Import a config class."""
    module = importlib.import_module("esper." + config.file.name.removesuffix(".py").replace("/", "."))
    loaded = getattr(module, config.name)
    assert isinstance(loaded, type)
    return loaded


def levels(value: dict[str, object], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every table of a nested dictionary, the root's () first."""
    yield path
    for key, item in value.items():
        if isinstance(item, dict):
            yield from levels(item, (*path, key))


def with_unknown_key(value: dict[str, object], path: tuple[str, ...]) -> dict[str, object]:
    """Return a copy that holds an unknown key in the table at `path`."""
    if not path:
        return {**value, "no_such_key": 1}
    inner = value[path[0]]
    assert isinstance(inner, dict)
    return {**value, path[0]: with_unknown_key(inner, path[1:])}


ALL_CONFIGS = read_configs(read_sources(SRC))
WITH_DEFAULTS = [config for config in ALL_CONFIGS if all(item.default is not None for item in config.fields)]


def test_configs_are_frozen_slotted_keyword_only_and_documented() -> None:
    assert ALL_CONFIGS
    assert find_config_faults(SRC) == []


def test_every_config_field_is_read_somewhere() -> None:
    assert find_unread_fields(SRC) == []


@pytest.mark.parametrize("config", WITH_DEFAULTS, ids=lambda config: config.name)
def test_defaults_build_and_survive_toml(config: ConfigClass) -> None:
    loaded = load_class(config)
    adapter: TypeAdapter[object] = TypeAdapter(loaded)
    default = loaded()
    text = tomli_w.dumps(adapter.dump_python(default, mode="json", exclude_none=True))
    assert adapter.validate_json(json.dumps(tomllib.loads(text)), strict=True, extra="forbid") == default


@pytest.mark.parametrize("config", WITH_DEFAULTS, ids=lambda config: config.name)
def test_an_unknown_key_is_refused_at_every_level(config: ConfigClass) -> None:
    loaded = load_class(config)
    adapter: TypeAdapter[object] = TypeAdapter(loaded)
    dump = adapter.dump_python(loaded(), mode="json")
    for path in levels(_tables_of_configs(dump, loaded())):
        with pytest.raises(ValidationError, match="no_such_key"):
            adapter.validate_json(json.dumps(with_unknown_key(dump, path)), strict=True, extra="forbid")


def _tables_of_configs(dump: dict[str, object], value: object) -> dict[str, object]:
    """Keep only the tables that come from a nested config, not from a mapping of free keys."""
    kept: dict[str, object] = {}
    for key, item in dump.items():
        inner = getattr(value, key)
        if isinstance(item, dict) and hasattr(inner, "__dataclass_fields__"):
            kept[key] = _tables_of_configs(item, inner)
    return kept


def test_config_faults_are_found(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "data/a.py": (
                "@dataclass(frozen=True, kw_only=True)\n"
                "class SampleConfig:\n"
                "    rate: float = 0.1\n"
                "    size: int = 3\n"
                '    """Rows (>= 1)."""\n'
                "    def __post_init__(self):\n"
                "        assert self.size > 0\n"
                "    def area(self):\n"
                "        return self.size * self.size\n"
                "def use(config):\n"
                "    return config.rate\n"
            )
        },
    )
    assert find_config_faults(tmp_path) == [
        "data/a.py:2 SampleConfig: lacks slots=True",
        "data/a.py:2 SampleConfig.rate: no docstring under it",
    ]
    assert find_unread_fields(tmp_path) == ["data/a.py:4 SampleConfig.size is read nowhere"]
