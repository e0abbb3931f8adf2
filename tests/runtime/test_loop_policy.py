"""Policies of a loop of one's own: by name, by object, and what is neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.leyline import ConfigError, UnknownNameError
from esper.runtime.loop_policy import check_loop_policy, resolve_policy
from esper.runtime.own_blueprints import blueprint
from esper.tamiyo import NeverGrow
from runtime.test_own_blueprints import build_zeroed


def test_policies_come_by_name_by_object_and_not_by_a_wrong_name() -> None:
    own = NeverGrow()
    assert resolve_policy(own, 0) is own
    assert type(resolve_policy("heuristic", 0)).__name__ == "HeuristicTamiyo"
    with pytest.raises(UnknownNameError, match="did you mean 'heuristic'"):
        resolve_policy("heuristik", 0)
    with pytest.raises(ConfigError, match="plants by scores, which need the loss"):
        resolve_policy("greedy", 0)


@pytest.mark.parametrize("policy", ["heuristic", "pretrained", "auto", "my_module:Mine", NeverGrow()])
def test_what_could_decide_is_let_pass_without_being_read(policy: object) -> None:
    check_loop_policy(policy)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (NeverGrow, r"policy is the class NeverGrow: pass an object of it, NeverGrow\("),
        (None, "policy is a NoneType: expected a name"),
        ("ppo", "esper train ppo"),
        ("runs/none", "no such folder"),
    ],
)
def test_what_could_not_decide_is_refused(policy: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_loop_policy(policy)


def test_a_blueprint_that_is_offered_by_name_is_in_the_heuristics_rotation(tmp_path: Path) -> None:
    mine = blueprint("mine", needs="flat")(build_zeroed)
    policy = resolve_policy("heuristic", 0, [mine])
    assert "mine" in policy._config.blueprints_flat  # type: ignore[attr-defined]
