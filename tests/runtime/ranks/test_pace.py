from __future__ import annotations

from pathlib import Path

from torch.distributed import HashStore  # type: ignore[attr-defined]

from esper.runtime.ranks import DistributedConfig
from esper.runtime.ranks.notes import RankNotes
from esper.runtime.ranks.pace import RankPace
from esper.runtime.ranks.straggler import Straggler
from runtime.ranks.test_stop_agreement import NUM_STEPS, build_stops

CUT = DistributedConfig(preempt_after_fraction=0.5, preempt_least_fraction=0.5)


def test_a_finished_rollout_cuts_the_others_and_is_never_stopped_any_more(tmp_path: Path) -> None:
    store, phases = HashStore(), list[tuple[str, int]]()
    mine, other = (
        RankPace(
            Straggler(RankNotes(store), CUT, rank=rank, world_size=2),
            build_stops(tmp_path, store, rank, 2),
            num_steps=NUM_STEPS,
            enter=lambda phase, step: phases.append((phase, step)),
        )
        for rank in (0, 1)
    )
    assert not mine.should_cut(NUM_STEPS, 0)
    other.finish(0)
    assert mine.should_cut(NUM_STEPS // 2, 0)
    assert not mine.should_cut(1, 0)
    assert not mine.should_stop(True, 1, 0), "the other rank is done, so this one finishes, too"
    mine.finish(0)
    assert not other.should_stop(False, 1, 1)
    assert phases == [("update", 0)] * 2
