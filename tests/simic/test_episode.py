"""An episode's record survives being written as JSON, and a damaged one is refused."""

from __future__ import annotations

import json

import pytest

from esper.leyline import WAIT, Action, ActionResult, ForeignCheckpointError, LifecycleOp
from esper.simic.episode import Episode
from esper.simic.instances import EpisodeStart


def make_episode() -> Episode:
    episode = Episode(number=3, start=EpisodeStart(17, 4))
    cull = Action(op=LifecycleOp.CULL, slot="block1")
    episode.count(ActionResult(requested=cull, effective=cull), 0.25)
    episode.count(ActionResult(requested=cull, effective=WAIT, refusal="too young"), -0.5)
    return episode


def test_counts_add_up_what_was_done_not_what_was_asked() -> None:
    episode = make_episode()
    assert (episode.num_steps, episode.num_refused, episode.total_reward) == (2, 1, -0.25)
    assert episode.ops == {"CULL": 1, "WAIT": 1}


def test_a_record_comes_back_equal_from_json() -> None:
    episode = make_episode()
    assert Episode.from_dict(json.loads(json.dumps(episode.to_dict()))) == episode


@pytest.mark.parametrize("field", list(make_episode().to_dict()))
def test_a_record_without_a_field_is_refused(field: str) -> None:
    record = make_episode().to_dict()
    del record[field]
    with pytest.raises(ForeignCheckpointError, match="missing or malformed"):
        Episode.from_dict(record)
