"""The picture is drawn from any history, without touching global state; its colours are distinct."""

from __future__ import annotations

import io
import math
import sys
from dataclasses import replace

import numpy as np
from matplotlib.image import imread

from esper.leyline import Event, RunStarted, SeedStage
from esper.nissa import compute_curves, compute_fates, compute_strips
from esper.nissa.analytics.picture import STAGE_COLOURS, PictureData, _label_places, draw_picture
from nissa.sample_run import EPOCHS, run_events


def data_of(events: list[Event], **settings: object) -> PictureData:
    data = PictureData(
        title="digits, policy heuristic, seed 3",
        curves=compute_curves(events),
        strips=compute_strips(events),
        fates=compute_fates(events),
        num_epochs=EPOCHS,
    )
    return replace(data, **settings)  # type: ignore[arg-type]


def colours_in(png: bytes) -> set[tuple[int, ...]]:
    pixels = (imread(io.BytesIO(png))[::5, ::5, :3] * 255).round().astype(np.uint8)
    return {tuple(int(part) for part in row) for row in np.unique(pixels.reshape(-1, 3), axis=0)}


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def test_every_stage_has_its_own_colour() -> None:
    assert set(STAGE_COLOURS) == {stage.value for stage in SeedStage}
    assert len(set(STAGE_COLOURS.values())) == len(SeedStage)


def test_the_picture_shows_the_stages_that_occurred() -> None:
    shown = colours_in(draw_picture(data_of(list(run_events()), test_metric=0.938)))
    for stage in ("TRAINING", "BLENDING", "PROBATIONARY", "FOSSILIZED", "CULLED", "EMBARGOED"):
        assert rgb(STAGE_COLOURS[stage]) in shown, stage
    assert rgb(STAGE_COLOURS["GERMINATED"]) not in shown  # it lasted no epoch


def test_an_empty_run_still_draws() -> None:
    png = draw_picture(replace(data_of([]), num_epochs=0))
    assert png.startswith(b"\x89PNG")


def test_odd_names_numbers_and_rollbacks_draw_without_a_warning() -> None:
    start, *rest = run_events(train_metric=False)
    assert isinstance(start, RunStarted)
    events: list[Event] = [replace(start, slots=("$\\frac$", "\u4e2d\u6587", "x" * 200)), *rest]
    curves = replace(
        compute_curves(events),
        metric_name="$loss$",
        validation_loss=(math.nan, math.inf, *(10.0 ** -(i % 5) for i in range(EPOCHS - 2))),
    )
    png = draw_picture(
        data_of(events, curves=curves, title="$x", rollback_epochs=(7, 9), test_metric=math.nan)
    )
    assert png.startswith(b"\x89PNG")
    assert draw_picture(data_of(events, curves=curves, test_metric=0.3)).startswith(b"\x89PNG")


def test_labels_stand_in_the_longest_stage_of_each_seed() -> None:
    strips = compute_strips(run_events())
    assert _label_places(strips["block2"]) == [("block2#1", 20, 40)]
    assert _label_places(strips["block1"]) == [("block1#1", 16, 21)]


def test_no_global_plotting_state_is_loaded() -> None:
    was_loaded = "matplotlib.pyplot" in sys.modules  # by something else in this process
    draw_picture(data_of(list(run_events())))
    assert ("matplotlib.pyplot" in sys.modules) == was_loaded
