"""The policy that ships: small, with a card that says what it is, and it leaves wide hosts alone."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from esper.leyline import ConfigError
from esper.runtime import policies
from esper.runtime.config_file import load_config
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.families import HostFactory
from esper.runtime.policies import PRETRAINED, PRETRAINED_FOLDER, find_policy
from esper.runtime.presets import build_preset
from esper.simic import run_episode
from esper.tamiyo import check_policy

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(str(resources.files("esper.runtime"))) / PRETRAINED_FOLDER
MAX_BYTES = 5_000_000


def test_the_shipped_policy_is_small_and_whole() -> None:
    files = sorted(path for path in FOLDER.iterdir() if path.is_file())
    assert sum(path.stat().st_size for path in files) < MAX_BYTES
    assert [path.suffix for path in files] == [".md", ".safetensors", ".json"]
    assert find_policy(PRETRAINED, build_preset("digits"), seed=0, is_greedy=False).fingerprint is not None


def test_its_card_names_task_seed_rounds_and_size_as_the_file_has_them() -> None:
    card = " ".join((FOLDER / "README.md").read_text(encoding="utf-8").split())
    training = json.loads((FOLDER / "policy.json").read_text(encoding="utf-8"))["metadata"]["training"]
    assert f"training seed {training['seed']}," in card
    assert f"{training['num_rounds']} rounds" in card
    assert f"{training['num_parameters']:,} parameters" in card
    for part in ("## Data", "## Result", "## Limits"):
        assert part in card


def test_it_keeps_the_contract_of_policies() -> None:
    """Small hosts, large ones, hosts without room, hosts about to end: legal actions everywhere."""
    config = build_preset("digits")
    findings = check_policy(find_policy(PRETRAINED, config, seed=0, is_greedy=False).policy)
    assert findings == ()


def grow(config: ExperimentConfig, base_channels: int) -> int:
    """Return the seeds that it keeps on one host."""
    wide = replace(config, model=replace(config.model, base_channels=base_channels))
    fixed = replace(wide, family=replace(wide.family, base_channels=()))
    policy = find_policy(PRETRAINED, fixed, seed=0, is_greedy=False).policy
    return run_episode(HostFactory(fixed).build(1000), policy, 1000, prices=fixed.reward).num_fossils


@pytest.mark.slow
def test_it_grows_a_host_that_is_far_too_narrow_and_leaves_a_wide_one_alone() -> None:
    path = ROOT / "benchmarks" / "policies" / "digits_width_best.toml"
    config = load_config(path, build_preset("digits")).config
    assert grow(config, 2) >= 1
    assert grow(config, 12) == 0


def test_a_build_without_one_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "PRETRAINED_FOLDER", "no_such_folder")
    with pytest.raises(ConfigError, match="this build ships no pretrained policy; give the folder"):
        find_policy(PRETRAINED, build_preset("digits"), seed=0, is_greedy=False)
