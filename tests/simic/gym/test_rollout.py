"""Any environment of gymnasium behind our seam: masks, ends, independent rows, exact restoring."""

from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from esper.leyline import ConfigError, ForeignCheckpointError
from esper.simic.collector import build_carry, collect_rollout
from esper.simic.config import RolloutConfig, TrainingConfig
from esper.simic.gym.rollout import GymRolloutEnv
from esper.simic.ppo import LearnerParts, PPOLearner
from esper.simic.rollout_buffer import Rollout, TamiyoRolloutBuffer
from esper.tamiyo import EmptyMaskError, NetworkConfig, build_network
from simic.gym_adapter import build_invalid_actions, build_pole
from simic.tiny_networks import build_parts


def everywhere(env: GymRolloutEnv) -> Tensor:
    """A mask of all rows."""
    return torch.ones(env.num_envs, dtype=torch.bool)


def play(env: GymRolloutEnv, num_steps: int, *, seed: int = 0) -> list[Tensor]:
    """Step with legal random actions that depend on the row alone; return features and rewards."""
    sources = [torch.Generator().manual_seed(seed + row) for row in range(env.num_envs)]
    seen = []
    for _ in range(num_steps):
        masks = env.observe()["mask_op"].float()
        actions = [int(torch.multinomial(m, 1, generator=g)) for m, g in zip(masks, sources, strict=True)]
        step = env.step(torch.tensor(actions)[:, None])
        seen.append(torch.cat([step.inputs["features"], step.reward[:, None]], dim=-1))
        env.reset(step.ended)
    return seen


def test_the_pole_without_velocities_shows_place_and_angle() -> None:
    env = build_pole((0, 1))
    env.reset(everywhere(env))
    inputs = env.observe()
    assert inputs["features"].shape == (2, 2)
    assert bool(inputs["mask_op"].all())
    assert env.names == ("CartPole-v1/0", "CartPole-v1/1")
    steps = [env.step(torch.zeros(2, 1, dtype=torch.int64)) for _ in range(15)]
    ended = torch.stack([step.terminated for step in steps])
    assert ended.sum(dim=0).tolist() == [1, 1]
    last = steps[int(ended[:, 0].int().argmax())]
    summary = last.summaries[0]
    assert summary is not None
    assert summary["reason"] == "terminated"
    assert summary["length"] == summary["return"] == int(ended[:, 0].int().argmax()) + 1
    assert not bool(steps[-1].is_valid.any())
    env.close()
    env.close()


def test_500_steps_of_a_balanced_pole_are_a_true_truncation() -> None:
    def build() -> gymnasium.Env[np.ndarray, int]:
        return gymnasium.make("CartPole-v1", max_episode_steps=5)

    env = GymRolloutEnv(build, (0,))
    env.reset(everywhere(env))
    steps = [env.step(torch.tensor([[t % 2]])) for t in range(5)]
    assert [bool(step.truncated) for step in steps] == [False] * 4 + [True]
    assert not any(bool(step.terminated) for step in steps)
    summary = steps[-1].summaries[0]
    assert summary is not None
    assert summary["reason"] == "time_limit"


def test_the_mask_never_hides_the_right_action() -> None:
    env = build_invalid_actions((0, 1, 2))
    env.reset(everywhere(env))
    total = torch.zeros(3)
    for t in range(100):
        inputs = env.observe()
        assert inputs["features"].shape == (3, 70)
        assert inputs["mask_op"].sum(dim=-1).tolist() == [15] * 3
        right = inputs["features"].argmax(dim=-1)
        assert bool(inputs["mask_op"].gather(1, right[:, None]).all())
        step = env.step(right[:, None])
        total += step.reward
        assert bool(step.truncated.all()) == (t == 99)
    assert total.tolist() == [100.0] * 3


def test_rows_do_not_disturb_each_other_nor_numpys_global_generator() -> None:
    np.random.seed(5)
    before = np.random.get_state(legacy=False)["state"]["key"]
    together = build_invalid_actions((3, 4))
    together.reset(everywhere(together))
    pair = play(together, 120)
    alone = build_invalid_actions((3,))
    alone.reset(everywhere(alone))
    for both, one in zip(pair, play(alone, 120), strict=True):
        assert torch.equal(both[:1], one)
    assert np.array_equal(before, np.random.get_state(legacy=False)["state"]["key"])


@pytest.mark.parametrize("build", [build_pole, build_invalid_actions])
def test_a21_a_restored_environment_goes_on_exactly(build: type) -> None:
    env = build((0, 1))
    env.reset(everywhere(env))
    play(env, 37)
    text = json.dumps(env.state())
    expected = play(env, 80, seed=7)
    other = build((0, 1))
    other.restore(json.loads(text))
    for left, right in zip(expected, play(other, 80, seed=7), strict=True):
        assert torch.equal(left, right)


def test_a_state_before_the_first_episode_is_restored_as_such() -> None:
    env = build_pole((0,))
    other = build_pole((0,))
    other.restore(env.state())
    assert not bool(other.step(torch.tensor([[0]])).is_valid.any())
    with pytest.raises(ForeignCheckpointError, match="seeds"):
        other.restore(build_pole((1,)).state())


def test_other_kinds_of_actions_are_refused() -> None:
    with pytest.raises(ConfigError, match="Discrete"):
        GymRolloutEnv(lambda: gymnasium.make("Pendulum-v1"), (0,))
    with pytest.raises(ConfigError, match="at least one seed"):
        GymRolloutEnv(lambda: gymnasium.make("CartPole-v1"), ())


class Answering(gymnasium.Env[object, np.int64]):
    """Answers whatever it is told to, from its second observation on."""

    def __init__(
        self, answer: object, mask: object = (True, True), *, width: int = 2, actions: int = 2
    ) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (width,), np.float32)
        self.action_space = spaces.Discrete(actions)
        self.answer, self.mask = answer, mask
        self.num_steps = 0

    def action_masks(self) -> object:
        return self.mask if self.num_steps else (True, True)

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[object, dict[str, object]]:
        super().reset(seed=seed)
        return np.zeros(2, dtype=np.float32), {}

    def step(self, action: np.int64) -> tuple[object, float, bool, bool, dict[str, object]]:
        self.num_steps += 1
        return self.answer, 0.0, False, False, {}


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Answering([0.5]), r"Answering/0: its observation has shape \(1,\); by its spaces it is \(2,\)"),
        (Answering([0.5] * 3), r"Answering/0: its observation has shape \(3,\)"),
        (Answering([0.5] * 2, [True]), r"Answering/0: action_masks\(\) has shape \(1,\); .* \(2,\)"),
        (Answering([0.5] * 2, [True] * 4), r"Answering/0: action_masks\(\) has shape \(4,\)"),
    ],
)
def test_an_answer_that_does_not_fit_the_spaces_is_refused_with_both_shapes(
    env: Answering, message: str
) -> None:
    rows = GymRolloutEnv(lambda: env, (0,))
    rows.reset(everywhere(rows))
    with pytest.raises(ConfigError, match=message):
        rows.step(torch.zeros(1, 1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Answering(0, actions=3), r"row 1 has action_space Discrete\(3\), row 0 has Discrete\(2\)"),
        (Answering(0, width=3), r"row 1 has observation_space Box\(-1\.0, 1\.0, \(3,\)"),
    ],
)
def test_rows_with_other_spaces_are_refused_with_both(other: Answering, message: str) -> None:
    kinds = iter([Answering(0), other])
    with pytest.raises(ConfigError, match=message):
        GymRolloutEnv(lambda: next(kinds), (0, 1))


def collect_from(env: Answering) -> Rollout:
    """Return a rollout of five steps of one row."""
    rows = GymRolloutEnv(lambda: env, (0,))
    network = build_network(
        NetworkConfig(kind="flat", hidden_size=4, core_size=4, flat_features=2, family_size=1),
        rows.layout,
        seed=0,
    )
    learner = PPOLearner(LearnerParts(network=network, config=TrainingConfig(), seed=0))
    device = torch.device("cpu")
    buffer = TamiyoRolloutBuffer(num_envs=1, num_steps=5, device=device)
    carry = build_carry(network, range(1), seed=0)
    return collect_rollout(rows, network, buffer, carry, build_parts(learner, RolloutConfig()))


def test_nan_of_an_environment_quarantines_it_by_name() -> None:
    rollout = collect_from(Answering([np.nan, 0.0]))
    (found,) = rollout.quarantined
    assert (found.name, found.step) == ("Answering/0", 0)
    assert found.reason == "input 'features' reached nan; at most 1e+06 is believed"
    assert rollout.num_valid == 0
    assert not bool(rollout.batch.steps.valid.any())


def test_an_environment_that_allows_nothing_is_an_error_and_not_a_uniform_draw() -> None:
    env = Answering([0.0, 0.0], [False, False])
    with pytest.raises(EmptyMaskError, match=r"no legal choice for head 'op'"):
        collect_from(env)
    assert env.num_steps == 1
