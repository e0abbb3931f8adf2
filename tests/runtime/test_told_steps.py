"""Steps of one host as they are told: evidence of any policy, a reward per interval, also over a resume."""

from __future__ import annotations

from dataclasses import replace

import pytest

from esper.leyline import DecisionMade, Event, ForeignCheckpointError, RewardGranted
from esper.runtime.assemble import Assembly, assemble
from esper.runtime.episode_log import read_decision
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.run import describe_start
from esper.runtime.told_steps import STEPS_KEY, ToldSteps, read_steps
from esper.tamiyo import list_used_heads
from esper.tolaria.checkpoint.strict_json import encode_json, parse_json
from runtime.test_run import tiny


class Log:
    """Keeps events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    @property
    def decisions(self) -> list[DecisionMade]:
        return [event for event in self.events if isinstance(event, DecisionMade)]

    @property
    def rewards(self) -> list[RewardGranted]:
        return [event for event in self.events if isinstance(event, RewardGranted)]


def start(config: ExperimentConfig) -> tuple[Assembly, ToldSteps, Log]:
    log = Log()
    assembly = assemble(config, log)
    return assembly, ToldSteps(config, assembly), log


def live(assembly: Assembly, steps: ToldSteps, log: Log) -> None:
    """Grow the host to its horizon, from wherever it stands."""
    while not assembly.host_run.is_finished:
        if assembly.host_run.progress.batch == 0:
            steps.act()
        assembly.host_run.train_epoch()
        steps.settle(log)
    assembly.host_run.finish()
    steps.finish(log)


@pytest.mark.slow
def test_every_decision_is_told_with_evidence_and_followed_by_its_reward() -> None:
    assembly, steps, log = start(tiny())
    live(assembly, steps, log)
    heads = describe_start(tiny(), assembly, None, is_resumed=False).heads
    assert len(log.decisions) == len(log.rewards) == assembly.host_run.horizon_epochs
    total = 0.0
    for decision, reward in zip(log.decisions, log.rewards, strict=True):
        total += reward.total
        assert decision.observation["epochs_left"] > 0.0
        assert tuple(decision.legal) == list_used_heads(read_decision(decision).action)
        assert {head: len(mask) for head, mask in decision.legal.items()} == {
            head: len(heads[head]) for head in decision.legal
        }
        chosen = heads["op"].index(decision.op)
        assert decision.legal["op"][chosen] == (decision.refusal is None)
        assert reward.epoch == decision.epoch + 1
        assert reward.total == pytest.approx(sum(reward.parts.values()))
        assert reward.return_so_far == pytest.approx(total)


def test_features_can_be_left_out() -> None:
    config = tiny()
    config = replace(config, telemetry=replace(config.telemetry, observations="none"))
    assembly, steps, log = start(config)
    steps.act()
    assert log.decisions[0].observation == {}
    assert log.decisions[0].legal
    assert not assembly.host_run.is_finished


@pytest.mark.slow
def test_telling_changes_no_number() -> None:
    told, steps, log = start(tiny())
    live(told, steps, log)
    plain_log = Log()
    plain = assemble(tiny(), plain_log)
    while not plain.host_run.is_finished:
        plain.host_run.apply(plain.policy.decide(plain.host_run.observe()))
        plain.host_run.train_epoch()
    plain.host_run.finish()
    kept = [event.kind for event in log.events if not isinstance(event, RewardGranted)]
    assert kept == [event.kind for event in plain_log.events]
    assert told.host_run.signals == plain.host_run.signals


@pytest.mark.slow
def test_a_run_saved_in_the_middle_of_a_step_is_paid_the_same() -> None:
    assembly, steps, log = start(tiny())
    live(assembly, steps, log)
    first, its_steps, begun = start(tiny())
    for _ in range(3):
        its_steps.act()
        first.host_run.train_epoch()
        its_steps.settle(begun)
    its_steps.act()
    assert first.host_run.train_epoch(lambda: True) is None
    saved = parse_json(encode_json(its_steps.state(), where="steps"))
    second, resumed, rest = start(tiny())
    second.host_run.restore(first.host_run.state())
    second.policy.restore(first.policy.state())
    resumed.restore(read_steps({STEPS_KEY: saved}))
    live(second, resumed, rest)
    assert begun.rewards + rest.rewards == log.rewards


def test_an_older_checkpoint_goes_on_without_the_reward_of_the_open_step() -> None:
    assembly, steps, log = start(tiny())
    steps.act()
    steps.restore(read_steps({}))
    assembly.host_run.train_epoch()
    steps.settle(log)
    assert log.rewards == []


@pytest.mark.parametrize(
    "state", [{}, {"reward": {}, "return": 0.0, "open": 3}, {"reward": {}, "return": 0.0, "open": "{"}]
)
def test_a_state_of_something_else_is_refused(state: dict[str, object]) -> None:
    _, steps, _ = start(tiny())
    whole = steps.state()
    with pytest.raises(ForeignCheckpointError, match=r"saved (steps|reward)"):
        steps.restore({**whole, **state} if state else {})  # type: ignore[dict-item]
    with pytest.raises(ForeignCheckpointError, match="expected a table"):
        read_steps({STEPS_KEY: 3})
