"""The only loop that feeds the learner: E environments over T steps, without autoreset.

```
reset rows that ended -> [ act -> env.step -> look for faults -> buffer.add -> bootstrap where truncated ] x T
                      -> value of what is pending -> Rollout
```
A row that ended idles (valid = 0) until the next rollout, or begins another episode where the settings say
so. What an environment reports is checked before anything else sees it: a row with a reward or an input that
is not finite, or absurdly large, is quarantined from that step on. Its place in the batch stays, filled with
its last good inputs, so that the other rows compute bit for bit what they would have computed. Knows no loss.

Shapes: E rows, L layers and D units of the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from esper.leyline import Collective, EsperError, ForeignCheckpointError, JsonValue, derive_seed
from esper.simic.anomalies import FaultyRows, add_lost_rows, find_faulty_rows
from esper.simic.carry_rows import (
    ToldStep,
    pack_told,
    read_episode,
    read_quarantined,
    read_rows,
    unpack_told,
)
from esper.simic.config import RolloutConfig
from esper.simic.interfaces import ActorCritic, EnvStep, RolloutEnv
from esper.simic.normalizers import InputNormalizer, ValueNormalizer
from esper.simic.rollout_buffer import (
    FinishedEpisode,
    QuarantinedRow,
    Rollout,
    StoredStep,
    TamiyoRolloutBuffer,
)
from esper.tamiyo import EmptyMaskError, Memory, PolicyInputs, PolicyStep, draw_noise
from esper.tolaria import Autocast, StateRecord

_FLAGS = ("episode_start", "has_ended", "returns", "lengths", "num_begun")


@final
class NoEnvironmentLeftError(EsperError):
    """Raised when every environment's first observation was refused: there is nothing to collect."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorParts:
    """Everything around the loop that stays the same while one policy collects."""

    config: RolloutConfig
    device: torch.device
    """Where the network is."""
    autocast: Autocast
    """The learner's, so that sampling rounds as scoring does."""
    values: ValueNormalizer
    """The learner's; stands still while collecting."""
    inputs: InputNormalizer
    """The learner's; counts observations and stands still while collecting."""
    on_quarantine: Callable[[QuarantinedRow], None] | None = None
    """Hears at once of every quarantined row; they are in the rollout and its metrics, too."""
    should_cut: Callable[[int], bool] | None = None
    """Asked before each step with the number of steps so far: True ends the rollout there; rows that were
    running go on in the next one."""
    after_step: Callable[[], None] | None = None
    """Called when a step is complete; buffer, carry and environment may be saved there, and raising leaves
    them whole."""
    record: Callable[[PolicyInputs, PolicyStep, Tensor, Tensor], Sequence[ToldStep | None]] | None = None
    """Called after each step with the inputs [E, ...] as the environment gave them, the choice, raw values
    and which rows are real: returns [E] what is to be told of it."""


@final
@dataclass(slots=True, kw_only=True, eq=False)
class RolloutCarry:
    """What passes from step to step and from rollout to rollout; changed in place by the collector."""

    memory: Memory
    """[L, E, D] after the last step, on the network's device."""
    seed: int
    """Of the actions."""
    env_ids: tuple[int, ...]
    """[E] numbers of the environments over all processes: who draws."""
    num_begun: Tensor
    """[E] int64 episodes begun so far; with seed and number they name the stream of an episode."""
    inputs: dict[str, Tensor] = field(default_factory=dict)
    """[E, ...] pending observations as the environment gave them; of idle rows the last ones acted upon."""
    episode_start: Tensor
    """[E] bool: the pending observation is the first of its episode."""
    has_ended: Tensor
    """[E] bool: the row idles until it is reset."""
    returns: Tensor
    """[E] float64 rewards of the running episodes."""
    lengths: Tensor
    """[E] int64 steps of the running episodes."""
    num_valid: int = 0
    """Real transitions of the present rollout."""
    episodes: list[FinishedEpisode] = field(default_factory=list)
    """Of the present rollout."""
    quarantined: list[QuarantinedRow] = field(default_factory=list)
    """Of the present rollout."""
    told: list[list[ToldStep]] = field(default_factory=list)
    """[E] what is to be told of the steps so far; whoever tells it empties it."""

    def take_told(self) -> tuple[ToldStep, ...]:
        """Return what is to be told, row after row, and keep nothing of it."""
        told = tuple(step for steps in self.told for step in steps)
        self.told = [[] for _ in self.env_ids]
        return told

    def draw_noise(self, num_heads: int) -> Tensor:
        """Return [E, H] in [0, 1) for the pending decisions; the same numbers until a step is counted."""
        keys = [
            derive_seed(self.seed, "actions", env_id, episode)
            for env_id, episode in zip(self.env_ids, self.num_begun.tolist(), strict=True)
        ]
        device = self.memory.hidden.device
        return draw_noise(torch.tensor(keys, device=device), self.lengths.to(device), num_heads)

    def state(self) -> StateRecord:
        """Return copies, with which a rollout goes on where it stood."""
        tensors = {f"inputs.{name}": x.clone() for name, x in self.inputs.items()}
        tensors |= {f"memory.{name}": x.clone() for name, x in self.memory._asdict().items()}
        tensors |= {name: getattr(self, name).clone() for name in _FLAGS}
        episodes: list[JsonValue] = [[*episode[:3], dict(episode.facts)] for episode in self.episodes]
        state: dict[str, JsonValue] = {"num_valid": self.num_valid, "episodes": episodes}
        state |= {"quarantined": [list(q) for q in self.quarantined]}
        return StateRecord(tensors=tensors, state=state | {"told": [pack_told(row) for row in self.told]})

    def restore(self, record: StateRecord) -> None:
        """Put back what `state` returned.

        Raises:
            ForeignCheckpointError: If something is missing or malformed, or the number of rows differs.
        """
        tensors, state = record.tensors, record.state
        missing = {*_FLAGS, "memory.hidden", "memory.cell"} - set(tensors)
        if missing or tensors["has_ended"].shape != self.has_ended.shape:
            raise ForeignCheckpointError(
                f"saved carry lacks {sorted(missing)}, or is not of {len(self.has_ended)} environments"
            )
        episodes = [read_episode(row) for row in read_rows(state, "episodes")]
        quarantined = [read_quarantined(row) for row in read_rows(state, "quarantined")]
        device = self.memory.hidden.device
        self.memory = Memory(*(tensors[f"memory.{part}"].to(device, copy=True) for part in Memory._fields))
        prefix = "inputs."
        self.inputs = {k.removeprefix(prefix): x.clone() for k, x in tensors.items() if k.startswith(prefix)}
        self.episode_start, self.has_ended = tensors["episode_start"].clone(), tensors["has_ended"].clone()
        self.returns, self.lengths = tensors["returns"].clone(), tensors["lengths"].clone()
        self.num_begun = tensors["num_begun"].clone()
        self.num_valid = int(str(state["num_valid"]))
        self.episodes, self.quarantined = episodes, quarantined
        told = read_rows(state, "told") if "told" in state else [""] * len(self.env_ids)
        self.told = [unpack_told(row) for row in told]


def build_carry(network: ActorCritic, env_ids: Sequence[int], *, seed: int) -> RolloutCarry:
    """Return the carry before the first rollout: every row waits for its reset.

    Args:
        network: Whose memory it is.
        env_ids: [E] numbers of the environments over all processes; what a row draws depends on its own.
        seed: Of the actions.
    """
    num_envs = len(env_ids)
    return RolloutCarry(
        memory=network.initial_memory(num_envs),
        seed=seed,
        env_ids=tuple(env_ids),
        num_begun=torch.zeros(num_envs, dtype=torch.int64),
        episode_start=torch.ones(num_envs, dtype=torch.bool),
        has_ended=torch.ones(num_envs, dtype=torch.bool),
        returns=torch.zeros(num_envs, dtype=torch.float64),
        lengths=torch.zeros(num_envs, dtype=torch.int64),
        told=[[] for _ in env_ids],
    )


def collect_rollout(
    env: RolloutEnv,
    network: ActorCritic,
    buffer: TamiyoRolloutBuffer,
    carry: RolloutCarry,
    parts: CollectorParts,
) -> Rollout:
    """Collect until the buffer is full, every row has ended, or a cut is asked for.

    A buffer that already holds steps is gone on with: so an interrupted rollout resumes. The batch is a view
    of the buffer: learn from it before `buffer.clear()`.

    Raises:
        NoEnvironmentLeftError: If no row gave a usable first observation.
        EmptyMaskError: If a running row has no legal action.
        RuntimeError: If the buffer was not cleared.
    """
    if buffer.is_finished:
        raise RuntimeError("the buffer holds a finished rollout: learn from it, then clear() it")
    if not buffer.is_begun:
        _begin(env, buffer, carry, parts)
    while not (buffer.is_full or bool(carry.has_ended.all())):
        if buffer.num_steps > 0 and parts.should_cut is not None and parts.should_cut(buffer.num_steps):
            break
        _collect_step(env, network, buffer, carry, parts)
        if parts.after_step is not None:
            parts.after_step()
    last_value = _compute_pending_values(network, carry, parts)
    batch = buffer.finish(last_value)
    return Rollout(
        batch=batch,
        episodes=tuple(carry.episodes),
        quarantined=tuple(carry.quarantined),
        num_valid=carry.num_valid,
    )


def describe_collection(rollout: Rollout, collective: Collective) -> dict[str, float]:
    """Return the metrics of what was collected, over all ranks; every rank must call it."""
    count, reward, steps, valid, quarantined = collective.all_sum(
        [
            float(len(rollout.episodes)),
            sum(episode.total_reward for episode in rollout.episodes),
            float(sum(episode.num_steps for episode in rollout.episodes)),
            float(rollout.num_valid),
            float(len(rollout.quarantined)),
        ]
    )
    metrics = {
        "rollout/num_episodes": count,
        "rollout/num_steps": valid,
        "rollout/num_quarantined": quarantined,
    }
    if count > 0:
        metrics |= {"rollout/ep_rew_mean": reward / count, "rollout/ep_len_mean": steps / count}
    return metrics


def _begin(env: RolloutEnv, buffer: TamiyoRolloutBuffer, carry: RolloutCarry, parts: CollectorParts) -> None:
    carry.num_valid, carry.episodes, carry.quarantined = 0, [], []
    if bool(carry.has_ended.any()):
        _reset_rows(env, carry, carry.has_ended, parts, step=0)
    if bool(carry.has_ended.all()):
        reasons = "; ".join(f"{row.name}: {row.reason}" for row in carry.quarantined)
        raise NoEnvironmentLeftError(f"no environment gave a usable first observation: {reasons}")
    buffer.begin(carry.memory.cleared(carry.episode_start.to(parts.device)))


def _collect_step(
    env: RolloutEnv,
    network: ActorCritic,
    buffer: TamiyoRolloutBuffer,
    carry: RolloutCarry,
    parts: CollectorParts,
) -> None:
    # 1) decide, on the network's device
    is_live = ~carry.has_ended
    parts.inputs.observe(carry.inputs, is_live)
    inputs = {name: tensor.to(parts.device) for name, tensor in parts.inputs.normalize(carry.inputs).items()}
    noise = carry.draw_noise(len(network.layout.heads))
    with torch.no_grad(), parts.autocast.context():
        try:
            choice = network.act(inputs, carry.memory, carry.episode_start.to(parts.device), noise=noise)
        except EmptyMaskError as error:
            raise EmptyMaskError(env.names[error.row], error.head, error.row) from error
    # 2) act; whatever comes back is looked at before it is used
    result = env.step(choice.actions.cpu())  # sync: the environments need the actions
    faults = find_faulty_rows(result.inputs, is_live & result.is_valid, parts.config, reward=result.reward)
    faults = add_lost_rows(faults, result, is_live)
    valid = is_live & result.is_valid & ~faults.rows
    terminated = (result.terminated & valid) | faults.rows
    truncated = result.truncated & valid & ~terminated
    # 3) store
    buffer.add(
        StoredStep(
            inputs=inputs,
            actions=choice.actions,
            log_probs=choice.log_probs,
            value=parts.values.denormalize(choice.value),
            num_valid=choice.num_valid,
            reward=torch.where(valid, result.reward, torch.zeros_like(result.reward)),
            terminated=terminated,
            truncated=truncated,
            valid=valid,
            episode_start=carry.episode_start & is_live,
        )
    )
    if parts.record is not None:
        told = parts.record(carry.inputs, choice, parts.values.denormalize(choice.value), valid)
        for steps, step in zip(carry.told, told, strict=True):
            steps += [] if step is None else [step]
    _report(env, carry, faults, parts, step=buffer.num_steps - 1)
    # 4) what comes next, and what would have come where an episode was abandoned
    following = _replace_rows(result.inputs, carry.inputs, is_live & ~faults.rows)
    if bool(truncated.any()):
        values = _compute_values(network, following, choice.memory, parts)
        buffer.bootstrap(values, where=truncated)
    _advance(carry, choice, following, terminated | truncated)
    _count(env, carry, result, valid, (terminated | truncated) & valid)
    if parts.config.resets_within_rows and bool((terminated | truncated).any()):
        _reset_rows(env, carry, carry.has_ended, parts, step=buffer.num_steps)


def _advance(carry: RolloutCarry, choice: PolicyStep, following: dict[str, Tensor], ended: Tensor) -> None:
    """Move to the pending observations; a row that ended keeps the inputs that it last acted upon."""
    carry.memory = choice.memory.detach()
    carry.inputs = _replace_rows(following, carry.inputs, ~(carry.has_ended | ended))
    carry.has_ended = carry.has_ended | ended
    carry.episode_start = torch.zeros_like(carry.episode_start)


def _count(env: RolloutEnv, carry: RolloutCarry, result: EnvStep, valid: Tensor, ended: Tensor) -> None:
    carry.num_valid += int(valid.sum())
    carry.returns = (
        carry.returns + torch.where(valid, result.reward, torch.zeros_like(result.reward)).double()
    )
    carry.lengths = carry.lengths + valid
    for row in ended.nonzero().flatten().tolist():
        facts = result.summaries[row] if result.summaries else None
        carry.episodes.append(
            FinishedEpisode(
                name=env.names[row],
                total_reward=float(carry.returns[row]),
                num_steps=int(carry.lengths[row]),
                facts=facts or {},
            )
        )


def _reset_rows(
    env: RolloutEnv, carry: RolloutCarry, rows: Tensor, parts: CollectorParts, *, step: int
) -> None:
    """Begin new episodes; a row whose first observation is at fault goes on idling."""
    env.reset(rows)
    observed = dict(env.observe())
    faults = find_faulty_rows(observed, rows, parts.config)
    before = carry.inputs or _build_blank(observed)
    carry.inputs = _replace_rows(observed, before, (rows & ~faults.rows) | ~carry.has_ended)
    carry.has_ended = (carry.has_ended & ~rows) | faults.rows
    carry.episode_start = carry.episode_start | rows
    carry.num_begun = carry.num_begun + rows
    carry.returns = carry.returns.masked_fill(rows, 0.0)
    carry.lengths = carry.lengths.masked_fill(rows, 0)
    _report(env, carry, faults, parts, step=step)


def _report(
    env: RolloutEnv, carry: RolloutCarry, faults: FaultyRows, parts: CollectorParts, *, step: int
) -> None:
    for row, reason in sorted(faults.reasons.items()):
        found = QuarantinedRow(name=env.names[row], row=row, step=step, reason=reason)
        carry.quarantined.append(found)
        if parts.on_quarantine is not None:
            parts.on_quarantine(found)


# ------------------------------------------------------------------ tensors


def _replace_rows(new: PolicyInputs, old: PolicyInputs, where: Tensor) -> dict[str, Tensor]:
    """Return `new` in the rows where the flag [E] is True and `old` elsewhere."""
    shaped = {name: where.reshape(-1, *([1] * (tensor.dim() - 1))) for name, tensor in new.items()}
    return {name: torch.where(shaped[name], tensor, old[name]) for name, tensor in new.items()}


def _build_blank(inputs: PolicyInputs) -> dict[str, Tensor]:
    """Return inputs that any network can take: zeros, and every mask open."""
    return {
        name: torch.ones_like(tensor) if tensor.dtype is torch.bool else torch.zeros_like(tensor)
        for name, tensor in inputs.items()
    }


def _compute_values(
    network: ActorCritic, inputs: PolicyInputs, memory: Memory, parts: CollectorParts
) -> Tensor:
    """Return [E] raw values of observations that follow the last step, with the memory after it."""
    moved = {name: tensor.to(parts.device) for name, tensor in parts.inputs.normalize(inputs).items()}
    goes_on = torch.zeros(len(next(iter(moved.values()))), dtype=torch.bool, device=parts.device)
    with torch.no_grad(), parts.autocast.context():
        return parts.values.denormalize(network.compute_values(moved, memory, goes_on))


def _compute_pending_values(network: ActorCritic, carry: RolloutCarry, parts: CollectorParts) -> Tensor:
    """Return [E] raw values of the pending observations; 0 for rows whose last episode ended."""
    goes_on = (~(carry.has_ended | carry.episode_start)).to(parts.device)
    values = _compute_values(network, carry.inputs, carry.memory, parts)
    return torch.where(goes_on, values, torch.zeros_like(values))
