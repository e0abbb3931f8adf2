"""A recurrent actor-critic of a few hundred parameters, and an environment whose every answer is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from esper.leyline import JsonValue
from esper.simic.collector import CollectorParts, RolloutCarry, build_carry, collect_rollout
from esper.simic.config import RolloutConfig, TrainingConfig
from esper.simic.interfaces import EnvStep
from esper.simic.ppo import LearnerParts, PPOLearner
from esper.simic.rollout_buffer import Rollout, TamiyoRolloutBuffer
from esper.tamiyo import (
    ActionLayout,
    ActionLogits,
    ActionMask,
    JointDistribution,
    Memory,
    PolicyInputs,
    PolicyStep,
    SequenceEvaluation,
)

NUM_FEATURES, NUM_OPS, NUM_SLOTS, NUM_BLUEPRINTS, NUM_TEMPOS = 3, 4, 2, 3, 2
GROWTH_LIKE = ActionLayout(
    op_names=("WAIT", "GERMINATE", "CULL", "SET"),
    uses={
        "op": (True, True, True, True),
        "slot": (False, True, True, True),
        "blueprint": (False, True, False, False),
        "tempo": (False, True, False, True),
    },
    argument_sizes={"tempo": NUM_TEMPOS},
)
FLAT = ActionLayout(op_names=("LEFT", "RIGHT", "STAY"), uses={"op": (True, True, True)})


class TinyActorCritic(nn.Module):
    """Linear encoder, one LSTM cell, linear heads; written as the plainest loop over steps."""

    def __init__(self, layout: ActionLayout = GROWTH_LIKE, *, seed: int = 0, hidden: int = 5) -> None:
        super().__init__()
        self._layout = layout
        self._hidden = hidden
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(seed)
            num_ops = len(layout.op_names)
            self.encoder = nn.Linear(NUM_FEATURES, hidden)
            self.core = nn.LSTMCell(hidden, hidden)
            self.op = nn.Linear(hidden, num_ops)
            self.slot = nn.Linear(hidden, num_ops * NUM_SLOTS)
            self.blueprint = nn.Linear(hidden, NUM_SLOTS * NUM_BLUEPRINTS)
            self.arguments = nn.ModuleDict(
                {h: nn.Linear(hidden, num_ops * NUM_SLOTS * k) for h, k in layout.argument_sizes.items()}
            )
            self.value_layer_ = nn.Linear(hidden, 1)

    @property
    def layout(self) -> ActionLayout:
        return self._layout

    @property
    def value_layer(self) -> nn.Linear:
        return self.value_layer_

    def initial_memory(self, num_rows: int) -> Memory:
        zeros = self.encoder.weight.new_zeros(1, num_rows, self._hidden)
        return Memory(zeros, zeros.clone())

    def act(
        self,
        inputs: PolicyInputs,
        memory: Memory,
        episode_start: Tensor,
        *,
        noise: Tensor | None = None,
        is_greedy: bool = False,
    ) -> PolicyStep:
        features, memory = self._advance(inputs, memory, episode_start)
        distribution = self._distribution(features, inputs)
        distribution.check_not_empty()
        numbers = torch.rand(len(episode_start), len(self._layout.heads)) if noise is None else noise
        actions = distribution.mode() if is_greedy else distribution.sample(numbers)
        return PolicyStep(
            actions, distribution.log_prob(actions), self._value(features), distribution.num_valid(), memory
        )

    def evaluate(
        self, inputs: PolicyInputs, actions: Tensor, memory: Memory, episode_start: Tensor
    ) -> SequenceEvaluation:
        columns: list[tuple[Tensor, ...]] = []
        for t in range(actions.shape[1]):
            now = {name: tensor[:, t] for name, tensor in inputs.items()}
            features, memory = self._advance(now, memory, episode_start[:, t])
            d, chosen = self._distribution(features, now), actions[:, t]
            columns.append(
                (d.log_prob(chosen), d.active(chosen), d.entropy(), self._value(features), d.num_valid())
            )
        return SequenceEvaluation(*(torch.stack(column, dim=1) for column in zip(*columns, strict=True)))

    def compute_values(self, inputs: PolicyInputs, memory: Memory, episode_start: Tensor) -> Tensor:
        features, _ = self._advance(inputs, memory, episode_start)
        return self._value(features)

    def _advance(self, inputs: PolicyInputs, memory: Memory, start: Tensor) -> tuple[Tensor, Memory]:
        memory = memory.cleared(start)
        encoded = torch.tanh(self.encoder(inputs["features"]))
        hidden, cell = self.core(encoded, (memory.hidden[0], memory.cell[0]))
        return hidden, Memory(hidden[None], cell[None])

    def _value(self, features: Tensor) -> Tensor:
        value: Tensor = self.value_layer_(features).squeeze(-1)
        return value if value.dtype is torch.float64 else value.float()

    def _distribution(self, features: Tensor, inputs: PolicyInputs) -> JointDistribution:
        n, o = len(features), len(self._layout.op_names)
        has_slots = "slot" in self._layout.uses
        logits = ActionLogits(
            op=self.op(features),
            slot=self.slot(features).view(n, o, NUM_SLOTS) if has_slots else None,
            blueprint=self.blueprint(features).view(n, NUM_SLOTS, NUM_BLUEPRINTS) if has_slots else None,
            arguments={h: layer(features).view(n, o, NUM_SLOTS, -1) for h, layer in self.arguments.items()},
        )
        mask = ActionMask(
            op=inputs["mask_op"], slot=inputs.get("mask_slot"), blueprint=inputs.get("mask_blueprint")
        )
        return JointDistribution(self._layout, logits, mask)


@dataclass(frozen=True, slots=True)
class Script:
    """What happens in a scripted environment; rows take turns by `lengths`."""

    lengths: tuple[int, ...] = (4, 7)
    """Row e's k-th episode has lengths[(e + k) % len(lengths)] steps."""
    truncated_episodes: frozenset[tuple[int, int]] = frozenset()
    """(row, episode) that end by truncation."""
    forced: Callable[[int, int], bool] = lambda row, t: False
    """(row, step of the episode) -> only the first operation is legal."""
    faults: Mapping[tuple[int, int, int], tuple[str, float]] | None = None
    """(row, episode, step) -> ("reward" or "features", number) in what it leads to; step -1 = reset."""
    losses: frozenset[tuple[int, int, int]] = frozenset()
    """(row, episode, step) in which the environment loses the row."""
    layout: ActionLayout = GROWTH_LIKE


class ScriptedEnv:
    """Features, masks and rewards are functions of row, episode, step and action."""

    def __init__(self, num_envs: int, script: Script | None = None, *, first_row: int = 0) -> None:
        self._script = Script() if script is None else script
        self._rows = range(first_row, first_row + num_envs)
        self.episode = [-1] * num_envs
        self.t = [0] * num_envs
        self.is_running = [False] * num_envs
        self.executed: list[Tensor] = []
        self.num_resets = 0

    @property
    def num_envs(self) -> int:
        return len(self._rows)

    @property
    def layout(self) -> ActionLayout:
        return self._script.layout

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"scripted/{row}" for row in self._rows)

    def reset(self, mask: Tensor) -> None:
        self.num_resets += 1
        for e in mask.nonzero().flatten().tolist():
            self.episode[e] += 1
            self.t[e] = 0
            self.is_running[e] = True

    def observe(self) -> PolicyInputs:
        rows = [self._observe(e) for e in range(self.num_envs)]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def step(self, actions: Tensor) -> EnvStep:
        self.executed.append(actions.clone())
        is_valid = torch.tensor(self.is_running)
        reward, ended, cut = torch.zeros(self.num_envs), [False] * self.num_envs, [False] * self.num_envs
        for e, row in enumerate(self._rows):
            if not self.is_running[e]:
                continue
            if (row, self.episode[e], self.t[e]) in self._script.losses:
                is_valid[e], cut[e], self.is_running[e] = False, True, False
                continue
            reward[e] = self._reward(e, actions[e])
            self.t[e] += 1
            lengths = self._script.lengths
            if self.t[e] == lengths[(row + self.episode[e]) % len(lengths)]:
                self.is_running[e] = False
                cut[e] = (row, self.episode[e]) in self._script.truncated_episodes
                ended[e] = not cut[e]
        finished = [e or c for e, c in zip(ended, cut, strict=True)]
        return EnvStep(
            inputs=self.observe(),
            reward=reward,
            terminated=torch.tensor(ended),
            truncated=torch.tensor(cut),
            is_valid=is_valid,
            summaries=tuple(
                {"episode": self.episode[e], **({} if is_valid[e] else {"reason": "scripted"})}
                if is_finished
                else None
                for e, is_finished in enumerate(finished)
            ),
        )

    def state(self) -> dict[str, JsonValue | Tensor]:
        return {"episode": list(self.episode), "t": list(self.t), "is_running": list(self.is_running)}

    def restore(self, state: Mapping[str, JsonValue | Tensor]) -> None:
        saved = {key: value for key, value in state.items() if isinstance(value, list)}
        self.episode = [int(str(x)) for x in saved["episode"]]
        self.t = [int(str(x)) for x in saved["t"]]
        self.is_running = [bool(x) for x in saved["is_running"]]

    def close(self) -> None:
        return

    def _draws(self, e: int, salt: int) -> torch.Generator:
        seed = ((self._rows[e] * 101 + self.episode[e] + 7) * 1009 + self.t[e]) * 31 + salt
        return torch.Generator().manual_seed(seed)

    def _fault(self, e: int, what: str) -> float | None:
        at = (self._rows[e], self.episode[e], self.t[e] - 1)
        kind, number = (self._script.faults or {}).get(at, ("", 0.0))
        return number if kind == what else None

    def _reward(self, e: int, action: Tensor) -> float:
        self.t[e] += 1
        fault = self._fault(e, "reward")
        self.t[e] -= 1
        if fault is not None:
            return fault
        weights = torch.randn(len(action), generator=self._draws(e, 1))
        return float((weights * action).sum() + torch.randn((), generator=self._draws(e, 2)))

    def _observe(self, e: int) -> dict[str, Tensor]:
        draw = self._draws(e, 3)
        features = torch.randn(NUM_FEATURES, generator=draw)
        fault = self._fault(e, "features")
        if fault is not None:
            features[1] = fault
        num_ops = len(self._script.layout.op_names)
        op = torch.rand(num_ops, generator=draw) < 0.7
        op[0] = True
        if self._script.forced(self._rows[e], self.t[e]):
            op[1:] = False
        inputs = {"features": features, "mask_op": op}
        if "slot" in self._script.layout.uses:
            slot = torch.rand(num_ops, NUM_SLOTS, generator=draw) < 0.6
            slot[:, 0] = True
            blueprint = torch.rand(NUM_SLOTS, NUM_BLUEPRINTS, generator=draw) < 0.6
            blueprint[:, 0] = True
            inputs |= {"mask_slot": slot, "mask_blueprint": blueprint}
        return inputs


@dataclass(slots=True)
class Bench:
    """A learner with everything around it."""

    env: ScriptedEnv
    network: TinyActorCritic
    learner: PPOLearner
    buffer: TamiyoRolloutBuffer
    carry: RolloutCarry
    parts: CollectorParts

    def collect(self) -> Rollout:
        if self.buffer.is_finished:
            self.buffer.clear()
        return collect_rollout(self.env, self.network, self.buffer, self.carry, self.parts)


def build_bench(
    config: TrainingConfig | None = None,
    *,
    num_envs: int = 3,
    num_steps: int = 7,
    script: Script | None = None,
    dtype: torch.dtype = torch.float64,
    learner_parts: Callable[[TinyActorCritic, TrainingConfig], LearnerParts] | None = None,
    first_row: int = 0,
) -> Bench:
    """Return a scripted environment and a float64 learner for it, on the CPU; one minibatch unless told."""
    config = TrainingConfig() if config is None else config
    if config.ppo.num_minibatches is None:
        config = replace(config, ppo=replace(config.ppo, num_minibatches=1))
    layout = GROWTH_LIKE if script is None else script.layout
    network = TinyActorCritic(layout).to(dtype)
    env = TypedEnv(num_envs, script, first_row=first_row, dtype=dtype)
    if learner_parts is None:
        learner = PPOLearner(LearnerParts(network=network, config=config, seed=0))
    else:
        learner = PPOLearner(learner_parts(network, config))
    device = torch.device("cpu")
    return Bench(
        env=env,
        network=network,
        learner=learner,
        buffer=TamiyoRolloutBuffer(num_envs=num_envs, num_steps=num_steps, device=device),
        carry=build_carry(network, range(num_envs), seed=5),
        parts=build_parts(learner, config.rollout),
    )


def build_parts(
    learner: PPOLearner, config: RolloutConfig, *, after_step: Callable[[], None] | None = None
) -> CollectorParts:
    """Return the surroundings of a collection for this learner."""
    return CollectorParts(
        config=config,
        device=torch.device("cpu"),
        autocast=learner.autocast,
        values=learner.value_normalizer,
        inputs=learner.input_normalizer,
        after_step=after_step,
    )


class TypedEnv(ScriptedEnv):
    """A scripted environment whose features and rewards have the network's dtype."""

    def __init__(
        self, num_envs: int, script: Script | None = None, *, first_row: int = 0, dtype: torch.dtype
    ) -> None:
        super().__init__(num_envs, script, first_row=first_row)
        self._dtype = dtype

    def observe(self) -> PolicyInputs:
        inputs = super().observe()
        return {**inputs, "features": inputs["features"].to(self._dtype)}
