from __future__ import annotations

from pathlib import Path

import pytest

from cli.calling import call
from esper.runtime.config_file import read_config
from esper.runtime.presets import PRESET_NAMES, build_preset


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_what_is_shown_is_the_configuration(name: str, tmp_path: Path) -> None:
    answer = call(["config", "show", "--preset", name])
    assert (answer.code, answer.err) == (0, "")
    path = tmp_path / "shown.toml"
    path.write_text(answer.out, encoding="utf-8")
    assert read_config(path) == build_preset(name)


def test_every_value_is_shown_with_its_origin(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("[host]\nsnapshot_every = 4\n", encoding="utf-8")
    shown = call(["config", "show", "--task", "digits", "--config", str(path), "--epochs", "9"]).out
    for line in (
        'name = "digits"  # flag',
        "epochs = 9  # flag",
        "snapshot_every = 4  # file",
        "base_channels = 3  # preset",
        'policy = "heuristic"  # default',
    ):
        assert f"\n{line}\n" in shown


def test_help_lists_every_section_and_its_own_flags() -> None:
    shown = call(["config", "--help"]).out
    for text in ("--preset P", "--config F", "--host.optimizer.momentum", "--telemetry.progress"):
        assert text in shown


@pytest.mark.parametrize("args", [[], ["sow"], ["show", "--config", "/no/such/file"]])
def test_a_wrong_command_line_is_one_line(args: list[str]) -> None:
    answer = call(["config", *args])
    assert (answer.code, answer.out, len(answer.error_lines)) == (2, "", 1)
