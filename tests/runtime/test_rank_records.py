"""What ranks tell rank 0 arrives as it was, and in the order in which one process would have told it."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import JsonValue
from esper.runtime.rank_records import join_reports, pack_record, pack_report, unpack_record
from esper.simic import FinishedEpisode, QuarantinedRow, RoundReport
from esper.tolaria import StateRecord

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def report(*env_ids: int, quarantined: tuple[QuarantinedRow, ...] = ()) -> RoundReport:
    return RoundReport(
        round=1,
        num_env_steps=8,
        metrics={},
        episodes=tuple(
            FinishedEpisode(f"environment {env}", 0.1 * env, 4, {"env_id": env}) for env in env_ids
        ),
        quarantined=quarantined,
        findings=(),
    )


@given(state=st.dictionaries(st.text(), PLAIN))
def test_a_record_arrives_bit_for_bit(state: dict[str, JsonValue]) -> None:
    tensors = {
        "a.b": torch.tensor([1.5, float("nan")]),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(7),
        "strided": torch.arange(6.0).reshape(2, 3).T,
        "flags": torch.tensor([True, False]),
    }
    back = unpack_record(pack_record(StateRecord(tensors=tensors, state=state)))
    assert back.state == state
    assert set(back.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert back.tensors[name].dtype is tensor.dtype
        torch.testing.assert_close(back.tensors[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_reports_of_ranks_join_by_environment_and_rows_are_counted_over_all() -> None:
    mine = report(1, 0, quarantined=(QuarantinedRow("environment 1", 1, 3, "nan"),))
    other = report(3, 2, quarantined=(QuarantinedRow("environment 2", 0, 5, "inf"),))
    joined = join_reports(mine, [pack_report(mine, 0), pack_report(other, 2)])
    assert [episode.facts["env_id"] for episode in joined.episodes] == [0, 1, 2, 3]
    assert joined.episodes[3] == other.episodes[0]
    assert [(row.name, row.row) for row in joined.quarantined] == [("environment 1", 1), ("environment 2", 2)]
    assert (joined.round, joined.num_env_steps) == (1, 8)


def test_what_was_told_of_steps_follows_the_order_of_the_ranks() -> None:
    mine, other = (replace(report(env), told=({"decision": {"env_id": env}},)) for env in (0, 1))
    joined = join_reports(mine, [pack_report(mine, 0), pack_report(other, 1)])
    assert joined.told == (*mine.told, *other.told)
