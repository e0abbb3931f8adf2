"""`esper evaluate`: policies and seeds from the command line, a table with intervals, JSON, refusals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from cli.calling import call
from esper.cli import evaluate
from esper.runtime.evaluation import Comparison, PolicyResult
from esper.runtime.experiment import ExperimentConfig
from esper.simic import EpisodeResult, estimate_paired_interval


def make_episode(seed: int, metric: float, added: int) -> EpisodeResult:
    return EpisodeResult(
        seed=seed,
        test_metric=metric,
        test_loss=0.3,
        validation_metric=metric,
        objective=metric - 0.001,
        host_params=100,
        added_params=added,
        flops_spent=200 + added,
        never_grow_flops=200,
        num_slots=2,
        num_fossils=int(added > 0),
        num_refused=0,
        ops={"WAIT": 40},
    )


def make_result(name: str, seeds: Sequence[int], gain: float, *, is_base: bool) -> PolicyResult:
    interval = None if is_base else estimate_paired_interval([gain] * len(seeds))
    return PolicyResult(
        name=name,
        episodes=tuple(make_episode(seed, 0.9 + gain, 0 if is_base else 100) for seed in seeds),
        test_difference=interval,
        objective_difference=interval,
    )


@dataclass(slots=True)
class FakeComparison:
    """Stands in for `compare_policies` and keeps what it was asked."""

    configs: list[ExperimentConfig] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    seeds: tuple[int, ...] = ()
    is_greedy: bool | None = None

    def __call__(
        self,
        config: ExperimentConfig,
        references: Sequence[str],
        seeds: Sequence[int],
        *,
        is_greedy: bool = True,
        on_episode: Callable[[str, EpisodeResult], None] | None = None,
        on_notice: Callable[[str], None] | None = None,
    ) -> Comparison:
        self.configs.append(config)
        self.references, self.seeds, self.is_greedy = list(references), tuple(seeds), is_greedy
        assert on_episode is not None
        assert on_notice is not None
        on_notice("some setting")
        on_episode(references[0], make_episode(seeds[0], 0.9, 0))
        policies = [
            make_result(name, seeds, 0.02 * place, is_base=place == 0)
            for place, name in enumerate(references)
        ]
        return Comparison(task=config.task.name, seeds=tuple(seeds), policies=tuple(policies))


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch) -> FakeComparison:
    fake = FakeComparison()
    monkeypatch.setattr(evaluate, "compare_policies", fake)
    return fake


def test_the_command_line_becomes_one_comparison_against_never(comparisons: FakeComparison) -> None:
    answer = call(["evaluate", "--policy", "heuristic", "random", "--task", "digits", "--epochs", "12"])
    assert answer.code == 0
    assert comparisons.references == ["never", "heuristic", "random"]
    assert comparisons.seeds == tuple(range(10))
    assert comparisons.is_greedy is False
    assert comparisons.configs[0].host.epochs == 12
    assert "never: host 0 done" in answer.err
    assert "some setting" in answer.err


def test_seeds_base_and_drawing_are_arguments(comparisons: FakeComparison) -> None:
    args = ["--policy", "random", "--against", "random", "--seeds", "20,30-31", "--likeliest"]
    assert call(["evaluate", *args]).code == 0
    assert comparisons.references == ["random"]
    assert comparisons.seeds == (20, 30, 31)
    assert comparisons.is_greedy is True


def test_the_table_shows_intervals_parameters_and_flops(comparisons: FakeComparison) -> None:
    out = call(["evaluate", "--policy", "heuristic", "--episodes", "3"]).out
    assert "digits: 3 hosts, test split" in out
    assert "+0.0200 [+0.0200, +0.0200]" in out
    assert "x2.00" in out
    assert "x1.50" in out


def test_one_host_has_no_interval(comparisons: FakeComparison) -> None:
    assert "+0.0200 (one host)" in call(["evaluate", "--policy", "heuristic", "--episodes", "1"]).out


def test_json_holds_every_episode(comparisons: FakeComparison) -> None:
    plain = json.loads(call(["evaluate", "--policy", "heuristic", "--json"]).out)
    assert plain["base"] == "never"
    assert [len(policy["episodes"]) for policy in plain["policies"]] == [10, 10]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--policy says what to evaluate"),
        (["--policy", "random", "--episodes", "0"], "--episodes 0: must be >= 1"),
        (["--policy", "random", "--episodes", "3", "--seeds", "1"], "give one of the two"),
        (["--policy", "random", "--seeds", "x"], "neither a seed nor LOW-HIGH"),
        (["--policy", "random", "--taks", "digits"], "unknown flag '--taks'"),
    ],
)
def test_what_cannot_be_meant_is_refused(args: list[str], message: str, comparisons: FakeComparison) -> None:
    answer = call(["evaluate", *args])
    assert answer.code == 2
    assert message in answer.err
    assert comparisons.configs == []


def test_help_names_every_kind_of_policy(comparisons: FakeComparison) -> None:
    out = call(["evaluate", "--help"]).out
    for word in ("heuristic", "schedule:FILE", "pretrained", "--seeds"):
        assert word in out


def test_hosts_that_model_language_are_shown_with_their_perplexity(comparisons: FakeComparison) -> None:
    answer = call(["evaluate", "--policy", "heuristic", "--task", "austen", "--episodes", "2"])
    assert comparisons.references == ["never", "heuristic"]
    assert f"never: host 0 done, test perplexity {math.exp(-0.9):.4f}" in answer.err
    assert "test perplexity" in answer.out
    assert f"{math.exp(-0.9):.4f}" in answer.out
    assert "as minus its log" in answer.out
