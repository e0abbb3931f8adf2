"""The report's tables tell the run, and foreign names are inert in them."""

from __future__ import annotations

from esper.leyline import DecisionMade, RolledBack
from esper.nissa import RunSummary, compute_fates, compute_scoreboard, compute_strips, compute_summary
from esper.nissa.analytics.document import Document, render_markdown, render_section
from esper.nissa.analytics.history import SeedFate
from esper.nissa.analytics.tables import (
    MAX_DECISION_ROWS,
    build_decisions,
    build_flops,
    build_head,
    build_lifecycle,
    build_rollbacks,
    build_scoreboard,
    build_seeds,
    build_slots,
    name_run,
)
from nissa.sample_run import decided, numbered, run_events

EVENTS = tuple(run_events())
FATES, STRIPS = compute_fates(EVENTS), compute_strips(EVENTS)
SUMMARY = compute_summary(numbered(EVENTS))


def _head(summary: RunSummary) -> str:
    return render_markdown(Document(title=name_run(summary), head=build_head(summary), sections=()), {})


def test_the_head_holds_metrics_and_costs() -> None:
    text = _head(SUMMARY)
    assert "# Growth run: digits" in text
    assert "| test accuracy | 93.8 % |" in text
    assert "| parameters | 7,622 (host 6,418) |" in text
    assert "| compute | 5.16 GFLOPs |" in text
    assert "40 of 40 epochs in 1 min 00 s" in text


def test_an_unfinished_run_says_that_the_test_split_was_not_read() -> None:
    text = _head(RunSummary())
    assert "unnamed task" in text
    assert "not read: the run has not reached its end" in text


def test_slots_show_who_lives_there_at_the_end() -> None:
    text = render_section(build_slots(FATES, STRIPS))
    assert "| block2 | conv_light | FOSSILIZED | +0.0213 \u00b1 0.0041 | 1,204 | 77 kFLOPs | 1 |" in text
    assert "| block1 | - | DORMANT | - | - | - | 1 |" in text


def test_flops_add_up_to_the_whole() -> None:
    text = render_section(build_flops(SUMMARY))
    assert "| train | 4.8 GFLOPs | 93.0 % |" in text
    assert "| all | 5.16 GFLOPs | 100.0 % |" in text
    assert text.endswith("| validation (not counted) | 560 MFLOPs | - |\n")
    assert "| all | 0 FLOPs | - |" in render_section(build_flops(RunSummary()))


def test_decisions_are_counted_and_listed() -> None:
    text = render_section(build_decisions(EVENTS))
    assert "| FOSSILIZE | 2 | 1 |" in text
    assert (
        "| 13 | FOSSILIZE | block2 | - | plateau of 3 epochs | refused: gate G4: 0 of 2 measurements |"
        in text
    )
    assert "| WAIT | 40 | 0 |" in text
    assert " | WAIT | - " not in text


def test_a_long_list_of_decisions_is_cut_and_says_so() -> None:
    text = render_section(build_decisions([decided(i, "CULL", "a") for i in range(MAX_DECISION_ROWS + 5)]))
    assert "5 more decisions are in the event file." in text


def test_no_decision_is_told_as_none() -> None:
    assert render_section(build_decisions([])).count("None.") == 2


def test_lifecycle_and_seeds_hold_every_stage() -> None:
    assert "| block2 | block2#1 | conv_light | PROBATIONARY | 13 | 20 |" in render_section(
        build_lifecycle(FATES, STRIPS)
    )
    assert "| block1#1 | norm | 13 | 21 | culled: policy | -0.0112 \u00b1 0.0041 | 640 |" in render_section(
        build_seeds(FATES)
    )


def test_scoreboard_shows_rates() -> None:
    text = render_section(build_scoreboard(compute_scoreboard(FATES)))
    row = next(line for line in text.splitlines() if line.startswith("| conv_light"))
    cells = row.strip("| ").split(" | ")
    assert cells[:6] == ["conv_light", "1", "1", "0", "100.0 %", "+0.0213"]
    assert cells[8:] == ["1,204", "0.0 %", "12.0", "-"]


def test_an_undecided_blueprint_has_no_rate() -> None:
    live = SeedFate(seed_id="a#1", slot="a", blueprint="b", num_params=1, flops_per_item=1, start_epoch=0)
    assert "| b | 1 | 0 | 0 | - | not measured | - | - | 0 | 0.0 % | - | - |" in render_section(
        build_scoreboard(compute_scoreboard([live]))
    )
    assert "| a#1 | b | 0 | - | live | not measured | 1 |" in render_section(build_seeds([live]))


def test_rollbacks_are_listed_where_there_were_any() -> None:
    assert build_rollbacks(EVENTS) is None
    back = RolledBack(
        epoch=3, verdict="diverged", reason="loss 9", restored_epoch=3, blamed_slot=None, rollback_count=1
    )
    section = build_rollbacks([back])
    assert section is not None
    assert "| 3 | diverged | loss 9 | - |" in render_section(section)


def test_foreign_text_is_inert() -> None:
    evil = DecisionMade(
        epoch=1,
        op="CULL",
        slot="a|b<script>",
        blueprint="_x_ snake_case",
        reason="[click](javascript:x) ![i](http://evil) `code`\n# title \x1b[31m",
        confidence=1.0,
    )
    text = render_section(build_decisions([evil]))
    assert "a\\|b&lt;script&gt;" in text
    assert "\\_x\\_ snake_case" in text
    assert "\\[click\\](javascript:x) !\\[i\\](http&#58;//evil) \\`code\\` # title" in text
    assert "\x1b" not in text
