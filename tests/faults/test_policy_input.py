"""A policy that does not fit is refused in one message that names what differs, before its first decision."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from builders import make_space
from cli.calling import call
from esper.leyline import ExitCode
from esper.tamiyo import ActionLayout, NetworkConfig, build_growth_layout, build_network, save_policy

SMALL = NetworkConfig(hidden_size=8, token_size=8, family_size=4, attention_heads=2, core_size=8)
OVER_FEATURES = NetworkConfig(kind="flat", hidden_size=8, core_size=8, flat_features=4, family_size=1)
POLE = ActionLayout(op_names=("LEFT", "RIGHT"), uses={"op": (True, True)})


def save(folder: Path, layout: ActionLayout, config: NetworkConfig) -> Path:
    """Save a new policy and return its folder."""
    save_policy(folder, build_network(config, layout, seed=0), config, metadata={})
    return folder


def refusal_of(folder: Path) -> str:
    """Evaluate the policy, alone, on the digits, which must be refused, and return the message."""
    who = ["--policy", str(folder), "--against", str(folder)]
    answer = call(["evaluate", "--task", "digits", *who, "--episodes", "1"])
    assert answer.code == ExitCode.USAGE, answer.err
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert "done" not in answer.err
    return " ".join(answer.err.split())


def test_a_policy_for_other_observations_names_the_first_difference(tmp_path: Path) -> None:
    folder = save(tmp_path / "policy", build_growth_layout(make_space()), SMALL)
    document = json.loads((folder / "policy.json").read_text())
    document["contract"]["global"][0][0] = "epochs_lfet"
    (folder / "policy.json").write_text(json.dumps(document))
    message = refusal_of(folder)
    assert "other observations: global[0] was epochs_lfet" in message
    assert str(folder) in message


def test_a_policy_for_another_world_says_what_it_was_made_for(tmp_path: Path) -> None:
    message = refusal_of(save(tmp_path / "policy", POLE, OVER_FEATURES))
    assert "('LEFT', 'RIGHT')" in message


def test_a_policy_with_other_operations_names_them(tmp_path: Path) -> None:
    layout = build_growth_layout(make_space())
    fewer = replace(
        layout,
        op_names=layout.op_names[:-1],
        uses={head: used[:-1] for head, used in layout.uses.items()},
    )
    message = refusal_of(save(tmp_path / "policy", fewer, SMALL))
    assert layout.op_names[-1] in message
