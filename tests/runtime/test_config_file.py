from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import ConfigError
from esper.runtime.config_file import (
    MAX_CONFIG_BYTES,
    check_values,
    leaf_values,
    load_config,
    merge_table,
    parse_table,
    provenance_of_preset,
    read_config,
    read_table,
    render_config,
    write_config,
)
from esper.runtime.experiment import CheckpointConfig, ExperimentConfig, TaskConfig
from esper.runtime.presets import PRESET_NAMES, build_preset
from esper.tolaria import HostRunConfig

DEFAULT = ExperimentConfig()


def _refusal(tmp_path: Path, content: str | bytes) -> str:
    path = tmp_path / "my.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as caught:
        load_config(path, DEFAULT)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_leaves_are_dotted_keys_in_order() -> None:
    keys = [key for key, _ in leaf_values(DEFAULT)]
    assert keys[:3] == ["seed", "policy", "blueprints"]
    assert "host.optimizer.momentum" in keys
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_a_written_preset_reads_back_equal(name: str, tmp_path: Path) -> None:
    preset = build_preset(name)
    write_config(tmp_path / "config.toml", preset, provenance_of_preset(preset))
    assert read_config(tmp_path / "config.toml") == preset
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


@given(
    seed=st.integers(0, 2**63 - 1),
    blueprints=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))),
    data_dir=st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    rate=st.floats(min_value=5e-324, max_value=1e300),
    augmented=st.none() | st.booleans(),
    epochs=st.none() | st.integers(1, 10**9),
)
def test_any_configuration_survives_its_own_file(
    *,
    seed: int,
    blueprints: list[str],
    data_dir: str | None,
    rate: float,
    augmented: bool | None,
    epochs: int | None,
) -> None:
    config = replace(
        DEFAULT,
        seed=seed,
        blueprints=tuple(blueprints),
        task=TaskConfig(data_dir=data_dir, is_augmented=augmented),
        host=HostRunConfig(epochs=epochs, optimizer=replace(DEFAULT.host.optimizer, learning_rate=rate)),
    )
    text = render_config(config, {})
    assert merge_table(parse_table(text, "x"), DEFAULT, "x").config == config


def test_every_value_is_written_with_its_origin() -> None:
    config = replace(DEFAULT, seed=3, blueprints=("conv", "norm"))
    text = render_config(config, {"seed": "flag", "blueprints": "file", "host.epochs": "preset"})
    assert "seed = 3  # flag\n" in text
    assert 'blueprints = ["conv", "norm"]  # file\n' in text
    assert "# epochs is not set  # preset\n" in text
    assert "\n[host.optimizer]\n" in text


def test_a_file_lies_over_the_preset_and_origins_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[task]\nname = "digits"\n[host.optimizer]\nlearning_rate = 1\n', encoding="utf-8")
    resolved = load_config(path, build_preset("digits"))
    assert resolved.config.host.optimizer.learning_rate == 1.0
    assert resolved.config.model.base_channels == 3
    assert set(resolved.provenance) == {key for key, _ in leaf_values(DEFAULT)}
    origins = resolved.provenance
    assert origins["task.name"] == origins["host.optimizer.learning_rate"] == "file"
    assert (origins["model.base_channels"], origins["seed"]) == ("preset", "default")


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"")
    assert load_config(tmp_path / "a.toml", build_preset("emoji9")).config == build_preset("emoji9")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[host]\nepochs = "5"', "host.epochs = '5': expected a valid integer"),
        ("[host]\nepochs = 5.0", "host.epochs = 5.0: expected a valid integer"),
        ("seed = true", "seed = True: expected a valid integer"),
        (
            "[host.optimizer]\nlearning_rate = true",
            "host.optimizer.learning_rate = True: expected a valid number",
        ),
        ("[host.optimizer]\nmomentum = nan", "host.optimizer.momentum = nan: expected a finite number"),
        ("[host.optimizer]\nmomentum = -inf", "host.optimizer.momentum = -inf: expected a finite number"),
        ("[host.optimizer]\nmomentum = 1e400", "host.optimizer.momentum = inf: expected a finite number"),
        (
            "[host.optimizer]\nbetas = []",
            "host.optimizer.betas = []: expected a longer list, entry 1 is missing",
        ),
        ("[host.optimizer]\nbetas = [0.9, nan]", "host.optimizer.betas = nan: expected a finite number"),
        (
            "[host.optimizer]\nlearning_rate = -1.0",
            "host.optimizer.learning_rate=-1.0: must be finite and > 0",
        ),
        (
            "[host.optimizer]\nmomentum = 2.0",
            "host.optimizer.momentum=2.0: must be in [0, 1)",
        ),
        ("seed = -1", "seed=-1: must be >= 0"),
        ("seed = 18446744073709551616", "seed: an integer of 65 bits; expected at most 64-bit integers"),
        ("host = 3", "host = 3: expected a table with the keys batch_size, "),
        ("[seed]\nx = 1", "seed = {'x': 1}: expected a valid integer"),
        ("[host]\nepoch = 5", "unknown key 'host.epoch': did you mean 'epochs'?"),
        (
            "learning_rate = 0.1",
            "unknown key 'learning_rate': did you mean 'host.optimizer.learning_rate' or "
            "'training.imitation.learning_rate' or 'training.ppo.learning_rate'?",
        ),
        ("[host.optimizer.x]\ny = 1", "unknown key 'host.optimizer.x': known: betas, "),
        ("[model]\nkind = 'cn'", "model.kind='cn': did you mean 'cnn'?"),
        ("seed = 1979-05-27", "seed = '1979-05-27': expected text, a number, true or false, or a list"),
        ('policy = "a\\u0000b"', "policy = 'a\\x00b': expected text in UTF-8 without NUL"),
        ("seed = 1\nseed = 2", "not valid TOML: Cannot overwrite a value"),
        ("[host]\n[host]", "not valid TOML: Cannot declare ('host',) twice"),
        ("seed = ", "not valid TOML: "),
        ("seed = " + "9" * 5000, "not valid TOML: "),
        ("x" + ".x" * 40 + " = 1", "x.x.x... is nested deeper than 12 levels"),
        ("seed = " + "[" * 100_000, "nested too deeply"),
    ],
)
def test_a_wrong_file_is_one_line_with_key_value_and_expectation(
    text: str, message: str, tmp_path: Path
) -> None:
    assert message in _refusal(tmp_path, text)


def test_text_that_is_not_utf8_is_refused_with_its_place(tmp_path: Path) -> None:
    assert _refusal(tmp_path, b'policy = "\xff"') == "byte 10 is not UTF-8; save the file as UTF-8"


def test_a_huge_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    assert _refusal(tmp_path, b"#" * (MAX_CONFIG_BYTES + 1)).startswith("larger than 1048576 bytes")


def test_a_long_value_is_cut_in_the_message(tmp_path: Path) -> None:
    message = _refusal(tmp_path, "seed = '" + "x" * 10_000 + "'")
    assert len(message) < 200
    assert message.startswith("seed = 'xxx")


def test_line_ends_in_keys_do_not_break_the_message(tmp_path: Path) -> None:
    assert _refusal(tmp_path, '"a\\nb" = 1').startswith("unknown key \"'a\\\\nb'\"")


def test_several_problems_are_counted(tmp_path: Path) -> None:
    assert _refusal(tmp_path, "seed = 'a'\npolicy = 1").endswith("(and 1 more)")


@pytest.mark.parametrize("name", ["missing.toml", "", "a\0b"])
def test_a_file_that_cannot_be_read_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_table(tmp_path / name)


@pytest.mark.parametrize(
    "config",
    [
        replace(DEFAULT, policy="\ud800"),
        replace(DEFAULT, blueprints=("ok", "a\0")),
        replace(DEFAULT, seed=2**63),
    ],
)
def test_values_that_no_file_can_hold_are_refused(config: ExperimentConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        check_values(config)
    with pytest.raises(ConfigError):
        write_config(tmp_path / "config.toml", config, {})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.toml"
    write_config(path, DEFAULT, {})
    before = path.read_text(encoding="utf-8")

    def fail(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_config(path, replace(DEFAULT, checkpoint=CheckpointConfig(keep=9)), {})
    assert path.read_text(encoding="utf-8") == before
    assert [item.name for item in tmp_path.iterdir()] == ["config.toml"]


def _optional_leaves(config: ExperimentConfig) -> Mapping[str, object]:
    return {key: value for key, value in leaf_values(config) if value is None}


def test_fields_that_may_be_none_are_none_by_default() -> None:
    """TOML has no null, so only then does a file without the key mean None."""
    for name in PRESET_NAMES:
        assert set(_optional_leaves(build_preset(name))) <= set(_optional_leaves(DEFAULT))
