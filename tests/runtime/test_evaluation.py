"""Policies compared on the same hosts: pairs, intervals, and what cannot be compared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from esper.leyline import ConfigError
from esper.runtime.evaluation import compare_policies, parse_seeds
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.policies import SCORED_POLICY, SCORES_NOTICE, add_scores
from esper.runtime.presets import digits
from esper.simic import EpisodeResult
from esper.tamiyo import GreedyConfig


def small() -> ExperimentConfig:
    config = digits()
    return replace(
        config,
        task=replace(config.task, num_train_rows=128),
        host=replace(config.host, epochs=8),
    )


def test_differences_are_paired_by_seed_against_the_first_policy() -> None:
    told: list[tuple[str, int]] = []

    def tell(name: str, episode: EpisodeResult) -> None:
        told.append((name, episode.seed))

    comparison = compare_policies(small(), ["never", "heuristic"], (4, 7), on_episode=tell)
    never, grown = comparison.policies
    assert told == [("never", 4), ("never", 7), ("heuristic", 4), ("heuristic", 7)]
    assert never.test_difference is None
    assert never.flops_ratio == pytest.approx(1.0, abs=0.2)
    assert never.size_ratio == 1.0
    pairs = zip(grown.episodes, never.episodes, strict=True)
    differences = [a.test_metric - b.test_metric for a, b in pairs]
    assert grown.test_difference is not None
    assert grown.test_difference.mean == pytest.approx(sum(differences) / 2)
    assert grown.flops_ratio > never.flops_ratio
    plain = comparison.to_json()
    assert plain["base"] == "never"
    assert plain["seeds"] == [4, 7]


def test_a_policy_that_never_grows_has_the_objective_of_its_metric() -> None:
    (never,) = compare_policies(small(), ["never"], (4,)).policies
    episode = never.episodes[0]
    assert episode.added_params == 0
    spent = episode.flops_spent / episode.never_grow_flops - 1.0
    assert episode.objective == pytest.approx(episode.validation_metric - 0.05 * 0.05 * spent)


@pytest.mark.parametrize(
    ("references", "seeds"), [([], (1,)), (["never", "never"], (1,)), (["never"], ()), (["never"], (2, 2))]
)
def test_what_cannot_be_compared_is_refused(references: list[str], seeds: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError):
        compare_policies(small(), references, seeds)


def test_seeds_are_read_from_ranges_each_once() -> None:
    assert parse_seeds("0-2, 7,2") == (0, 1, 2, 7)


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-", "-2", "1.5"])
def test_texts_that_name_no_seed_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="neither a seed nor"):
        parse_seeds(text)


def test_auto_is_compared_under_the_name_of_what_it_stands_for() -> None:
    with pytest.raises(ConfigError, match="policies heuristic, heuristic: need at least one, each once"):
        compare_policies(small(), ["heuristic", "auto"], (1,))


def test_only_the_greedy_policy_pays_for_scores_and_its_hosts_are_the_same() -> None:
    told: list[str] = []
    config = replace(small(), greedy=GreedyConfig(params_price=1e6))  # so dear that it never plants
    comparison = compare_policies(config, ["never", "greedy"], (4,), on_notice=told.append)
    never, greedy = (policy.episodes[0] for policy in comparison.policies)
    assert told == [SCORES_NOTICE]
    assert never.flops_spent == never.never_grow_flops == greedy.never_grow_flops
    assert greedy.flops_spent > never.flops_spent
    assert (greedy.added_params, greedy.test_metric) == (0, never.test_metric)
    assert greedy.objective < never.objective


def test_a_greedy_policy_at_its_defaults_plants_on_hosts_that_nobody_had_scored() -> None:
    config = replace(
        small(), host=replace(small().host, epochs=14)
    )  # long enough to plant at the first scores
    (greedy,) = compare_policies(config, ["greedy"], (4,)).policies
    assert greedy.episodes[0].ops["GERMINATE"] > 0


def test_where_all_hosts_are_scored_already_nothing_is_changed_or_told() -> None:
    told: list[str] = []
    config = add_scores(small(), SCORED_POLICY)
    compare_policies(config, ["greedy"], (4,), on_notice=told.append)
    assert told == []
