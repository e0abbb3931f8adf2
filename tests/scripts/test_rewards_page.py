"""The page of rewards equals the terms, and no term is without a test of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

import rewards_page
from esper.simic.rewards.config import REWARD_MODES, RewardConfig
from esper.simic.rewards.modes import build_terms


def test_the_rewards_page_equals_the_terms() -> None:
    page = rewards_page.PAGE.read_text(encoding="utf-8")
    assert page == rewards_page.build_page(), "run `python scripts/rewards_page.py`"


def test_the_page_has_every_term_and_every_mode() -> None:
    page = rewards_page.build_page()
    for name, item in build_terms(RewardConfig(), discount=1.0).items():
        assert f"| `{name}` | {item.term.spec.formula} |" in page
    for mode in REWARD_MODES:
        assert f"\n### {mode}\n" in page
    assert page.isascii()


def test_a_term_without_a_test_of_its_own_is_refused(tmp_path: Path) -> None:
    text = "def test_governor(): ...\ndef test_a34_mine_holds(): ...\n"
    (tmp_path / "test_costs.py").write_text(text, encoding="utf-8")
    found = rewards_page.find_test("mine", tmp_path)
    assert found == "tests/simic/rewards/test_costs.py::test_a34_mine_holds"
    with pytest.raises(LookupError, match="no test of reward term 'governor'"):
        rewards_page.find_test("governor", tmp_path)
    with pytest.raises(LookupError, match="no test of reward term"):
        rewards_page.build_page(tmp_path)
