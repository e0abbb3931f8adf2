"""Whatever a configuration file or flag holds, the answer is exit 2 with one message, or a valid one.

No traceback, nothing written, no run started. Most cases run in process, some as programs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from battery_rows import BatteryRecord
from cli.calling import Answer, call
from esper.runtime.config_file import leaf_values
from esper.runtime.experiment import ExperimentConfig

KEYS = tuple(key for key, _ in leaf_values(ExperimentConfig()))
TABLES = tuple(sorted({key.rpartition(".")[0] for key in KEYS}))

LITERALS = st.sampled_from(
    (
        "nan", "-nan", "inf", "-inf", "1e400", "-1e400", "1e-400", "0", "-1", "1", "0.5", "1e30", "true",
        "false",
        "9223372036854775807", "9223372036854775808", "9" * 30, "9" * 5000, "0x7fffffffffffffffff",
        '""', '"x"', '"3"', '"nan"', '"None"', '"a\\u0000b"', "'''a\nb'''", "[]", "[1]", "[[1]]", "[nan]",
        '["norm"]', "{}", "{ x = 1 }", "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z",
        "[" * 200, "[" * 5000,
        '"\\ud800"', "@", "", '"' + "x" * 5000 + '"',
    )
)  # fmt: skip
NAMES = (
    st.sampled_from(KEYS)
    | st.sampled_from(TABLES).filter(bool)
    | st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=6).flatmap(
        lambda name: st.sampled_from(TABLES).map(lambda table: f"{table}.{name}" if table else name)
    )
)
LINES = st.builds(lambda name, literal: f"{name} = {literal}", NAMES, LITERALS)
FILES = (
    st.lists(LINES, min_size=1, max_size=3).map(lambda lines: "\n".join(lines).encode())
    | st.lists(LINES, min_size=1, max_size=1).map(
        lambda lines: "\n".join(lines * 2).encode()
    )  # duplicate keys
    | st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.integers(1, 3000).map(lambda depth: ("a." * depth + "b = 1").encode())
)
WORDS = st.sampled_from(
    ("nan", "inf", "-inf", "1e400", "-1", "0", "1", "0.5", "9" * 30, "9" * 400, "9" * 5000, "x", "",
     "None", "True", "\udcff", "a\0b", "1_0", "0x10", "[1]", "x" * 5000)
)  # fmt: skip


EXPECTATION = re.compile(
    r"expected|must|at most|did you mean|known|allowed|each|needs|\b(choose|use|give|set|leave)\b"
)
"""What follows "key = value:" says what would have been right, or what to do."""


def _check(answer: Answer, *, one_line: bool) -> None:
    assert answer.code in (0, 2), answer
    assert "Traceback" not in answer.err
    if answer.code:
        assert answer.out == ""
        assert answer.err
        if one_line:
            assert len(answer.error_lines) == 1, answer.err
            assert answer.err.startswith("esper: error: ")
            assert len(answer.err) < 2000
    else:
        assert answer.err == ""


def _try_file(content: bytes, folder: Path) -> None:
    path = folder / "fuzz.toml"
    path.write_bytes(content)
    answer = call(["config", "show", "--config", str(path)])
    _check(answer, one_line=True)
    if answer.code:
        assert str(path) in answer.err
    assert [item.name for item in folder.iterdir()] == ["fuzz.toml"]


def _try_value(key: str, literal: str, folder: Path) -> None:
    content = f"{key} = {literal}".encode("utf-8", "surrogatepass")
    _try_file(content, folder)
    try:
        tomllib.loads(content.decode())
    except (ValueError, RecursionError):  # no TOML at all: there is no key to name
        return
    answer = call(["config", "show", "--config", str(folder / "fuzz.toml")])
    if answer.code:
        assert key.rpartition(".")[2] in answer.err, answer.err
        assert EXPECTATION.search(answer.err), answer.err


def _try_flags(flags: Mapping[str, str]) -> None:
    words = [word for key, value in flags.items() for word in ("--" + key.replace("_", "-"), value)]
    _check(call(["config", "show", *words]), one_line=False)


def _fuzz_files(num_cases: int, folders: pytest.TempPathFactory) -> None:
    @settings(max_examples=num_cases)
    @given(content=FILES)
    @example(content=b'policy = "' + b"x" * 5_000 + b'"')
    def check(content: bytes) -> None:
        _try_file(content, folders.mktemp("fuzz"))

    check()


def _fuzz_flags(num_cases: int) -> None:
    @settings(max_examples=num_cases)
    @given(flags=st.dictionaries(st.sampled_from(KEYS), WORDS, min_size=1, max_size=3))
    def check(flags: dict[str, str]) -> None:
        _try_flags(flags)

    check()


def _fuzz_values(num_cases: int, folders: pytest.TempPathFactory) -> None:
    @settings(max_examples=num_cases)
    @given(key=st.sampled_from(KEYS), literal=LITERALS)
    @example(key="host.optimizer.betas", literal="[]")
    @example(key="network.flat_features", literal="1")
    def check(key: str, literal: str) -> None:
        _try_value(key, literal, folders.mktemp("fuzz"))

    check()


@pytest.mark.battery("T43")
def test_no_file_breaks_the_command(battery: BatteryRecord, tmp_path_factory: pytest.TempPathFactory) -> None:
    _fuzz_files(200, tmp_path_factory)
    battery.record(n=200)


@pytest.mark.battery("T43")
def test_no_flag_breaks_the_command(battery: BatteryRecord) -> None:
    _fuzz_flags(30)
    battery.record(n=30)


@pytest.mark.battery("T43")
def test_a_refused_value_is_told_with_its_key_and_what_is_expected(
    battery: BatteryRecord, tmp_path_factory: pytest.TempPathFactory
) -> None:
    _fuzz_values(60, tmp_path_factory)
    battery.record(n=60)


@pytest.mark.battery("T43")
@pytest.mark.slow
@pytest.mark.fault
def test_two_thousand_files_do_not_break_the_command(
    battery: BatteryRecord, tmp_path_factory: pytest.TempPathFactory
) -> None:
    _fuzz_files(2000, tmp_path_factory)
    _fuzz_values(1000, tmp_path_factory)
    battery.record(n=3000)


@pytest.mark.battery("T43")
@pytest.mark.slow
@pytest.mark.fault
def test_five_hundred_flags_do_not_break_the_command(battery: BatteryRecord) -> None:
    _fuzz_flags(500)
    battery.record(n=500)


@pytest.mark.battery("T43")
@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize(
    "content",
    [
        b"seed = -1",
        b'seed = "x"',
        b"sead = 1",
        b"seed = 1\nseed = 1",
        b"[host.optimizer]\nlearning_rate = nan",
        b"[host.optimizer]\nlearning_rate = 1e400",
        b"seed = " + b"9" * 5000,
        b"seed = " + b"[" * 100_000,
        b"a." * 50_000 + b"b = 1",
        b"policy = '\xff'",
        b"\x00",
        b"[host]\nepochs = 0",
    ],
)
def test_a_bad_file_stops_the_program_before_a_run(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_bytes(content)
    _expect_refusal(["train", "never", "--config", "bad.toml", "--run-dir", "out"], tmp_path, ["bad.toml"])


@pytest.mark.battery("T43")
@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize(
    "flags",
    [
        ["--seed", "x"],
        ["--seed", "-1"],
        ["--epochs", "0"],
        ["--host.optimizer.learning-rate", "inf"],
        ["--no-such-flag"],
        ["--config", "missing.toml"],
        ["--task", "\udcff"],
        ["--model.hidden", "x"],
    ],
)
def test_a_bad_flag_stops_the_program_before_a_run(flags: list[str], tmp_path: Path) -> None:
    _expect_refusal(["train", "never", "--run-dir", "out", *flags], tmp_path, [])


def _expect_refusal(args: Sequence[str], folder: Path, names: list[str]) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "esper", *map(os.fsencode, args)], cwd=folder, capture_output=True, check=False
    )
    assert answer.returncode == 2, answer.stderr
    assert answer.stdout == b""
    assert b"Traceback" not in answer.stderr
    assert answer.stderr
    assert [path.name for path in folder.iterdir()] == names
