"""python scripts/concept_pictures.py [--check]: the pictures of docs/concepts.md, as SVG files.

What the code knows is taken from it: stages, moves and operations from tables, prices from settings.
The rest, what a gradient reaches and where an event goes, is drawn by hand; the page names the tests.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType

from esper.leyline import OP_STAGES, TRANSITIONS, LifecycleOp, SeedStage
from esper.simic import RewardConfig
from generated import settle
from source_tree import REPO
from svg_canvas import (
    BACKWARD,
    BLUE,
    GREEN,
    GREY,
    KEPT,
    ORANGE,
    RED,
    SOFT,
    WHITE,
    Canvas,
    Point,
)  # fmt: skip

FOLDER = REPO / "docs" / "pictures"
_STAGE_SIZE = (122.0, 46.0)
_STAGE_PLACES: Mapping[SeedStage, Point] = MappingProxyType(
    {
        SeedStage.DORMANT: (20, 60),
        SeedStage.GERMINATED: (172, 60),
        SeedStage.TRAINING: (324, 60),
        SeedStage.BLENDING: (476, 60),
        SeedStage.PROBATIONARY: (628, 60),
        SeedStage.FOSSILIZED: (780, 60),
        SeedStage.CULLED: (476, 220),
        SeedStage.EMBARGOED: (324, 220),
        SeedStage.RESETTING: (172, 220),
    }
)
_GATES: Mapping[SeedStage, str] = MappingProxyType(
    {
        SeedStage.GERMINATED: "G0",
        SeedStage.TRAINING: "G1",
        SeedStage.BLENDING: "G2",
        SeedStage.PROBATIONARY: "G3",
        SeedStage.FOSSILIZED: "G4, G5",
    }
)
"""Stage -> the gates before it."""


def stage_colour(stage: SeedStage) -> str:
    """Return the colour of a stage, by what it means to the code."""
    if stage.is_terminal:
        return GREEN
    if stage.is_cooldown:
        return GREY
    if stage.affects_output:
        return ORANGE
    return BLUE if stage.is_isolated else WHITE


def draw_lifecycle() -> Canvas:
    """Return the stages and every move of the transition table."""
    canvas = Canvas(920, 330, "The stages of a slot and the moves between them")
    w, h = _STAGE_SIZE
    for stage, targets in TRANSITIONS.items():
        for target in sorted(targets, key=lambda item: item.value):
            _draw_move(canvas, stage, target)
    for stage, (x, y) in _STAGE_PLACES.items():
        canvas.box(x, y, w, h, stage.value, fill=stage_colour(stage), size=13)
    canvas.words(
        _STAGE_PLACES[SeedStage.CULLED][0] + w + 14,
        238,
        "cull: by the policy while it is live,",
        anchor="start",
    )
    canvas.words(
        _STAGE_PLACES[SeedStage.CULLED][0] + w + 14, 255, "by the governor, or at the horizon", anchor="start"
    )
    for place, (colour, words) in enumerate(
        (
            (BLUE, "host does not feel it"),
            (ORANGE, "part of the output, on trial"),
            (GREEN, "kept for good"),
            (GREY, "slot blocked"),
        )
    ):
        canvas.bar(30 + 222 * place, 294, 16, 16, fill=colour)
        canvas.words(54 + 222 * place, 307, words, anchor="start", colour=SOFT)
    return canvas


def _draw_move(canvas: Canvas, stage: SeedStage, target: SeedStage) -> None:
    w, h = _STAGE_SIZE
    (x, y), (to_x, to_y) = _STAGE_PLACES[stage], _STAGE_PLACES[target]
    if target is SeedStage.CULLED:
        offset = (SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.PROBATIONARY, SeedStage.GERMINATED).index(
            stage
        )
        end = to_x + (34, 61, 88, 12)[offset]
        canvas.curve((x + w / 2, y + h), (end, to_y - 70), (end, to_y - 2), colour=BACKWARD)
    elif y == to_y:
        right = to_x > x
        canvas.arrow([(x + w if right else x, y + h / 2), (to_x - 2 if right else to_x + w + 2, y + h / 2)])
        if right:
            canvas.words((x + w + to_x) / 2, y - 26, _verb(stage), size=12, colour=SOFT)
            canvas.words((x + w + to_x) / 2, y - 10, _GATES[target], size=12, colour=SOFT)
    else:
        canvas.curve((x, y + h / 2), (to_x + w / 2, y + h / 2), (to_x + w / 2, to_y + h + 2))


def _verb(stage: SeedStage) -> str:
    """Return the operation that moves a stage on along the upper row, in lower case."""
    ops = (LifecycleOp.GERMINATE, LifecycleOp.FOSSILIZE, LifecycleOp.ADVANCE)
    return next(op.value.lower() for op in ops if stage in OP_STAGES[op])


def draw_gradients() -> Canvas:
    """Return what goes forward and what comes back at a slot, in four groups of stages."""
    canvas = Canvas(920, 560, "Forward passes and gradients at a slot, by stage")
    panels = (
        (0, 0, "GERMINATED: there, and not trained", ""),
        (460, 0, "TRAINING: isolated, learns beside the host", "own loss"),
        (0, 270, "BLENDING, PROBATIONARY: alpha from 0 to 1", "alpha"),
        (460, 270, "FOSSILIZED: kept, alpha stays", "alpha"),
    )
    for x, y, name, kind in panels:
        canvas.frame(x + 12, y + 12, 436, 246, name)
        _draw_slot(canvas, x, y, kind)
    canvas.arrow([(250, 545), (290, 545)])
    canvas.words(298, 550, "forward", anchor="start", colour=SOFT)
    canvas.arrow([(420, 545), (460, 545)], colour=BACKWARD, is_dashed=True)
    canvas.words(468, 550, "gradient", anchor="start", colour=SOFT)
    return canvas


def _draw_slot(canvas: Canvas, x: float, y: float, kind: str) -> None:
    """Draw one host around one slot; `kind` says how the seed takes part."""
    row = y + 190
    is_in = kind == "alpha"
    canvas.box(x + 30, row - 22, 92, 44, "host\nblocks before")
    canvas.box(x + 300, row - 22, 86, 44, "host\nblocks after")
    canvas.words(x + 419, row + 5, "loss", is_bold=True)
    if is_in:
        canvas.arrow([(x + 122, row - 6), (x + 225, row - 6)])
        canvas.circle(x + 240, row, "+")
        canvas.arrow([(x + 254, row - 6), (x + 298, row - 6)])
        canvas.arrow([(x + 298, row + 10), (x + 254, row + 10)], colour=BACKWARD, is_dashed=True)
        canvas.arrow([(x + 226, row + 10), (x + 124, row + 10)], colour=BACKWARD, is_dashed=True)
        canvas.arrow([(x + 150, row - 6), (x + 150, y + 118)])
        canvas.arrow([(x + 240, y + 118), (x + 240, row - 15)])
        canvas.arrow(
            [(x + 254, row - 12), (x + 270, row - 34), (x + 270, y + 100), (x + 252, y + 100)],
            colour=BACKWARD,
            is_dashed=True,
        )
        canvas.words(x + 234, row - 34, "alpha r", anchor="end", size=12)
        canvas.words(x + 276, y + 140, "alpha g", anchor="start", size=12, colour=BACKWARD)
    else:
        canvas.arrow([(x + 122, row - 6), (x + 298, row - 6)])
        canvas.words(x + 225, row - 14, "h, bit for bit", size=12)
        canvas.arrow([(x + 298, row + 10), (x + 124, row + 10)], colour=BACKWARD, is_dashed=True)
    canvas.words(x + 212, row + 30, "g + alpha J'g" if is_in else "g, bit for bit", size=12, colour=BACKWARD)
    canvas.arrow([(x + 386, row), (x + 400, row)])
    canvas.box(x + 130, y + 74, 120, 44, "seed\nr(h)", fill=ORANGE if is_in else BLUE)
    if kind == "own loss":
        canvas.arrow([(x + 150, row - 6), (x + 150, y + 119)])
        canvas.bar(x + 139, y + 146, 22, 5, fill=BACKWARD)
        canvas.words(x + 132, y + 153, "detached", anchor="end", size=12)
        canvas.arrow([(x + 250, y + 88), (x + 300, y + 88)])
        canvas.arrow([(x + 300, y + 106), (x + 253, y + 106)], colour=BACKWARD, is_dashed=True)
        canvas.box(x + 302, y + 74, 110, 44, "own loss\nshadow, residual")
    words = {
        "": "no forward pass goes through it; no gradient",
        "own loss": "nothing of it reaches the host's output or gradient",
        "alpha": "a branch that adds; it learns with the host",
    }[kind]
    canvas.words(x + 230, y + 54, words, size=12, colour=SOFT)


def draw_contribution() -> Canvas:
    """Return how a contribution is measured and judged."""
    canvas = Canvas(920, 320, "A contribution is a paired difference on the same items")
    canvas.box(12, 120, 138, 60, "validation items\nthe same, in order")
    for y, name, fill in ((50, "network, seed on", ORANGE), (190, "same network, seed off", WHITE)):
        canvas.arrow([(150, 150), (194, y + 35)])
        canvas.box(196, y, 200, 70, f"{name}\nalpha {'as it is' if fill == ORANGE else '= 0'}", fill=fill)
        canvas.arrow([(396, y + 35), (438, y + 35)])
        canvas.box(440, y + 12, 120, 46, "metric\nof each item")
        canvas.arrow([(560, y + 35), (600, 144 if y < 100 else 156)])
    canvas.box(602, 118, 120, 64, "difference\nmean +- s.e.")
    canvas.words(820, 44, "verdict", is_bold=True)
    for y, half, mean, words, colour in (
        (84, 26, 62, "keep: lower bound above", KEPT),
        (164, 46, 18, "wait: measure again", SOFT),
        (244, 22, -34, "cull: upper bound below", BACKWARD),
    ):
        canvas.arrow([(806, y - 22), (806, y + 14)], colour=SOFT, has_head=False)
        canvas.arrow([(806 + mean - half, y), (806 + mean + half, y)], colour=colour, has_head=False)
        canvas.bar(806 + mean - 3, y - 4, 6, 8, fill=colour)
        canvas.words(820, y + 32, words, size=12, colour=colour)
    canvas.arrow([(722, 150), (752, 150)])
    canvas.words(806, 302, "smallest contribution worth keeping", size=11, colour=SOFT)
    canvas.words(297, 302, "normalisation statistics are re-estimated for each setting", size=12, colour=SOFT)
    return canvas


def compute_bill(
    config: RewardConfig, *, host: int, added: int, flops: float, never_flops: float
) -> tuple[float, float]:
    """Return the rents of parameters and of FLOPs, in metric scales, as the objective J counts them."""
    return (
        min(config.rent_bound, config.lambda_p * math.log1p(added / host)),
        min(config.rent_bound, config.lambda_f * (flops / never_flops - 1)),
    )


def draw_objective() -> Canvas:
    """Return the objective J of the run that the README shows, with the default prices."""
    canvas = Canvas(920, 330, "What J is made of")
    scale, never, grown = 0.05, 0.853, 0.936
    parameters, flops = compute_bill(RewardConfig(), host=277, added=555, flops=2.41e9, never_flops=1.13e9)
    lead = (grown - never) / scale
    unit, zero = 400.0, 60.0
    rows = (
        ("lead", f"({grown:.1%} - {never:.1%}) / {scale:g}", 0.0, lead, ORANGE),
        ("rent of parameters", "lambda_p log(1 + 555 / 277)", lead, -parameters, RED),
        ("rent of FLOPs", "lambda_f (2.41 / 1.13 - 1)", lead - parameters, -flops, RED),
        (
            "J less that of never growing",
            "what a policy is paid, times reward.scale",
            0.0,
            lead - parameters - flops,
            GREEN,
        ),
    )
    for place, (name, formula, start, length, fill) in enumerate(rows):
        y = 40 + 66 * place
        left = zero + unit * min(start, start + length)
        canvas.words(zero + 8, y - 8, name, anchor="start", is_bold=True)
        canvas.words(zero + 250, y - 8, formula, anchor="start", size=12, colour=SOFT)
        canvas.bar(left, y, max(1.0, unit * abs(length)), 26, fill=fill)
        canvas.words(zero + unit * lead + 20, y + 18, f"{length:+.3f}", anchor="start", is_bold=True)
    canvas.arrow([(zero, 20), (zero, 290)], colour=SOFT, has_head=False)
    canvas.words(
        zero,
        314,
        "in metric scales; one scale is a difference that is large for the task, here 5 points",
        anchor="start",
        size=12,
        colour=SOFT,
    )
    return canvas


def draw_fleets() -> Canvas:
    """Return how the hosts of one process run side by side."""
    canvas = Canvas(920, 330, "Four hosts in a serial, a process and a fused fleet")
    colours = (BLUE, ORANGE, GREEN, RED)
    canvas.words(
        140, 34, "one interval of four hosts, time to the right", size=13, colour=SOFT, anchor="start"
    )
    canvas.words(120, 76, "serial", anchor="end", is_bold=True)
    for place, fill in enumerate(colours):
        canvas.bar(140 + 130 * place, 58, 126, 28, fill=fill)
    canvas.words(676, 77, "one after another", anchor="start", size=12, colour=SOFT)
    canvas.words(120, 150, "process", anchor="end", is_bold=True)
    for place, fill in enumerate(colours):
        canvas.bar(140 + 130 * (place % 2), 116 + 34 * (place // 2), 126, 28, fill=fill)
    canvas.words(676, 143, "workers of one thread each;", anchor="start", size=12, colour=SOFT)
    canvas.words(676, 160, "the bits of serial", anchor="start", size=12, colour=SOFT)
    canvas.words(120, 244, "fused", anchor="end", is_bold=True)
    for place, fill in enumerate(colours):
        canvas.bar(140, 208 + 14 * place, 170, 14, fill=fill)
    canvas.words(676, 227, "weights stacked, one program;", anchor="start", size=12, colour=SOFT)
    canvas.words(676, 244, "serial but for rounding", anchor="start", size=12, colour=SOFT)
    canvas.arrow([(140, 290), (660, 290)], colour=SOFT)
    canvas.words(
        140,
        312,
        "auto measures these on the task's own hosts and takes the fastest; lengths are no measurements",
        size=12,
        colour=SOFT,
        anchor="start",
    )
    return canvas


def draw_telemetry() -> Canvas:
    """Return the way of an event from the core to whoever looks."""
    canvas = Canvas(920, 360, "From the core to whoever looks")
    canvas.frame(14, 40, 160, 280, "the core")
    for place, name in enumerate(
        (
            "kasmina\nstages, gates",
            "tolaria\nepochs, measuring",
            "simic\nrounds, rewards",
            "runtime\nstart, end, saves",
        )
    ):
        canvas.box(28, 68 + 62 * place, 132, 48, name)
        canvas.arrow([(160, 92 + 62 * place), (216, 184)], colour=SOFT)
    canvas.box(218, 154, 128, 60, "EventHub\nnumbers, hands on", fill=ORANGE)
    canvas.words(282, 236, "emit never raises", size=12, colour=SOFT)
    canvas.words(282, 252, "and never waits long", size=12, colour=SOFT)
    for place, name in enumerate(
        (
            "console\nbehind a queue",
            "run directory\nevents-0.jsonl",
            "alert command\nwhat needs a person",
            "your backend\nwrite, flush, close",
        )
    ):
        y = 46 + 72 * place
        canvas.arrow([(346, 184), (404, y + 26)])
        canvas.box(406, y, 150, 52, name, fill=BLUE if place < 3 else GREEN)
    canvas.frame(620, 40, 284, 280, "readers: of files alone, at any time")
    names = (
        "runs show, runs compare",
        "watch: a terminal",
        "dash: a page",
        "report: for people",
        "replay: the same again",
    )
    for place, name in enumerate(names):
        y = 72 + 48 * place
        canvas.arrow([(556, 144), (652, y + 18)], colour=SOFT)
        canvas.box(654, y, 232, 36, name)
    canvas.words(
        460,
        336,
        "a backend that fails is switched off, counted and named; training goes on",
        size=12,
        colour=SOFT,
    )
    canvas.words(
        460, 352, "under pressure samples are dropped, decisions and stages never", size=12, colour=SOFT
    )
    return canvas


PICTURES: Mapping[str, Callable[[], Canvas]] = MappingProxyType(
    {
        "lifecycle": draw_lifecycle,
        "gradients": draw_gradients,
        "contribution": draw_contribution,
        "objective": draw_objective,
        "fleets": draw_fleets,
        "telemetry": draw_telemetry,
    }
)
"""File name without suffix -> what draws it."""


def main(*, is_check: bool) -> int:
    """Write every picture, or return 1 if one differs from what would be written."""
    FOLDER.mkdir(exist_ok=True)
    codes = [
        settle(FOLDER / f"{name}.svg", draw().render(), is_check=is_check) for name, draw in PICTURES.items()
    ]
    return max(codes)


if __name__ == "__main__":
    raise SystemExit(main(is_check="--check" in sys.argv[1:]))
