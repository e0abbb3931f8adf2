"""Policies compared on the same fresh hosts: paired seeds, the test split, intervals, FLOPs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from esper.leyline import ConfigError, JsonValue, Observation, derive_seed
from esper.runtime.devices import set_threads
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.families import HostFactory
from esper.runtime.policies import (
    SCORED_POLICY,
    SCORES_NOTICE,
    PolicyChoice,
    add_scores,
    find_policy,
    lacks_scores,
    resolve_auto,
)
from esper.simic import EpisodeResult, PairedInterval, estimate_paired_interval, evaluate_policy

_SEEDS = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?", re.ASCII)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyResult:
    """One policy on every seed."""

    name: str
    episodes: tuple[EpisodeResult, ...]
    test_difference: PairedInterval | None
    """Test metric less that of the base policy on the same seed; None for the base itself."""
    objective_difference: PairedInterval | None
    """The same for the objective J on validation."""

    def mean(self, field: str) -> float:
        """Return the mean of a numeric field of its episodes."""
        return sum(float(getattr(episode, field)) for episode in self.episodes) / len(self.episodes)

    @property
    def flops_ratio(self) -> float:
        """FLOPs spent over those of never growing, mean over the hosts."""
        return sum(e.flops_spent / e.never_grow_flops for e in self.episodes) / len(self.episodes)

    @property
    def size_ratio(self) -> float:
        """Parameters at the end over the host's, mean over the hosts."""
        return sum(1.0 + e.added_params / e.host_params for e in self.episodes) / len(self.episodes)

    def to_json(self) -> dict[str, JsonValue]:
        """Return plain data with stable keys."""
        test, objective = self.test_difference, self.objective_difference
        return {
            "policy": self.name,
            "test_metric": self.mean("test_metric"),
            "objective": self.mean("objective"),
            "flops_ratio": self.flops_ratio,
            "size_ratio": self.size_ratio,
            "test_difference": None if test is None else test.to_json(),
            "objective_difference": None if objective is None else objective.to_json(),
            "episodes": [episode.to_json() for episode in self.episodes],
        }


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Several policies on the same hosts; the first is the base of all differences."""

    task: str
    seeds: tuple[int, ...]
    policies: tuple[PolicyResult, ...]

    def to_json(self) -> dict[str, JsonValue]:
        """Return plain data with stable keys."""
        return {
            "task": self.task,
            "seeds": list(self.seeds),
            "base": self.policies[0].name,
            "policies": [policy.to_json() for policy in self.policies],
        }


def compare_policies(
    config: ExperimentConfig,
    references: Sequence[str],
    seeds: Sequence[int],
    *,
    is_greedy: bool = False,
    on_episode: Callable[[str, EpisodeResult], None] | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> Comparison:
    """Let every policy grow one host per seed.

    A policy that needs scores gets hosts that are scored, and pays for them; those of the others are not.

    Args:
        config: The hosts (with their family) and the prices of the objective.
        references: Policies as `runtime.policies` lists them; the first is the base.
        seeds: Of the hosts; results are paired by them.
        is_greedy: Whether trained policies take their likeliest choices instead of drawing.
        on_episode: Called with the policy's name after each host.
        on_notice: Called before the first host with what a person should be told about the settings.

    Raises:
        ConfigError: If there is no policy or no seed, or one is given twice.
        EsperError: If a policy or the data cannot be loaded.
    """
    references = [resolve_auto(reference) for reference in references]
    if not references or len(set(references)) != len(references):
        raise ConfigError(f"policies {', '.join(references) or 'none'}: need at least one, each once")
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ConfigError("seeds: need at least one, each once and >= 0")
    set_threads(config.num_threads)
    choices = [
        find_policy(
            reference, config, seed=derive_seed(config.seed, "evaluation", reference), is_greedy=is_greedy
        )
        for reference in references
    ]
    if on_notice is not None and any(lacks_scores(reference, config) for reference in references):
        on_notice(SCORES_NOTICE)
    plain, scored = HostFactory(config), HostFactory(add_scores(config, SCORED_POLICY))
    _ask_once(choices, plain.build(seeds[0]).observe())
    results: list[PolicyResult] = []
    for choice, reference in zip(choices, references, strict=True):
        factory = scored if lacks_scores(reference, config) else plain

        def tell(episode: EpisodeResult, name: str = choice.name) -> None:
            if on_episode is not None:
                on_episode(name, episode)

        episodes = evaluate_policy(factory.build, choice.policy, seeds, prices=config.reward, on_episode=tell)
        base = results[0].episodes if results else None
        results.append(
            PolicyResult(
                name=choice.name,
                episodes=episodes,
                test_difference=_compare(episodes, base, "test_metric"),
                objective_difference=_compare(episodes, base, "objective"),
            )
        )
    return Comparison(task=config.task.name, seeds=tuple(seeds), policies=tuple(results))


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of a text such as "0-9" or "100,105-107", each once, in the order given.

    Raises:
        ConfigError: If a part is neither a whole number nor a range.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        found = _SEEDS.fullmatch(part.strip())
        low = int(found[1]) if found else 0
        high = int(found[2]) if found and found[2] is not None else low
        if found is None or high < low:
            raise ConfigError(f"--seeds {text}: {part!r} is neither a seed nor LOW-HIGH, e.g. 0-9")
        seeds |= dict.fromkeys(range(low, high + 1))
    return tuple(seeds)


def _ask_once(choices: Sequence[PolicyChoice], observation: Observation) -> None:
    """Have a policy that cannot act on these hosts refuse before hours are spent on the ones before it."""
    for choice in choices:
        before = choice.policy.state()
        choice.policy.decide(observation)
        choice.policy.restore(before)


def _compare(
    episodes: Sequence[EpisodeResult], base: Sequence[EpisodeResult] | None, field: str
) -> PairedInterval | None:
    if base is None:
        return None
    pairs = zip(episodes, base, strict=True)
    return estimate_paired_interval([float(getattr(a, field)) - float(getattr(b, field)) for a, b in pairs])
