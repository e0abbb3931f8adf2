"""A grown network in numbers: what a table shows is what the model counts, and a growth is what changed."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from esper.kasmina import MorphogeneticModel, PointWishes, Summary, count_trainable, diff, summarize
from esper.leyline import Estimate, SeedStage
from kasmina.grafting import IMAGES, slotted
from kasmina.growing import grow
from kasmina.strangers import SmallResNet, build


@pytest.fixture
def model() -> MorphogeneticModel:
    return slotted(build(SmallResNet), IMAGES, PointWishes(at=("stages.*", "neck")))


def test_rows_and_totals_are_what_the_model_counts(model: MorphogeneticModel) -> None:
    grow(model, "stages.0", SeedStage.FOSSILIZED)
    grow(model, "neck", SeedStage.BLENDING, blueprint="norm")
    summary = summarize(model)
    assert [row.path for row in summary.rows] == ["stages.0", "stages.1", "neck"]
    first, empty, last = summary.rows
    assert (first.stage, first.blueprint, first.alpha) == ("FOSSILIZED", "conv_light", 1.0)
    assert (first.arrangement, first.shape) == ("nchw", (8, 16, 16))
    assert first.num_params == 10 * 8 * 8 + 2 * 8
    assert (empty.stage, empty.blueprint, empty.num_params, empty.contribution) == ("DORMANT", None, 0, None)
    assert (last.stage, last.alpha) == ("BLENDING", 0.5)
    assert first.contribution is not None
    assert summary.host_params == count_trainable(build(SmallResNet))
    assert summary.num_params == count_trainable(model)
    assert summary.flops_per_item == model.forward_flops


def test_the_table_is_aligned_and_fits_a_terminal(model: MorphogeneticModel) -> None:
    grow(model, "stages.0", SeedStage.FOSSILIZED)
    lines = str(summarize(model)).splitlines()
    assert len(lines) == 8
    assert max(map(len, lines)) <= 100
    head, _, first, second, third, _, params, flops = lines
    place = head.index("stage ")
    assert first[place:].startswith("FOSSILIZED")
    assert second[place:].startswith("DORMANT")
    assert third[place:].startswith("DORMANT")
    assert "+0.0500 +- 0.0010" in first
    host = count_trainable(build(SmallResNet))
    assert params == (
        f"parameters: host {host:,}, added 656, now {host + 656:,}, {(host + 656) / host:.3f} x the host"
    )
    assert flops.startswith("FLOPs/item: host ")


def test_huge_networks_and_long_paths_still_fit(model: MorphogeneticModel) -> None:
    summary = summarize(model)
    row = replace(
        summary.rows[0],
        path="model.decoder.layers.11.self_attention.output_projection",
        shape=(1280, 1024, 1024),
        blueprint="a_blueprint_of_somebody_else",
        stage="PROBATIONARY",
        num_params=7_123_456_789,
        flops_per_item=123_456_789_012_345,
        contribution=Estimate(mean=-12.3456, standard_error=10.1234, num_items=2),
    )
    big = replace(summary, rows=(row,), host_params=70_123_456_789, added_params=7_123_456_789)
    lines = str(big).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[2].startswith("..")
    assert "ojection  nchw 1280x1024x1024  PROBATIONARY  a_bluepr..  " in lines[2]
    assert "7.12G" in lines[2]
    assert "123T" in lines[2]


class _Text(HTMLParser):
    """Collects what a browser would show, and the elements it would make."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_notebooks_table_escapes_names(model: MorphogeneticModel) -> None:
    summary = summarize(model)
    evil = replace(summary.rows[0], path="<script>alert('x')</script>&", blueprint="<b>")
    page = _Text()
    page.feed(replace(summary, rows=(evil,))._repr_html_())
    assert "<script>alert('x')</script>&" in page.text
    assert "<b>" in page.text
    assert page.tags == {"table", "thead", "tbody", "tr", "th", "td", "p"}


def test_plain_data_survives_json(model: MorphogeneticModel) -> None:
    grow(model, "stages.0", SeedStage.FOSSILIZED)
    data = summarize(model).to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    slots = data["slots"]
    assert isinstance(slots, list)
    assert isinstance(slots[0], dict)
    assert slots[0]["contribution"] == 0.05
    assert data["num_params"] == count_trainable(model)


def test_a_diff_says_what_a_growth_changed(model: MorphogeneticModel) -> None:
    before = summarize(model)
    grow(model, "stages.0", SeedStage.BLENDING)
    after = summarize(model)
    change = diff(before, after)
    assert change.added_params == 656
    assert change.added_flops == model.added_flops > 0
    total, slot = str(change).splitlines()
    share = 100 * 656 / before.num_params
    assert total.startswith(f"+656 parameters (+{share:.1f} %), +")
    assert total.endswith(" % FLOPs")
    assert slot == "stages.0: DORMANT > BLENDING, conv_light, alpha 0.00 > 0.50, +656 parameters"
    assert change.to_dict()["changed"] == ["stages.0"]
    assert str(diff(after, after)) == "+0 parameters (+0.0 %), +0.0 % FLOPs"


def test_seeds_that_go_or_are_replaced_are_told() -> None:
    row_model = slotted(build(SmallResNet), IMAGES, PointWishes(at=("neck",)))
    grow(row_model, "neck", SeedStage.FOSSILIZED, blueprint="norm")
    full = summarize(row_model)
    gone = replace(full.rows[0], stage="CULLED", blueprint=None, alpha=0.0, num_params=0, flops_per_item=0)
    other = replace(full.rows[0], blueprint="conv_light", num_params=656)
    kept = replace(full.rows[0], alpha=0.5)

    def change_to(row: object) -> str:
        return str(diff(full, replace(full, rows=(row,)))).splitlines()[1]  # type: ignore[arg-type]

    assert change_to(gone) == "neck: FOSSILIZED > CULLED, norm > None, alpha 1.00 > 0.00, -33 parameters"
    assert change_to(other) == "neck: FOSSILIZED, norm > conv_light, +623 parameters"
    assert change_to(kept) == "neck: FOSSILIZED, norm, alpha 1.00 > 0.50"


def test_summaries_of_two_networks_have_no_diff(model: MorphogeneticModel) -> None:
    other = slotted(build(SmallResNet), IMAGES, PointWishes(at=("neck",)))
    with pytest.raises(ValueError, match=r"two networks: slots \['stages.0', .*\] and \['neck'\]"):
        diff(summarize(model), summarize(other))


def test_a_host_without_parameters_has_no_factor() -> None:
    empty = Summary(rows=(), host_params=0, added_params=0, host_flops=0, added_flops=0)
    assert str(empty).splitlines()[-1] == "FLOPs/item: host 0, added 0, now 0"
    assert str(diff(empty, replace(empty, added_params=1234))) == "+1,234 parameters (+1,234), +0 FLOPs"
