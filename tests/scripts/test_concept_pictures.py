"""The pictures of the concepts are drawn from the code: every stage and move is there, prices are the code's.

Shows `scripts/concept_pictures.py` and `scripts/svg_canvas.py`.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import concept_pictures
from concept_pictures import FOLDER, PICTURES, compute_bill, draw_lifecycle, stage_colour
from esper.leyline import TRANSITIONS, SeedStage
from esper.simic import RewardConfig
from source_tree import REPO
from svg_canvas import Canvas

SVG = "{http://www.w3.org/2000/svg}"
_FONT_WIDTH = 0.56
"""Width of a letter over its size, on average, in the fonts that the pictures name."""


def words(text: str) -> list[str]:
    """Every line of text in a picture."""
    return [item.text or "" for item in ET.fromstring(text).iter(f"{SVG}text")]


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_as_the_code_draws_it(name: str) -> None:
    file = FOLDER / f"{name}.svg"
    assert file.read_text(encoding="utf-8") == PICTURES[name]().render(), "run `make generate`"


def test_no_picture_is_left_over_and_each_is_shown() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.svg")) == sorted(PICTURES)
    page = (REPO / "docs" / "concepts.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"!\[[^\]]{40,}\]\(pictures/(\w+)\.svg\)", page)) == sorted(PICTURES)


def test_the_life_of_a_seed_names_every_stage_and_draws_every_move() -> None:
    text = draw_lifecycle().render()
    assert {stage.value for stage in SeedStage} <= set(words(text))
    moves = sum(len(targets) for targets in TRANSITIONS.values())
    assert text.count("marker-end") == moves


def test_stages_that_mean_the_same_have_the_same_colour() -> None:
    assert stage_colour(SeedStage.BLENDING) == stage_colour(SeedStage.PROBATIONARY)
    assert stage_colour(SeedStage.TRAINING) != stage_colour(SeedStage.BLENDING)
    assert len({stage_colour(stage) for stage in SeedStage}) == 5


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_stands_on_a_ground_of_its_own_and_loads_nothing(name: str) -> None:
    text = PICTURES[name]().render()
    root = ET.fromstring(text)
    ground = root.find(f"{SVG}rect")
    assert ground is not None
    assert (ground.get("width"), ground.get("height")) == (root.get("width"), root.get("height"))
    assert "href" not in text
    assert root.find(f"{SVG}title") is not None


@pytest.mark.parametrize("name", PICTURES)
def test_no_word_leaves_the_picture(name: str) -> None:
    canvas = PICTURES[name]()
    for item in ET.fromstring(canvas.render()).iter(f"{SVG}text"):
        length = _FONT_WIDTH * float(item.get("font-size", "0")) * len(item.text or "")
        x = float(item.get("x", "0"))
        left = x - {"start": 0.0, "middle": length / 2, "end": length}[item.get("text-anchor", "start")]
        assert left >= 0, item.text
        assert left + length <= canvas.width, item.text
        assert 0 < float(item.get("y", "0")) < canvas.height, item.text


def test_the_bill_is_that_of_the_objective() -> None:
    config = RewardConfig(lambda_p=1.0, lambda_f=0.1, rent_bound=0.6)
    parameters, flops = compute_bill(config, host=100, added=100, flops=3.0, never_flops=1.0)
    assert parameters == pytest.approx(0.6)  # log 2 = 0.69 is more than the bound
    assert flops == pytest.approx(0.2)


def test_a_stale_picture_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concept_pictures, "FOLDER", tmp_path)
    assert concept_pictures.main(is_check=True) == 1
    assert concept_pictures.main(is_check=False) == 0
    assert concept_pictures.main(is_check=True) == 0


def test_words_are_escaped() -> None:
    canvas = Canvas(10, 10, "a < b")
    canvas.words(1, 5, "x & y")
    assert words(canvas.render()) == ["x & y"]
