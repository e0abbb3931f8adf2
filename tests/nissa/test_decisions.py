"""Decisions joined with what followed: the right reward, the right measurement, whatever else was told."""

from __future__ import annotations

from dataclasses import replace

from esper.leyline import (
    DecisionMade,
    Event,
    PolicyTrainingStarted,
    RewardGranted,
    RolledBack,
    RunStarted,
)
from esper.nissa import decision_to_plain, join_decisions, pick_decisions
from nissa.sample_run import decided, finished_epoch, measured, numbered

HEADS = {
    "op": ("WAIT", "GERMINATE", "ADVANCE"),
    "slot": ("block1", "block2"),
    "tempo": ("1", "3"),
    "alpha_target": ("0.5", "1"),
}
START = RunStarted(
    epoch=0,
    task="digits",
    policy="heuristic",
    seed=0,
    horizon_epochs=3,
    host_params=1,
    slots=HEADS["slot"],
    heads=HEADS,
)
LEARNED = DecisionMade(
    epoch=1,
    op="ADVANCE",
    slot="block2",
    blueprint=None,
    reason="learned",
    confidence=0.5,
    value=0.25,
    probabilities={
        "op": (0.1, 0.0, 0.9),
        "slot": (0.0, 1.0),
        "tempo": (0.2, 0.8),
        "alpha_target": (0.4, 0.6),
    },
    legal={
        "op": (True, False, True),
        "slot": (False, True),
        "tempo": (True,) * 2,
        "alpha_target": (True,) * 2,
    },
    observation={"epoch": 0.3},
    tempo_epochs=3,
    alpha_target=1.0,
)


def paid(epoch: int, total: float = 0.1, **more: int) -> RewardGranted:
    return RewardGranted(epoch=epoch, total=total, parts={"a": total}, return_so_far=total, **more)


def rolled_back(epoch: int, instance: int = 0) -> Event:
    return RolledBack(
        epoch=epoch,
        verdict="diverged",
        reason="",
        restored_epoch=epoch,
        blamed_slot=None,
        rollback_count=1,
        instance=instance,
    )


def test_a_decision_gets_the_reward_and_the_measurement_of_its_interval() -> None:
    events = [
        START,
        decided(0, "WAIT"),
        finished_epoch(1),
        paid(1, 0.1),
        LEARNED,
        finished_epoch(2),
        measured(2, "block1", "block1#1", "BLENDING", 0.5),
        measured(2, "block2", "block2#1", "BLENDING", 0.7),
        paid(2, 0.2),
    ]
    first, second = join_decisions(numbered(events))
    assert first.reward is not None
    assert second.reward is not None
    assert (first.reward.total, second.reward.total) == (0.1, 0.2)
    assert first.measured is None
    assert second.measured is not None
    assert second.measured.contribution == 0.7


def test_options_carry_names_legality_probability_and_the_choice() -> None:
    (row,) = join_decisions(numbered([START, LEARNED]))
    chosen = {head: [o.name for o in options if o.is_chosen] for head, options in row.options.items()}
    assert chosen == {"op": ["ADVANCE"], "slot": ["block2"], "tempo": ["3"], "alpha_target": ["1"]}
    assert row.options["op"][1] == ("GERMINATE", False, 0.0, False)
    assert [option.probability for option in row.options["tempo"]] == [0.2, 0.8]


def test_a_file_of_an_older_version_is_joined_without_what_it_does_not_hold() -> None:
    (row,) = join_decisions(numbered([replace(START, heads={}), decided(0, "CULL", "block1")]))
    assert row.options == {}
    assert row.reward is None
    (unnamed,) = join_decisions(numbered([replace(START, heads={}), LEARNED]))
    assert [option.name for option in unnamed.options["op"]] == ["0", "1", "2"]


def test_hosts_of_a_training_are_told_apart_by_environment() -> None:
    start = PolicyTrainingStarted(
        epoch=0, task="t", seed=0, num_envs=2, num_rounds=1, horizon_epochs=1, num_parameters=1, heads=HEADS
    )
    events = [
        start,
        replace(LEARNED, epoch=0, instance=7, env_id=0, round=1),
        replace(LEARNED, epoch=0, instance=7, env_id=1, round=1),
        paid(1, 0.5, instance=7, env_id=0, round=1),
        paid(1, 0.6, instance=7, env_id=1, round=1),
    ]
    rows = join_decisions(numbered(events))
    assert [row.reward is not None and row.reward.total for row in rows] == [0.5, 0.6]


def test_what_the_governor_took_back_is_marked_and_keeps_its_reward() -> None:
    events = [START, decided(0, "WAIT"), paid(1), decided(1, "WAIT"), rolled_back(1), paid(2, -0.3)]
    first, second = join_decisions(numbered([*events, decided(1, "WAIT"), paid(2)]))[:2]
    assert (first.is_undone, second.is_undone) == (False, True)
    assert second.reward is not None
    assert second.reward.total == -0.3


def test_another_hosts_rollback_undoes_nothing() -> None:
    (row,) = join_decisions(numbered([START, decided(0, "WAIT"), rolled_back(0, instance=3)]))
    assert not row.is_undone


def test_a_reward_of_another_interval_is_nobodys() -> None:
    (row,) = join_decisions(numbered([START, decided(0, "WAIT"), paid(5)]))
    assert row.reward is None


def test_rows_are_picked_by_host_epoch_and_round() -> None:
    rows = join_decisions(
        numbered([START, decided(0, "WAIT"), decided(1, "WAIT"), replace(LEARNED, instance=2, round=4)])
    )
    assert len(pick_decisions(rows)) == 3
    assert [row.decision.epoch for row in pick_decisions(rows, instance=0)] == [0, 1]
    assert len(pick_decisions(rows, epoch=1)) == 2
    assert [row.decision.op for row in pick_decisions(rows, round_number=4)] == ["ADVANCE"]


def test_a_row_as_plain_data_holds_everything() -> None:
    (row,) = join_decisions(numbered([START, LEARNED, measured(2, "block2", "s", "TRAINING", 0.7), paid(2)]))
    plain = decision_to_plain(row)
    assert plain["observation"] == {"epoch": 0.3}
    assert plain["reward"] == {"total": 0.1, "parts": {"a": 0.1}, "return_so_far": 0.1}
    assert plain["contribution"] == 0.7
    options = plain["options"]
    assert isinstance(options, dict)
    assert list(options) == list(LEARNED.legal)
