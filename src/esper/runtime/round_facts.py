"""What the hosts of a round came to, as an event each and as means. Pure functions of what was collected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from esper.leyline import EpisodeFinished, Event
from esper.nissa import decode_event
from esper.simic import FinishedEpisode, ToldStep


def describe_growth(episodes: Sequence[FinishedEpisode]) -> dict[str, float]:
    """Return means over the hosts of a round: what growth brought, what it kept, what it spent."""
    facts = [episode.facts for episode in episodes if episode.facts]
    if not facts:
        return {}

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    def number(name: str) -> list[float]:
        return [float(str(fact[name])) for fact in facts]

    fossils = number("num_fossils")
    pairs = zip(number("metric"), number("never_metric"), strict=True)
    spent = zip(number("flops_spent"), number("never_grow_flops"), strict=True)
    sizes = zip(number("added_params"), number("host_params"), strict=True)
    return {
        "rollout/gain_mean": mean([metric - never for metric, never in pairs]),
        "rollout/fossils_mean": mean(fossils),
        "rollout/fossilize_rate": mean([float(count > 0) for count in fossils]),
        "rollout/flops_ratio_mean": mean([flops / never for flops, never in spent]),
        "rollout/growth_mean": mean([added / host for added, host in sizes]),
        "rollout/failure_rate": mean([float(fact["reason"] != "horizon") for fact in facts]),
    }


def describe_episode(episode: FinishedEpisode, round_number: int) -> EpisodeFinished:
    """Return the event of one host that was grown."""
    facts = episode.facts
    ops = facts["ops"]
    assert isinstance(ops, Mapping)
    return EpisodeFinished(
        epoch=round_number,
        instance=int(str(facts["instance"])),
        env_id=int(str(facts["env_id"])),
        reason=str(facts["reason"]),
        total_reward=episode.total_reward,
        num_steps=episode.num_steps,
        metric=float(str(facts["metric"])),
        never_metric=float(str(facts["never_metric"])),
        added_params=int(str(facts["added_params"])),
        host_params=int(str(facts["host_params"])),
        flops_spent=int(str(facts["flops_spent"])),
        never_grow_flops=int(str(facts["never_grow_flops"])),
        num_fossils=int(str(facts["num_fossils"])),
        num_refused=int(str(facts["num_refused"])),
        ops={str(op): int(str(count)) for op, count in ops.items()},
    )


def read_step(step: ToldStep, round_number: int) -> tuple[Event, Event]:
    """Return the decision and the reward of a step of a policy in training.

    Args:
        step: What `DecisionRecorder` told of it.
        round_number: From 1.
    """
    decision, reward = step["decision"], step["reward"]
    assert isinstance(decision, dict)
    assert isinstance(reward, dict)
    return (
        decode_event("DecisionMade", decision | {"round": round_number}),
        decode_event("RewardGranted", reward | {"round": round_number}),
    )


def average_rounds(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return each metric's mean over the rounds in which it was known."""
    names = sorted({name for row in rounds for name in row})
    known = {name: [row[name] for row in rounds if name in row] for name in names}
    return {name: sum(values) / len(values) for name, values in known.items()}
