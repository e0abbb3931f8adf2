"""An episode is read from a whole, undamaged log of a growth run, or refused in one sentence."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from esper.leyline import (
    Action,
    AlphaCurve,
    BlendForm,
    CheckpointSaved,
    ConfigError,
    DataError,
    DecisionMade,
    EsperError,
    Event,
    EventsDropped,
    LifecycleOp,
    Notice,
    PolicyTrainingStarted,
    RunDirectoryError,
    RunFinished,
    RunStarted,
)
from esper.nissa import Header, Record, encode_header, encode_record
from esper.runtime.episode_log import read_decision, read_episode
from nissa.sample_run import decided, finished_epoch

EPOCHS = tuple(finished_epoch(epoch) for epoch in range(1, 4))
END = RunFinished(epoch=3, reason="horizon")


def started(*, rewinds_to: int | None = None) -> RunStarted:
    return RunStarted(
        epoch=0,
        task="digits",
        policy="heuristic",
        seed=0,
        horizon_epochs=3,
        host_params=10,
        slots=("block1",),
        is_resumed=rewinds_to is not None,
        rewinds_to_seq=rewinds_to,
    )


def write_log(folder: Path, rows: Iterable[tuple[int, int, Event]], *, rank: int = 0) -> Path:
    """Write (attempt, sequence number, event) rows as the event file of a run."""
    lines = [encode_header(Header(run_id="r", rank=rank, start_time=0.0))]
    lines += [
        encode_record(
            Record(run_id="r", attempt=attempt, rank=rank, seq=seq, wall_time=float(seq), event=event)
        )
        for attempt, seq, event in rows
    ]
    (folder / f"events-{rank}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def in_order(*events: Event) -> list[tuple[int, int, Event]]:
    return [(0, seq, event) for seq, event in enumerate(events)]


WHOLE = in_order(started(), decided(0, "WAIT"), EPOCHS[0], decided(1, "WAIT"), EPOCHS[1], EPOCHS[2], END)


def test_a_whole_log_is_its_start_what_the_host_told_and_its_end(tmp_path: Path) -> None:
    noise = [CheckpointSaved(epoch=3, name="e", num_bytes=1), Notice(epoch=3, text="late")]
    events = [row[2] for row in WHOLE]
    write_log(tmp_path, in_order(*events[:-1], *noise, END))
    episode = read_episode(tmp_path)
    assert episode.events == tuple(events)
    assert episode.num_epochs == 3


def test_what_a_resumed_attempt_went_back_before_is_left_out(tmp_path: Path) -> None:
    first = in_order(started(), decided(0, "WAIT"), EPOCHS[0], decided(1, "CULL"))
    second: list[tuple[int, int, Event]] = [
        (1, 4, started(rewinds_to=2)),
        (1, 5, decided(1, "WAIT")),
        (1, 6, EPOCHS[1]),
    ]
    write_log(tmp_path, first + second)
    assert read_episode(tmp_path).events == (
        started(),
        decided(0, "WAIT"),
        EPOCHS[0],
        decided(1, "WAIT"),
        EPOCHS[1],
    )


def test_an_interrupted_run_has_no_end(tmp_path: Path) -> None:
    rows = in_order(*(row[2] for row in WHOLE[:-1]), RunFinished(epoch=3, reason="interrupted"))
    assert read_episode(write_log(tmp_path, rows)).events[-1] == EPOCHS[2]


def test_a_torn_last_line_is_forgiven(tmp_path: Path) -> None:
    file = write_log(tmp_path, WHOLE) / "events-0.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    assert read_episode(tmp_path).events[-1] == EPOCHS[2]


TRAINING = PolicyTrainingStarted(
    epoch=0, task="digits", seed=0, num_envs=1, num_rounds=1, horizon_epochs=3, num_parameters=9
)


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        ([], ConfigError, "its event log is empty"),
        (in_order(TRAINING), ConfigError, "begins with PolicyTrainingStarted"),
        (in_order(started(), decided(0, "WAIT")), ConfigError, "no finished epoch is on record"),
        (in_order(started(), *EPOCHS), DataError, "no decision is on record"),
        ([*WHOLE[:3], *WHOLE[4:]], DataError, "does not go on after record 2 of attempt 0"),
        ([(0, 1, started()), *WHOLE[2:]], DataError, "does not go on after record -1"),
        ([*WHOLE[:3], (1, 7, started(rewinds_to=4))], DataError, "does not go on after record 2"),
        (in_order(started(), decided(0, "GROW"), *EPOCHS), DataError, "decision GROW at epoch 0: 'GROW'"),
        (
            in_order(started(), decided(0, "CULL", "block1"), *EPOCHS),
            DataError,
            "decision CULL at epoch 0: its curve, tempo_epochs are not on record",
        ),
    ],
)
def test_a_log_that_cannot_be_repeated_is_refused(
    tmp_path: Path, rows: list[tuple[int, int, Event]], kind: type[EsperError], message: str
) -> None:
    with pytest.raises(kind, match=message) as refused:
        read_episode(write_log(tmp_path, rows))
    assert str(tmp_path) in str(refused.value)


def test_a_log_whose_samples_were_dropped_is_refused_and_says_why(tmp_path: Path) -> None:
    events = (started(), decided(0, "WAIT"), EventsDropped(epoch=3, num_dropped=3), END)
    run = write_log(tmp_path, [(0, seq, event) for seq, event in enumerate(events)])
    with pytest.raises(DataError, match=r"3 samples were dropped .*max_events_mb"):
        read_episode(run)


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    file = write_log(tmp_path, WHOLE) / "events-0.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    lines[3] = lines[3][:-9]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"events-0\.jsonl:4: not a line of JSON"):
        read_episode(tmp_path)


def test_a_log_of_several_processes_is_refused(tmp_path: Path) -> None:
    write_log(tmp_path, WHOLE)
    write_log(tmp_path, WHOLE, rank=1)
    with pytest.raises(ConfigError, match="2 processes"):
        read_episode(tmp_path)


def test_a_log_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="holds no events"):
        read_episode(tmp_path)
    (tmp_path / "events-0.jsonl").mkdir()
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        read_episode(tmp_path)


def test_every_field_of_an_action_comes_back() -> None:
    event = DecisionMade(
        epoch=1,
        op="GERMINATE",
        slot="block1",
        blueprint="norm",
        reason="because",
        confidence=0.5,
        blend="valve",
        curve="cosine",
        tempo_epochs=5,
        alpha_target=0.7,
    )
    decision = read_decision(event)
    assert decision.action == Action(
        op=LifecycleOp.GERMINATE,
        slot="block1",
        blueprint="norm",
        blend=BlendForm.VALVE,
        curve=AlphaCurve.COSINE,
        tempo_epochs=5,
        alpha_target=0.7,
    )
    assert (decision.reason, decision.confidence) == ("because", 0.5)


@pytest.mark.parametrize("op", ["WAIT", "ADVANCE", "FOSSILIZE"])
def test_a_decision_of_an_older_file_is_read_where_nothing_that_it_uses_is_lacking(op: str) -> None:
    event = decided(1, op, "block1")
    assert isinstance(event, DecisionMade)
    assert read_decision(event).action == Action(op=LifecycleOp(op), slot="block1")
