"""Policies by what a command line calls them, and schedules from a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from esper.leyline import AlphaCurve, BlendForm, ConfigError, LifecycleOp, UnknownNameError
from esper.runtime.policies import find_policy, read_schedule
from esper.runtime.presets import digits
from esper.runtime.training import assemble_training
from esper.tamiyo import FixedSchedulePolicy, HeuristicTamiyo, RecurrentPolicy, save_policy
from runtime.learning import tiny_training


def test_names_give_rules_and_folders_give_trained_policies(tmp_path: Path) -> None:
    assembly = assemble_training(tiny_training())
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
