"""Policies by what a command line calls them, and schedules from a file."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from builders import make_observation, make_report
from esper.leyline import AlphaCurve, BlendForm, ConfigError, LifecycleOp, UnknownNameError
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.policies import (
    AUTO_POLICY,
    SCORE_EVERY,
    add_scores,
    check_reference,
    find_policy,
    read_schedule,
    refuse_without_scores,
    resolve_auto,
)
from esper.runtime.presets import digits
from esper.runtime.ranks.lone import LoneRank
from esper.runtime.training import assemble_training
from esper.tamiyo import FixedSchedulePolicy, GreedyConfig, HeuristicTamiyo, RecurrentPolicy, save_policy
from runtime.learning import tiny_training
from runtime.own_code import POLICIES, POLICY_MODULE


def test_names_give_rules_and_folders_give_trained_policies(tmp_path: Path) -> None:
    assembly = assemble_training(tiny_training(), LoneRank())
    folder = tmp_path / "run" / "policy"
    save_policy(folder, assembly.network, assembly.network_config, metadata={})
    config = digits()
    assert isinstance(find_policy("heuristic", config, seed=0, is_greedy=True).policy, HeuristicTamiyo)
    for reference in (folder, folder.parent):
        choice = find_policy(str(reference), config, seed=0, is_greedy=True)
        assert isinstance(choice.policy, RecurrentPolicy)
        assert choice.name == reference.name


def test_a_schedule_file_is_read_with_every_key(tmp_path: Path) -> None:
    path = tmp_path / "late.json"
    entry = {
        "epoch": 3,
        "until_epoch": 9,
        "op": "GERMINATE",
        "slot": "block2",
        "blueprint": "conv_light",
        "blend": "gate",
        "curve": "cosine",
        "tempo_epochs": 5,
        "alpha_target": 0.5,
    }
    path.write_text(json.dumps([entry, {"epoch": 8, "op": "FOSSILIZE"}]))
    first, second = read_schedule(path)
    action = first.action
    assert (first.epoch, first.until_epoch) == (3, 9)
    assert (action.op, action.slot, action.blueprint) == (LifecycleOp.GERMINATE, "block2", "conv_light")
    assert (action.blend, action.curve) == (BlendForm.GATE, AlphaCurve.COSINE)
    assert (action.tempo_epochs, action.alpha_target) == (5, 0.5)
    assert second.action.slot is None
    choice = find_policy(f"schedule:{path}", digits(), seed=0, is_greedy=True)
    assert isinstance(choice.policy, FixedSchedulePolicy)
    assert choice.name == "schedule late"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "expected a list"),
        ("[3]", "entry 0: expected a table"),
        ('[{"epoch": 1, "opp": "WAIT"}]', "unknown key 'opp': did you mean 'op'"),
        ('[{"epoch": 1, "op": "GROW"}]', "entry 0: 'GROW' is not a valid"),
        ('[{"op": "WAIT"}]', "epoch=-1"),
        ('[{"epoch": 1.5, "op": "WAIT"}]', "epoch=1.5: expected a whole number"),
        ('[{"epoch": 1, "op": "CULL", "slot": 4}]', "slot=4: expected text"),
        ("[", "cannot be read"),
    ],
)
def test_a_bad_schedule_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_schedule(path)


def test_a_missing_schedule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_schedule(tmp_path / "none.json")


def test_an_unknown_policy_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'heuristic'"):
        find_policy("heuristc", digits(), seed=0, is_greedy=True)


def test_auto_is_the_rule_that_is_best_at_the_default_prices() -> None:
    assert resolve_auto("auto") == AUTO_POLICY == "heuristic"
    assert resolve_auto("random") == "random"
    choice = find_policy("auto", digits(), seed=0, is_greedy=True)
    assert isinstance(choice.policy, HeuristicTamiyo)
    assert (choice.name, choice.fingerprint) == ("heuristic", None)


def test_a_users_class_is_found_beside_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{POLICY_MODULE}.py").write_text(POLICIES, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    reference = f"{POLICY_MODULE}:PlantOnce"
    try:
        choice = find_policy(reference, digits(), seed=5, is_greedy=True)
    finally:
        sys.modules.pop(POLICY_MODULE, None)
    assert (choice.name, type(choice.policy).__name__) == (reference, "PlantOnce")


@pytest.mark.parametrize(
    "reference", ["auto", "pretrained", "heuristic", "ppo", "schedule:none.json", "a.b:C", "/tmp", "."]
)
def test_a_reference_that_may_be_right_is_accepted_unread_and_unimported(reference: str) -> None:
    check_reference(reference)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("", "unknown policy ''"),
        ("hueristic", "did you mean 'heuristic'"),
        ("pretraind", "did you mean 'pretrained'"),
        ("a-b:C", "expected package.module:Class"),
        ("runs/none/policy", "policy 'runs/none/policy': there is no such folder"),
        ("x" * 5000, "unknown policy"),
        ("\0", "unknown policy"),
    ],
)
def test_a_reference_that_names_nothing_is_refused(reference: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_reference(reference)


def test_a_policy_that_can_only_be_trained_cannot_decide() -> None:
    with pytest.raises(UnknownNameError, match="unknown policy 'ppo'"):
        find_policy("ppo", digits(), seed=0, is_greedy=True)


@pytest.mark.parametrize(("price", "is_planted"), [(0.0, True), (1e6, False)])
def test_the_greedy_policy_weighs_with_the_settings_of_the_experiment(price: float, is_planted: bool) -> None:
    config = replace(digits(), greedy=GreedyConfig(params_price=price, flops_price=0.0))
    scored = replace(
        make_report("block1"), blueprint_gains={"norm": 0.5}, gradient_energy=1.0, scores_age_epochs=0
    )
    policy = find_policy("greedy", config, seed=0, is_greedy=True).policy
    action = policy.decide(make_observation(scored)).action
    assert (action.op is LifecycleOp.GERMINATE) is is_planted


def with_scores_every(intervals: int) -> ExperimentConfig:
    config = digits()
    measuring = replace(config.host.measuring, score_every=intervals)
    return replace(config, host=replace(config.host, measuring=measuring))


def test_only_a_policy_that_lacks_scores_is_given_them() -> None:
    assert add_scores(digits(), "greedy") == with_scores_every(SCORE_EVERY)
    assert add_scores(with_scores_every(2), "greedy") == with_scores_every(2)
    assert add_scores(digits(), "heuristic") == digits()


def test_a_policy_that_could_only_wait_is_refused_with_the_setting_that_helps() -> None:
    refuse_without_scores("heuristic", digits())
    refuse_without_scores("greedy", with_scores_every(1))
    with pytest.raises(ConfigError, match=r"host\.measuring\.score_every=0: .* set it to >= 1, e\.g\. 5"):
        refuse_without_scores("greedy", digits())
