"""Flags over files over presets; covers every leaf of the experiment's configuration."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from pathlib import Path

import pytest

from cli.calling import call
from esper.cli.config_flags import (
    SHORT_FLAGS,
    ConfigRequest,
    apply_flags,
    build_config_parser,
    explain_refusal,
    keys_of_flags,
    parse_request,
    resolve_request,
    value_of_flag,
)
from esper.leyline import ConfigError
from esper.runtime.config_file import ResolvedExperiment, leaf_values, provenance_of_preset
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.presets import build_preset

DEFAULT = ExperimentConfig()
LEAVES = tuple(leaf_values(DEFAULT))
WORDS = {
    "policy": "never",
    "parallel": "host",
    "task.name": "emoji9",
    "task.data_dir": "/data",
    "model.kind": "mlp",
    "model.norm": "group",
    "task.text.tokens": "characters",
    "model.positions": "sinusoidal",
    "host.device": "auto",
    "host.amp": "bf16",
    "host.compile": "default",
    "host.on_failure": "terminate",
    "host.optimizer.name": "adamw",
    "host.lifecycle.incubation": "straight_through",
    "heuristic.slot_order": "last",
    "host.tracker.settles_against": "best",
    "telemetry.progress": "plain",
    "telemetry.observations": "all",
    "fleet.kind": "process",
    "fleet.on_death": "restart",
    "network.kind": "flat",
    "network.factorisation": "factored",
    "network.removal_bias": "-2",
    "network.token_size": "32",
    "network.attention_heads": "2",
    "reward.mode": "sparse",
    "reward.extra_terms": "my_terms:First=0.5 my_terms:Second=2",
    "training.amp": "bf16",
    "training.compile": "default",
    "training.rollout.horizon_semantics": "truncate",
    "training.ppo.clip_mode": "per_head",
    "training.ppo.advantage_norm": "none",
    "training.schedule.kind": "cosine",
    "training.normalization.value_norm": "welford",
    "family.base_channels": "3 5",
    "family.num_blocks": "3 5",
    "family.hidden_widths": "3 5",
    "family.num_train_rows": "30 50",
    "family.learning_rate_factors": "0.5 2.0",
    "family.max_added_params_fractions": "0.5 2.0",
}
"""Other legal words for each field of which not every word is legal."""
COMPANIONS: dict[str, tuple[str, ...]] = {
    "network.is_critic_separate": ("--network.no-is-critic-privileged",),
    "network.factorisation": ("--network.kind", "flat"),
    "network.flat_features": ("--network.kind", "flat"),
    "network.flat_slots": ("--network.kind", "flat"),
    "network.flat_blueprints": ("--network.kind", "flat"),
}
"""Flags without which a field may not be changed."""


def _request(*flags: str, preset: str | None = None, config_file: Path | None = None) -> ConfigRequest:
    return ConfigRequest(prog="esper config show", preset=preset, config_file=config_file, flags=flags)


def _other_words(key: str, value: object) -> list[str]:
    """Legal arguments that differ from the default; the first ones that the config accepts are taken."""
    if key in WORDS:
        return [WORDS[key]]
    if isinstance(value, Enum):
        return [str(next(item.value for item in type(value) if item is not value))]
    if isinstance(value, tuple):
        return [
            "0.5 0.6"
            if value and isinstance(value[0], float)
            else "3 5"
            if value and isinstance(value[0], int)
            else "norm conv"
        ]
    if isinstance(value, str):
        return ["on", "off", "true", "false", "never", "always", "yes", "no"]
    if value is None:
        return ["True", "12", "0.25"]
    assert isinstance(value, int | float), key
    return [str(value + 1), str(value + 2), str(value / 2), str(value - 1)]


@pytest.mark.parametrize(("key", "value"), LEAVES, ids=[key for key, _ in LEAVES])
def test_every_field_has_a_dotted_flag_that_changes_it_and_nothing_else(key: str, value: object) -> None:
    flag = "--" + key.replace("_", "-")
    base = ResolvedExperiment(config=DEFAULT, provenance=provenance_of_preset(DEFAULT))
    if key in COMPANIONS:
        config = apply_flags(base, _request(*COMPANIONS[key])).config
        base = ResolvedExperiment(config=config, provenance=provenance_of_preset(DEFAULT))
    before = dict(leaf_values(base.config))
    if isinstance(value, bool):
        parent, dot, last = flag.removeprefix("--").rpartition(".")
        attempts = [[f"--{parent}{dot}no-{last}"] if value else [flag]]
    else:
        attempts = [[flag, *words.split()] for words in _other_words(key, value)]
    for attempt in attempts:
        try:
            resolved = apply_flags(base, _request(*attempt))
        except ConfigError:
            continue
        break
    else:
        pytest.fail(f"none of {attempts} is accepted")
    changed = {name for name, item in leaf_values(resolved.config) if item != before[name]}
    assert changed == {key}
    assert {name for name, origin in resolved.provenance.items() if origin == "flag"} == {key}


def test_flags_beat_the_file_and_the_file_beats_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("seed = 5\n[host]\nbatch_size = 32\n", encoding="utf-8")
    resolved = resolve_request(_request("--seed", "7", preset="digits", config_file=path))
    assert (resolved.config.seed, resolved.config.host.batch_size) == (7, 32)
    assert resolved.config.model == build_preset("digits").model
    origins = resolved.provenance
    assert (origins["seed"], origins["host.batch_size"]) == ("flag", "file")
    assert (origins["model.base_channels"], origins["model.kernel_size"]) == ("preset", "default")


def test_the_task_chooses_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[task]\nname = "synthetic"\n', encoding="utf-8")
    assert resolve_request(_request()).config == build_preset(DEFAULT.task.name)
    assert resolve_request(_request("--task.name", "emoji9")).config == build_preset("emoji9")
    assert resolve_request(_request(config_file=path)).config == build_preset("synthetic")
    by_flag = resolve_request(_request("--task.name=emoji9", config_file=path))
    assert by_flag.config == build_preset("emoji9")


def test_a_preset_asked_for_stays_when_only_the_task_changes() -> None:
    config = resolve_request(_request("--task.name", "emoji9", preset="digits")).config
    assert config == replace(build_preset("digits"), task=build_preset("emoji9").task)


def test_short_flags_stand_for_dotted_ones() -> None:
    parser = build_config_parser("config show", None)
    _, request = parse_request(
        parser, ["--epochs", "3", "--task=emoji9", "--config", "a.toml", "--seed", "-1"]
    )
    assert request.flags == ("--host.epochs", "3", "--task.name=emoji9", "--seed", "-1")
    assert request.config_file == Path("a.toml")
    assert set(SHORT_FLAGS.values()) <= {"--" + key.replace("_", "-") for key, _ in LEAVES}


def test_the_last_of_two_equal_flags_counts() -> None:
    assert value_of_flag(["--a", "1", "--b", "2", "--a=3"], "--a") == "3"
    assert value_of_flag(["--a"], "--a") is None
    assert resolve_request(_request("--seed", "1", "--seed", "2")).config.seed == 2


def test_origins_know_both_spellings_and_negated_switches() -> None:
    flags = ["--host.batch_size=3", "--host.lifecycle.no-is-sequential", "5", "--host.no-batch-size"]
    assert keys_of_flags(flags, DEFAULT) == {"host.batch_size", "host.lifecycle.is_sequential"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epoch", "3"], "unknown flag '--epoch': did you mean --epochs"),
        (["--learning-rate=3"], "did you mean --host.optimizer.learning-rate"),
        (["--confg", "x"], "did you mean --config"),
        (["--qqqqq"], "unknown flag '--qqqqq': `esper config show --help` lists all"),
        (["--task", "digit"], "unknown task 'digit': did you mean 'digits'?"),
        (["--preset", "x"], "unknown preset 'x'"),
        (["--policy", "hueristic"], "unknown policy 'hueristic': did you mean 'heuristic'?"),
        (["--seed", "9" * 25], "seed: an integer of"),
        (["--host.gates.min-probation-epochs", "9" * 400], "a flag's number is too large"),
        (["--policy", "\udcff"], "expected text in UTF-8"),
        (["--policy", "my-policy:A"], "policy 'my-policy:A': expected package.module:Class"),
        (["--policy", "runs/none/policy"], "policy 'runs/none/policy': there is no such folder"),
        (["--reward.extra-terms", "a:B"], "reward.extra_terms='a:B': expected package.module:Class=WEIGHT"),
        (["--preset"], "argument --preset: expected one argument"),
    ],
)
def test_a_wrong_flag_is_one_line(flags: list[str], message: str) -> None:
    answer = call(["config", "show", *flags])
    assert (answer.code, answer.out) == (2, "")
    assert len(answer.error_lines) == 1
    assert message in answer.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seed", "x"], "--seed x: expected INT: Run seed, >= 0"),
        (["--seed=x"], "--seed x: expected INT: "),
        (["--epochs", "x"], "--host.epochs x: expected {None}|INT: Decision intervals"),
        (["--host.optimizer.learning-rate", "nan"], "optimizer.learning_rate=nan: must be finite and > 0"),
        (["--num-threads", "-1"], "esper config show: num_threads=-1: must be >= 0"),
        (["--host.optimizer.betas", "0.5", "x"], "--host.optimizer.betas 0.5 x: expected FLOAT FLOAT: "),
        (["--heuristic.blend", "x"], "invalid choice 'x' for argument '--heuristic.blend'"),
        (["--seed"], "missing value for argument '--seed'"),
        (["junk"], "unrecognized options: junk"),
        (["--seed", "9" * 5000], f"--seed {'9' * 40}: expected INT"),
    ],
)
@pytest.mark.parametrize("columns", ["80", "200"])
def test_a_wrong_value_is_explained_in_one_line(
    flags: list[str], message: str, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    answer = call(["config", "show", *flags])
    assert (answer.code, answer.out) == (2, "")
    assert len(answer.error_lines) == 1
    assert message in answer.err


def test_words_that_are_not_understood_are_repeated_without_their_frame() -> None:
    rule = "\u2500" * 9
    side, words = "\u2502", "Error parsing --seed: never seen"
    box = f"\u256d\u2500 Error \u2500\u256e\n{side} {words} {side}\n\u2570{rule}\u256f\n"
    assert explain_refusal(box, ["--seed", "1"]) == "--seed 1: never seen"
    assert explain_refusal(" Error\n ---\n  Something else.\n ---\n", []) == "something else"
    assert explain_refusal("", []) == ""


def test_an_unknown_task_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[task]\nname = "digit"\n', encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        resolve_request(_request(config_file=path))
    assert str(caught.value).startswith(f"{path}: task.name: unknown task 'digit': did you mean 'digits'?")


@pytest.mark.parametrize("text", ["task = 3", "[task]\nname = 3"])
def test_a_task_of_the_wrong_type_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^.*a\.toml: task"):
        resolve_request(_request(config_file=path))


def test_enum_flags_take_the_words_of_files() -> None:
    assert resolve_request(_request("--heuristic.blend", "gate")).config.heuristic.blend.value == "gate"


def test_an_unknown_policy_in_a_file_is_refused_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('policy = ""\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"a\.toml: unknown policy ''"):
        resolve_request(_request(config_file=path))
    assert resolve_request(_request("--policy", "never", config_file=path)).config.policy == "never"


@pytest.mark.parametrize("name", ["auto", "pretrained", "schedule:x.json", "no_such_module:Anything", "."])
def test_a_policy_by_reference_is_shown_and_not_loaded(name: str, tmp_path: Path) -> None:
    assert resolve_request(_request("--policy", name)).config.policy == name
    path = tmp_path / "a.toml"
    path.write_text(f'policy = "{name}"\n', encoding="utf-8")
    assert resolve_request(_request(config_file=path)).config.policy == name
