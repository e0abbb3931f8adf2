"""What a run came to, as aligned tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cli.results import make_result
from esper.cli.output import render_plain
from esper.cli.result_view import render_networks, render_numbers, render_slots


def test_slots_show_blueprint_stage_contribution_with_its_error_and_costs() -> None:
    assert render_plain(render_slots(make_result())) == (
        "Slots (contribution: validation loss without the seed minus with it, +- standard error)\n"
        "slot    blueprint  stage            contribution  parameters  FLOPs per item\n"
        "block1  conv       FOSSILIZED  +0.0134 +- 0.0049       1,183     5.47 kFLOPs\n"
        "block2  -          CULLED                      -           -               -\n"
        "block3  norm       FOSSILIZED       not measured       1,183     5.47 kFLOPs\n"
    )


@pytest.mark.parametrize(
    ("metric", "what"),
    [
        ("loss", "validation loss without the seed minus with it"),
        ("accuracy", "validation accuracy with the seed minus without it"),
    ],
)
def test_the_title_says_what_a_contribution_is_measured_in(metric: str, what: str) -> None:
    assert what in render_slots(replace(make_result(), contribution_metric=metric)).title


def test_networks_stand_side_by_side() -> None:
    never = replace(make_result("never"), test_metric=1.0, total_params=1009, total_flops=10**9)
    assert render_plain(render_networks({"grown": make_result(), "never grew": never})) == (
        "Networks\n"
        "network     test accuracy  parameters  training FLOPs\n"
        "grown              93.1 %       2,192      1.5 GFLOPs\n"
        "never grew        100.0 %       1,009        1 GFLOPs\n"
    )


def test_numbers_are_for_a_reader() -> None:
    text = render_plain(render_numbers(make_result()))
    assert text.startswith("Run: digits, heuristic, seed 3\n")
    assert "test accuracy        93.1 %\n" in text
    assert "parameters           2,192 (host 1,009)\n" in text
    assert "training compute     1.5 GFLOPs, measuring included\n" in text
    assert "run directory        runs/x\n" in text
    assert "run directory        -\n" in render_plain(render_numbers(make_result(run_dir=None)))
