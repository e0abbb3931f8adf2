"""Records as JSON: every field by its name, numbers that are not finite as text, long ones cut in lists."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cli.dashboard.sample_runs import decided_and_paid
from esper.cli.dashboard.plain import MAX_LISTED_CHARS, dump, event_fields, finite, list_row, to_plain
from esper.leyline import Notice
from nissa.sample_run import finished_epoch, numbered, run_events


def test_every_field_of_every_event_is_there() -> None:
    for event in [*run_events(), *decided_and_paid()]:
        fields = event_fields(event)
        assert set(fields) == set(event.__dataclass_fields__)
        json.loads(dump(fields))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_any_plain_data_is_json_without_nan(value: object) -> None:
    text = dump(to_plain(value))
    assert text.isascii()
    assert json.loads(text) == json.loads(json.dumps(to_plain(value)))


def test_numbers_that_are_not_finite_are_told_as_text_and_not_drawn() -> None:
    event = replace(finished_epoch(1), validation_loss=math.nan, train_loss=-math.inf)
    fields = event_fields(event)
    assert (fields["validation_loss"], fields["train_loss"]) == ("nan", "-inf")
    assert [finite(math.nan), finite(math.inf), finite(None), finite(True), finite(2)] == [
        None,
        None,
        None,
        None,
        2.0,
    ]


def test_long_texts_and_large_tables_are_cut_in_a_list() -> None:
    (record,) = numbered([Notice(epoch=1, text="x" * 5_000)])
    fields = list_row(0, record)["fields"]
    assert isinstance(fields, dict)
    assert len(str(fields["text"])) == MAX_LISTED_CHARS + 3
    decision = decided_and_paid()[0]
    (record,) = numbered([replace(decision, observation={str(index): 0.0 for index in range(50)})])  # type: ignore[call-arg]
    fields = list_row(0, record)["fields"]
    assert isinstance(fields, dict)
    assert fields["observation"] == "50 values"
