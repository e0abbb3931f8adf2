"""What is paid per host and step beside training: seeing, deciding, acting, judging, paying, storing.

    python benchmarks/bookkeeping.py [--hosts 8 32 64] [--steps 8] [--repeats 15] [--out FILE]

Digits hosts on 64 training rows live half of their episode under a network that samples its actions, so that
slots are in many stages. Then each part is run again and again on the state that they are in: the least
processor time of it is told in microseconds per host and step, beside the number of functions that it calls,
which no busy machine changes. Parts that are indented lie in the one above. Last comes the other half of the
episode as one rollout: the time inside the fleet's calls, and everything but training and the measuring at
the end, which is the cost of acting and keeping books that a fused fleet does not take away.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from esper.leyline import (
    Action,
    ActionResult,
    Decision,
    EpochOutcome,
    Observation,
    Verdict,
    derive_seed,
    refuse_action,
)
from esper.runtime.families import HostFactory
from esper.runtime.presets import build_preset
from esper.simic import (
    GrowthEnvParts,
    GrowthRolloutEnv,
    InstancePlan,
    LearnerParts,
    NeverRun,
    NeverRuns,
    PPOLearner,
    RewardState,
    build_rubric,
)
from esper.simic.advantages import compute_gae, compute_next_values
from esper.simic.anomalies import find_faulty_rows
from esper.simic.collector import CollectorParts, RolloutCarry, build_carry, collect_rollout
from esper.simic.privileged import build_privileged
from esper.simic.rewards.facts import StepFacts
from esper.simic.rollout_buffer import Rollout, StoredStep, TamiyoRolloutBuffer
from esper.tamiyo import (
    PolicyInputs,
    PolicyStep,
    RecurrentActorCritic,
    build_action,
    build_inputs,
    encode_many,
)
from esper.tamiyo.network import build_network
from esper.tolaria import HostRun, SerialFleet, SplitResult, StateRecord
from esper.tolaria.governor import Governor, find_blamed
from esper.tolaria.signals import SignalTracker

_SEED = 0
_MICRO = 1e6
_WITHOUT_TRAINING = "of a rollout: all but train_epoch, conclude"


class Row(NamedTuple):
    """One line of the table."""

    name: str
    microseconds: float
    """Per host and step."""
    calls: float = 0.0
    """Of functions, per host and step."""

    def show(self) -> str:
        return f"{self.microseconds:.1f} {self.calls:7.1f}"


@dataclass(slots=True)
class Clock:
    """Processor seconds by name, of calls that do not lie in one another."""

    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, started: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + time.thread_time() - started


class TimedFleet:
    """A serial fleet whose calls are timed."""

    def __init__(self, fleet: SerialFleet[PolicyInputs], clock: Clock) -> None:
        self._fleet, self._clock = fleet, clock
        self.outcomes: tuple[EpochOutcome | None, ...] = ()
        """Of the last interval."""
        self.verdicts: tuple[Verdict, ...] = ()

    @property
    def num_hosts(self) -> int:
        return self._fleet.num_hosts

    @property
    def runs(self) -> tuple[HostRun, ...]:
        return self._fleet.runs

    @property
    def is_finished(self) -> tuple[bool, ...]:
        return self._fleet.is_finished

    def reset(
        self,
        mask: Sequence[bool],
        instances: Sequence[int],
        start_states: Sequence[StateRecord | None] | None = None,
    ) -> None:
        started = time.thread_time()
        self._fleet.reset(mask, instances, start_states)
        self._clock.add("reset", started)

    def observe(self) -> PolicyInputs:
        started = time.thread_time()
        inputs = self._fleet.observe()
        self._clock.add("observe", started)
        return inputs

    def observations(self) -> tuple[Observation, ...]:
        started = time.thread_time()
        observations = self._fleet.observations()
        self._clock.add("observe", started)
        return observations

    def apply(self, decisions: Sequence[Decision]) -> tuple[ActionResult, ...]:
        started = time.thread_time()
        results = self._fleet.apply(decisions)
        self._clock.add("apply", started)
        return results

    def train_epoch(self) -> tuple[tuple[EpochOutcome | None, ...], tuple[Verdict, ...]]:
        started = time.thread_time()
        self.outcomes, self.verdicts = self._fleet.train_epoch()
        self._clock.add("train_epoch", started)
        return self.outcomes, self.verdicts

    def finish(self) -> tuple[SplitResult, ...]:
        return self._fleet.finish()

    def conclude(self, mask: Sequence[bool]) -> tuple[SplitResult | None, ...]:
        started = time.thread_time()
        results = self._fleet.conclude(mask)
        self._clock.add("conclude", started)
        return results

    def state(self) -> tuple[StateRecord, ...]:
        return self._fleet.state()

    def restore(self, states: Sequence[StateRecord]) -> None:
        self._fleet.restore(states)

    def close(self) -> None:
        self._fleet.close()


class Bench:
    """E hosts, a network and a learner, brought to where there is something to look at."""

    def __init__(self, num_hosts: int, num_steps: int) -> None:
        config = build_preset("digits")
        self.config = replace(
            config,
            num_threads=1,
            task=replace(config.task, num_train_rows=64),
            host=replace(config.host, epochs=2 * num_steps),
        )
        self.num_hosts, self.num_steps = num_hosts, num_steps
        factory = HostFactory(self.config)
        sizes = factory.measure_sizes()
        encode = partial(build_inputs, num_slots=sizes.num_slots, num_blueprints=sizes.num_blueprints)
        self.clock = Clock()
        self.fleet = TimedFleet(SerialFleet(factory.build, range(num_hosts), encode=encode), self.clock)
        self.encode = encode
        self.rubric = build_rubric(self.config.reward, discount=self.config.training.gamma)
        # One never-grown curve for all: what is timed is looking one up.
        self.never = NeverRun(metrics=(0.0,) * (2 * num_steps + 1), states={})
        never_runs = NeverRuns(factory.build)
        for instance in range(num_hosts):
            never_runs.keep(instance, self.never)
        self.env = GrowthRolloutEnv(
            GrowthEnvParts(
                fleet=self.fleet,
                never_runs=never_runs,
                plan=InstancePlan(seed=_SEED, instances=tuple(range(num_hosts))),
                build_reward=lambda: RewardState(self.rubric),
                env_ids=tuple(range(num_hosts)),
            )
        )
        self.network: RecurrentActorCritic = build_network(
            self.config.network, self.env.layout, seed=derive_seed(_SEED, "network")
        )
        training = replace(self.config.training, num_updates=1)
        self.learner = PPOLearner(LearnerParts(network=self.network, config=training, seed=_SEED))
        cpu = torch.device("cpu")
        self.buffer = TamiyoRolloutBuffer(num_envs=num_hosts, num_steps=num_steps, device=cpu)
        self.carry = build_carry(self.network, range(num_hosts), seed=_SEED)
        self.parts = CollectorParts(
            config=training.rollout,
            device=cpu,
            autocast=self.learner.autocast,
            values=self.learner.value_normalizer,
            inputs=self.learner.input_normalizer,
        )

    def collect(self) -> Rollout:
        return collect_rollout(self.env, self.network, self.buffer, self.carry, self.parts)


def measure_least(call: Callable[[], object], repeats: int) -> float:
    """Return the least processor seconds of a call."""
    call()
    least = float("inf")
    for _ in range(repeats):
        started = time.thread_time()
        call()
        least = min(least, time.thread_time() - started)
    return least


def list_seeing(bench: Bench) -> dict[str, Callable[[], object]]:
    observations = bench.env.observations
    runs = bench.fleet.runs
    return {
        "observations": lambda: [run.observe() for run in runs],
        "  reports and gates": lambda: [run.bench.model.reports() for run in runs],
        "  memory left": lambda: [run.bench.memory.bytes_left(run.bench.model) for run in runs],
        "  ledger total": lambda: [run.bench.ledger.total for run in runs],
        "inputs of the network": lambda: bench.encode(observations),
        "  encoding": lambda: encode_many(observations),
        "privileged inputs": lambda: build_privileged(observations, [bench.never] * len(observations)),
    }


def list_deciding(bench: Bench, choice: PolicyStep, inputs: PolicyInputs) -> dict[str, Callable[[], object]]:
    rows = [tuple(row) for row in choice.actions.tolist()]
    spaces = [observation.space for observation in bench.env.observations]
    actions = [build_action(row, space) for row, space in zip(rows, spaces, strict=True)]
    pairs = list(zip(actions, bench.env.observations, strict=True))
    waits = [Decision(reason="bench") for _ in rows]
    return {
        "network.act": lambda: act(bench, inputs),
        "actions from indices": lambda: [build_action(*pair) for pair in zip(rows, spaces, strict=True)],
        "legality of the actions": lambda: [refuse_action(*pair) for pair in pairs],
        "apply, all waiting": lambda: bench.fleet.apply(waits),
    }


def list_judging(bench: Bench) -> dict[str, Callable[[], object]]:
    outcomes = [outcome for outcome in bench.fleet.outcomes if outcome is not None]
    observations = bench.env.observations
    config = bench.config.host
    governors = [Governor(config.governor, chance_loss=2.3) for _ in outcomes]
    trackers = [SignalTracker(config.tracker) for _ in outcomes]
    pairs = list(zip(observations, outcomes, strict=True))
    for governor in governors:  # a full window of a host that has not learned
        for number in range(config.governor.window):
            governor.judge(replace(outcomes[0], validation_loss=1.5 + 0.01 * number))
    clocks = [run.clock for run in bench.fleet.runs]
    models = [run.bench.model for run in bench.fleet.runs]
    return {
        "governor": lambda: [g.judge(o) for g, o in zip(governors, outcomes, strict=True)],
        "blame": lambda: [find_blamed(o.slots, outcome, ()) for o, outcome in pairs],
        "signals": lambda: [t.update(o) for t, o in zip(trackers, outcomes, strict=True)],
        "topology followed": partial(follow_topology, bench.fleet.runs),
        "begin of an epoch": lambda: [m.begin_epoch(c) for m, c in zip(models, clocks, strict=True)],
    }


def list_paying(bench: Bench) -> dict[str, Callable[[], object]]:
    states = [RewardState(bench.rubric) for _ in bench.env.observations]
    wait = Action()
    facts = [
        StepFacts(
            before=observation,
            after=observation,
            result=ActionResult(requested=wait, effective=wait),
            verdict=Verdict(),
            is_last=False,
            never_metric_before=0.0,
            never_metric_after=0.0,
        )
        for observation in bench.env.observations
    ]
    return {"reward": lambda: [s.compute(f) for s, f in zip(states, facts, strict=True)]}


def list_storing(bench: Bench, choice: PolicyStep, inputs: PolicyInputs) -> dict[str, Callable[[], object]]:
    num_hosts, carry = bench.num_hosts, bench.carry
    flags, none = torch.ones(num_hosts, dtype=torch.bool), torch.zeros(num_hosts, dtype=torch.bool)
    reward = torch.zeros(num_hosts)
    step = StoredStep(
        inputs=inputs,
        actions=choice.actions,
        log_probs=choice.log_probs,
        value=choice.value,
        num_valid=choice.num_valid,
        reward=reward,
        terminated=none,
        truncated=none,
        valid=flags,
        episode_start=none,
    )
    buffer = TamiyoRolloutBuffer(num_envs=num_hosts, num_steps=1, device=torch.device("cpu"))

    def store() -> None:
        buffer.clear()
        buffer.begin(choice.memory)
        buffer.add(step)

    return {
        "noise": lambda: carry.draw_noise(len(bench.network.layout.heads)),
        "faults": lambda: find_faulty_rows(inputs, flags, bench.parts.config, reward=reward),
        "normalised inputs": lambda: normalize(bench, inputs, flags),
        "buffer": store,
    }


def list_learning(bench: Bench, rollout: Rollout) -> dict[str, Callable[[], object]]:
    batch, steps = rollout.batch, rollout.batch.steps
    next_value = compute_next_values(batch.value, steps.truncated, batch.bootstrap)
    gae = partial(compute_gae, batch.value, next_value, steps, gamma=0.99, gae_lambda=0.95)
    return {"advantages": gae, "PPO update": lambda: bench.learner.update(batch)}


def follow_topology(runs: Sequence[HostRun]) -> None:
    for run in runs:
        run.bench.follow_topology()


def act(bench: Bench, inputs: PolicyInputs) -> PolicyStep:
    carry: RolloutCarry = bench.carry
    noise = carry.draw_noise(len(bench.network.layout.heads))
    started = torch.zeros(bench.num_hosts, dtype=torch.bool)
    with torch.no_grad():
        return bench.network.act(inputs, carry.memory, started, noise=noise)


def normalize(bench: Bench, inputs: PolicyInputs, rows: Tensor) -> PolicyInputs:
    bench.parts.inputs.observe(inputs, rows)
    return bench.parts.inputs.normalize(inputs)


def count_calls(call: Callable[[], object]) -> int:
    """Return how many functions are called, those written in C included."""
    profile = cProfile.Profile()
    profile.runcall(call)
    total: int = pstats.Stats(profile).total_calls  # type: ignore[attr-defined]
    return total


def measure(num_hosts: int, num_steps: int, repeats: int) -> list[Row]:
    bench = Bench(num_hosts, num_steps)
    rollout = bench.collect()
    inputs = bench.env.observe()
    choice = act(bench, inputs)
    parts = {
        **list_seeing(bench),
        **list_deciding(bench, choice, inputs),
        **list_judging(bench),
        **list_paying(bench),
        **list_storing(bench, choice, inputs),
    }
    rows = [measure_part(name, call, repeats, num_hosts) for name, call in parts.items()]
    learning = list_learning(bench, rollout)
    rows += [measure_part(name, call, 3, num_hosts * num_steps) for name, call in learning.items()]
    # The second half of the episode; the table of stages is of its beginning.
    stages = count_stages(bench)
    bench.buffer.clear()
    bench.clock.seconds.clear()
    started = time.thread_time()
    bench.collect()
    elapsed = time.thread_time() - started
    spent = bench.clock.seconds
    per_step = _MICRO / (num_hosts * num_steps)
    rows += [Row(f"of a rollout: {name}", per_step * seconds) for name, seconds in spent.items()]
    left = elapsed - spent["train_epoch"] - spent["conclude"]
    rows.append(Row(_WITHOUT_TRAINING, per_step * left))
    rows += [Row(f"slots in stage {stage}", float(count)) for stage, count in stages.items()]
    return rows


def measure_part(name: str, call: Callable[[], object], repeats: int, divisor: int) -> Row:
    return Row(name, _MICRO * measure_least(call, repeats) / divisor, count_calls(call) / divisor)


def count_stages(bench: Bench) -> Mapping[str, int]:
    return Counter(slot.stage.value for seen in bench.env.observations for slot in seen.slots)


def print_table(found: Mapping[int, Sequence[Row]]) -> None:
    sizes = list(found)
    print(f"{'microseconds, calls per host and step':44s}" + "".join(f"{f'E={size}':>20s}" for size in sizes))
    by_name = {size: {row.name: row for row in rows} for size, rows in found.items()}
    for name in dict.fromkeys(row.name for rows in found.values() for row in rows):
        cells = [by_name[size].get(name) for size in sizes]
        print(f"{name:44s}" + "".join(f"{'' if cell is None else cell.show():>20s}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--hosts", type=int, nargs="+", default=[8, 32, 64])
    parser.add_argument("--steps", type=int, default=8, help="intervals of a rollout; an episode has two")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = {size: measure(size, given.steps, given.repeats) for size in given.hosts}
    print_table(found)
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        table = {str(size): [row._asdict() for row in rows] for size, rows in found.items()}
        given.out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
