"""What policy training says to a person: nissa/wording_learning.py and the lines of nissa/line.py."""

from __future__ import annotations

from esper.leyline import AnomalyFound, PolicyTrainingStarted, PolicyUpdated
from esper.nissa.line import Tone
from esper.nissa.wording_learning import tell_anomaly, tell_training_start, tell_update
from nissa.sample_training import updated


def test_the_start_names_task_size_and_plan() -> None:
    event = PolicyTrainingStarted(
        epoch=0, task="digits", seed=3, num_envs=8, num_rounds=20, horizon_epochs=40, num_parameters=51_000
    )
    line = tell_training_start(event)
    for part in ("training", "digits", "20 rounds", "8 hosts", "40 epochs", "seed 3"):
        assert part in line.text


def test_a_round_shows_what_was_measured_and_leaves_out_the_rest() -> None:
    metrics = {"rollout/ep_rew_mean": 0.0123, "train/approx_kl": 0.004, "train/unknown": 9.0}
    text = tell_update(PolicyUpdated(epoch=2, num_env_steps=640, metrics=metrics)).text
    assert "round 2" in text
    assert "return 0.012" in text
    assert "entropy" not in text
    assert "9.0" not in text


def test_a_round_of_a_real_training_shows_every_word() -> None:
    text = tell_update(updated(3)).text
    for word in ("return", "gain", "fossils", "wait 0.750", "entropy 0.900", "kl", "explained"):
        assert word in text


def test_an_anomaly_is_a_warning_with_its_threshold_and_what_to_do() -> None:
    event = AnomalyFound(epoch=4, name="op entropy", value=0.01, threshold=0.1, advice="raise \x1b[2J it")
    line = tell_anomaly(event)
    assert line.tone is Tone.WARNING
    assert "threshold 0.100" in line.text
    assert "\x1b" not in line.text
