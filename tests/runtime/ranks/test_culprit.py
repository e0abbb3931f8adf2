from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from esper.runtime.ranks import Pulse, RankFinding, find_culprit
from esper.runtime.ranks.culprit import find_dead
from esper.runtime.ranks.heartbeat import path_of
from esper.runtime.ranks.record_file import write_record

OWN = Pulse(rank=0, session="run/0", counter=41, phase="update", step=7, operation="all_sum")
WAITING = replace(OWN, rank=2)


def publish(folder: Path, pulse: Pulse) -> None:
    write_record(path_of(folder, pulse.rank), asdict(pulse))


def find(folder: Path, *peers: Pulse, moving: tuple[int, ...] = (), own: Pulse = OWN) -> RankFinding:
    """Publish, look, let the beats of some move on, look again."""
    for peer in peers:
        publish(folder, peer)

    def pause() -> None:
        for peer in peers:
            if peer.rank in moving:
                publish(folder, replace(peer, beat=peer.beat + 1))

    return find_culprit(folder, own, world_size=3, pause=pause)


def test_the_lowest_counter_is_to_blame_and_not_a_rank_that_waits(tmp_path: Path) -> None:
    stuck = replace(OWN, rank=1, counter=40, phase="rollout", operation="barrier")
    finding = find(tmp_path, stuck, WAITING, moving=(1, 2))
    assert (finding.rank, finding.phase, finding.step) == (1, "rollout", 7)
    assert finding.describe() == (
        "rank 1 stopped answering in phase rollout of step 7 (its heartbeat goes on: its main thread is "
        "stuck or slow; collectives entered, by rank: 41, 40, 41)"
    )


def test_of_two_that_are_behind_the_lower_counter_is_to_blame(tmp_path: Path) -> None:
    behind = replace(OWN, rank=1, counter=40)
    assert find(tmp_path, behind, replace(WAITING, counter=39), moving=(1, 2)).rank == 2


def test_a_beat_that_stopped_is_to_blame_even_inside_the_collective(tmp_path: Path) -> None:
    finding = find(tmp_path, replace(OWN, rank=1), WAITING, moving=(2,))
    assert finding.rank == 1
    assert "the process is stopped, held in a call, or dead" in finding.describe()


def test_a_dead_rank_outweighs_one_that_is_only_late(tmp_path: Path) -> None:
    late = replace(OWN, rank=1, counter=40, phase="rollout")
    assert find(tmp_path, late, WAITING, moving=(1,)).rank == 2


@pytest.mark.parametrize("text", [None, "{"])
def test_a_rank_without_a_heartbeat_never_started(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        path_of(tmp_path, 1).write_text(text)
    finding = find(tmp_path, WAITING, moving=(2,))
    assert finding.describe().startswith("rank 1 never started (it")
    assert finding.describe().endswith("collectives entered, by rank: 41, -, 41)")


def test_a_file_left_by_an_earlier_attempt_is_no_heartbeat(tmp_path: Path) -> None:
    finding = find(tmp_path, replace(OWN, rank=1, session="run/-1"), WAITING, moving=(1, 2))
    assert finding.describe().startswith("rank 1 never started (its heartbeat is of another attempt;")


def test_a_rank_that_left_is_to_blame_with_its_reason(tmp_path: Path) -> None:
    left = replace(OWN, rank=1, counter=40, state="left", reason="MemoryError")
    finding = find(tmp_path, left, WAITING, moving=(2,))
    assert (finding.rank, finding.reason) == (1, "it left: MemoryError")


def test_a_witness_whose_beat_stopped_is_not_to_blame(tmp_path: Path) -> None:
    stopped = replace(OWN, rank=1)
    witness = replace(WAITING, state="failed", suspect=1)
    assert find(tmp_path, stopped, witness).rank == 1


def test_a_rank_that_comes_too_late_learns_that_it_is_to_blame_itself(tmp_path: Path) -> None:
    witnesses = [replace(OWN, rank=rank, state="failed", suspect=0) for rank in (1, 2)]
    finding = find(tmp_path, *witnesses, own=replace(OWN, phase="rollout"))
    assert (finding.rank, finding.phase) == (0, "rollout")
    assert "the others gave up waiting for it" in finding.describe()


def test_if_all_beat_and_none_is_behind_nobody_is_to_blame(tmp_path: Path) -> None:
    finding = find(tmp_path, replace(OWN, rank=1), WAITING, moving=(1, 2))
    assert finding.rank is None
    assert finding.describe().startswith("a collective failed, and no rank stands out (all beat and none is")


def find_latecomer(folder: Path, now: Pulse, witness: Pulse = WAITING) -> RankFinding:
    """Rank 1 was in its rollout at the first look; `now` is what it says at the second."""
    publish(folder, replace(OWN, rank=1, counter=40, phase="rollout", operation="barrier"))
    publish(folder, witness)

    def pause() -> None:
        publish(folder, replace(now, beat=1))
        publish(folder, replace(witness, beat=1))

    return find_culprit(folder, OWN, world_size=3, pause=pause)


@pytest.mark.parametrize("state", ["running", "failed"])
def test_a_rank_that_comes_while_the_others_look_for_it_is_to_blame(state: str, tmp_path: Path) -> None:
    came = replace(OWN, rank=1, state=state)
    finding = find_latecomer(tmp_path, came)
    assert (finding.rank, finding.phase, finding.step) == (1, "rollout", 7)
    assert finding.describe().endswith(
        "(it came after the others had given up; collectives entered, by rank: 41, 41, 41)"
    )


def test_what_a_witness_saw_outweighs_that_another_came_late(tmp_path: Path) -> None:
    witness = replace(WAITING, state="failed", suspect=2)
    assert find_latecomer(tmp_path, replace(OWN, rank=1), witness).rank == 2


def test_a_rank_that_failed_one_collective_earlier_is_not_late(tmp_path: Path) -> None:
    assert find_latecomer(tmp_path, replace(OWN, rank=1, counter=40, state="failed")).rank is None


def test_different_collectives_are_named_with_their_ranks(tmp_path: Path) -> None:
    finding = find(tmp_path, replace(OWN, rank=1, operation="barrier"), WAITING, moving=(1, 2))
    assert finding.rank is None
    assert "all_sum by [0, 2], barrier by [1]" in finding.describe()


def find_gone(folder: Path, peer: Pulse, *, is_moving: bool) -> RankFinding | None:
    publish(folder, peer)

    def pause() -> None:
        publish(folder, replace(peer, beat=peer.beat + is_moving))

    return find_dead(folder, OWN, world_size=2, pause=pause)


def test_outside_of_collectives_a_slow_rank_is_alive_and_a_silent_one_is_not(tmp_path: Path) -> None:
    slow = replace(OWN, rank=1, counter=3, phase="rollout")
    assert find_gone(tmp_path, slow, is_moving=True) is None
    silent = find_gone(tmp_path, slow, is_moving=False)
    assert silent is not None
    assert silent.rank == 1


def test_a_witness_tells_that_somebody_is_gone(tmp_path: Path) -> None:
    witness = replace(OWN, rank=1, state="failed")
    finding = find_gone(tmp_path, witness, is_moving=True)
    assert finding is not None
    assert finding.rank is None
