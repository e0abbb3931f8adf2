"""Settings of a training that cannot work are one message and exit code 2, before anything is trained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli.calling import call
from esper.leyline import ExitCode

SHORT = ("train", "ppo", "--task", "synthetic", "--rounds", "1", "--epochs", "8")
TEACHERS = ("--training.imitation.teachers",)
IMITATING = ("--training.imitation.num-rounds", "1")


@pytest.mark.battery("T36")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--envs", "2", "--ppo.num-minibatches", "4"), "ppo.num_minibatches=4: .* use at most 2"),
        (("--envs", "1", "--ppo.epochs", "1"), "ppo.target_kl=0.05 cannot act: one row"),
        (
            ("--envs", "2", *IMITATING, "--training.imitation.teachers", "heuristc"),
            "did you mean 'heuristic'",
        ),
        (
            ("--envs", "2", *IMITATING, *TEACHERS, "nowhere/policy"),
            "policy 'nowhere/policy': there is no such folder",
        ),
        (("--envs", "2", "--envs.narrow-rounds", "3"), "envs.narrow_rounds=3: .* draw family.hidden_widths"),
        (("--envs", "2", "--envs.narrow-rounds", "-1"), "envs.narrow_rounds=-1: must be >= 0"),
        (
            ("--envs", "2", "--family.max-added-params-fractions", "0.5", "nan"),
            "family.max_added_params_fractions=.* each must be finite and >= 0",
        ),
        (("--envs", "2", "--network.no-is-critic-separate"), "needs a critic of its own"),
        (("--envs", "2", "--reward.extra-terms", "nowhere:Term=0.5"), "there is no module 'nowhere'"),
        (("--envs", "2", "--reward.extra-terms", "nowhere:Term"), "expected package.module:Class=WEIGHT"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_before_anything_is_written(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    answer = call([*SHORT, *arguments, "--run-dir", str(run)])
    assert answer.code == ExitCode.USAGE, answer.err
    assert answer.out == ""
    assert "Traceback" not in answer.err
    text = " ".join(answer.err.split())
    assert re.search(message, text), text
    assert not run.exists()
