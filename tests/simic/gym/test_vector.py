"""`GrowthVectorEnv`: three kinds of autoreset, infos like gymnasium's own vectors, rows like single ones."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from esper.leyline import ConfigError
from esper.simic.gym.single import GrowthEnv
from esper.simic.gym.spaces import Array, GymObservation, GymOptions
from esper.simic.gym.toys import (
    make_grow_toy,
    make_grow_toy_vector,
    make_masked_recall,
    make_masked_recall_vector,
)
from esper.simic.gym.vector import GrowthVectorEnv
from simic.gym.fake_growth import FakeGrowth

MODULE = "esper.simic.gym.toys:"
E = 3
Actions = NDArray[np.int64]


def draw(masks: NDArray[np.bool_], source: np.random.Generator) -> Actions:
    """Draw one flat legal action per row."""
    return np.array([source.choice(np.flatnonzero(row)) for row in masks])


def flat(observations: GymObservation) -> Array:
    """The observations of a flat mode."""
    assert isinstance(observations, np.ndarray)
    return observations


def scripted(t: int) -> int:
    """A fixed policy on the flat actions of GrowToy that differs with the step of an episode."""
    return (1, 4, 0, 0, 5, 3, 7, 8)[t % 8]


def play(mode: AutoresetMode, num_episodes: int = 3) -> list[list[tuple[float, int]]]:
    """Return (return, length) of the first episodes of each row under the scripted policy."""
    env = make_grow_toy_vector(
        E, obs_mode="flat", flatten_actions=True, autoreset_mode=mode, max_episode_steps=11
    )
    env.reset(seed=5)
    lengths, totals = [0] * E, [0.0] * E
    was_over = np.zeros(E, dtype=np.bool_)
    done: list[list[tuple[float, int]]] = [[] for _ in range(E)]
    while min(map(len, done)) < num_episodes:
        _, rewards, terminated, truncated, _ = env.step(np.array([scripted(t) for t in lengths]))
        for row in range(E):
            if was_over[row] and mode is AutoresetMode.NEXT_STEP:
                assert rewards[row] == 0.0
                assert not terminated[row]
                continue
            totals[row] += rewards[row]
            lengths[row] += 1
            if terminated[row] or truncated[row]:
                done[row].append((round(float(totals[row]), 6), lengths[row]))
                totals[row], lengths[row] = 0.0, 0
        was_over = terminated | truncated
        if mode is AutoresetMode.DISABLED and was_over.any():
            env.reset(options={"reset_mask": was_over})
    env.close()
    return [row[:num_episodes] for row in done]


def test_three_modes_give_the_same_episodes() -> None:
    expected = play(AutoresetMode.SAME_STEP)
    assert expected == play(AutoresetMode.NEXT_STEP)
    assert expected == play(AutoresetMode.DISABLED)
    assert {length for row in expected for _, length in row} == {11}


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("kind", ["grow_toy", "masked_recall", "fake"])
def test_a_vector_equals_gymnasiums_loop_over_single_environments(mode: AutoresetMode, kind: str) -> None:
    options = GymOptions(flatten_actions=True, invalid_penalty=0.1)

    def single() -> GrowthEnv:
        if kind == "grow_toy":
            return make_grow_toy(flatten_actions=True, invalid_penalty=0.1)
        if kind == "masked_recall":
            return make_masked_recall(corridor=2, flatten_actions=True, invalid_penalty=0.1)
        return GrowthEnv(lambda seed: FakeGrowth((seed,)), options=options)

    if kind == "grow_toy":
        native = make_grow_toy_vector(E, flatten_actions=True, invalid_penalty=0.1, autoreset_mode=mode)
    elif kind == "masked_recall":
        native = make_masked_recall_vector(
            E, corridor=2, flatten_actions=True, invalid_penalty=0.1, autoreset_mode=mode
        )
    else:
        native = GrowthVectorEnv(FakeGrowth, E, options=options, autoreset_mode=mode)
    loop = SyncVectorEnv([single] * E, autoreset_mode=mode)
    assert native.single_observation_space == loop.single_observation_space
    assert native.observation_space == loop.observation_space
    assert native.action_space == loop.action_space
    assert native.metadata["autoreset_mode"] is mode
    assert data_equivalence(native.reset(seed=9), loop.reset(seed=9), exact=True)
    source = np.random.default_rng(0)
    for t in range(40):
        actions = draw(native.action_masks(), source) if t % 3 else source.integers(0, 8, E)
        one, other = native.step(actions), loop.step(actions)
        assert data_equivalence(one, other, exact=True), (t, one, other)
        over = one[2] | one[3]
        if mode is AutoresetMode.DISABLED and over.any():
            reset = {"reset_mask": over}
            assert data_equivalence(
                native.reset(options=dict(reset)), loop.reset(options=dict(reset)), exact=True
            )
    native.close()
    loop.close()


def test_the_mask_of_a_reset_belongs_to_the_new_episode() -> None:
    env = make_masked_recall_vector(4, corridor=1, obs_mode="flat", flatten_actions=True)
    env.reset(seed=0)
    env.step(np.zeros(4, dtype=np.int64))
    observations, _, terminated, _, infos = env.step(np.zeros(4, dtype=np.int64))
    assert terminated.all()
    assert isinstance(observations, np.ndarray)
    assert observations[:, :4].sum() == 4.0
    mask = infos["action_mask"]
    assert isinstance(mask, np.ndarray)
    assert mask.tolist() == [[1, 0, 0, 0, 0, 0, 0, 0]] * 4
    assert np.array_equal(mask == 1, env.action_masks())
    final = infos["final_obs"]
    assert isinstance(final, np.ndarray)
    assert all(row[:4].sum() == 0.0 for row in final)
    facts = infos["final_info"]
    assert isinstance(facts, dict)
    assert facts["episode_length"].tolist() == [2] * 4


def test_rows_end_at_different_steps_after_a_partial_reset() -> None:
    env = make_grow_toy_vector(2, obs_mode="flat", flatten_actions=True, autoreset_mode="Disabled")
    env.reset(seed=0)
    for _ in range(4):
        env.step(np.array([0, 0]))
    _, infos = env.reset(options={"reset_mask": np.array([False, True])})
    assert np.asarray(infos["_action_mask"]).tolist() == [False, True]
    for _ in range(12):
        _, _, terminated, _, _ = env.step(np.array([0, 0]))
    assert terminated.tolist() == [True, False]
    with pytest.raises(AssertionError, match=r"rows \[0\] have ended"):
        env.step(np.array([0, 0]))


def test_step_torch_gives_the_true_next_observation_and_what_to_decide_from() -> None:
    env = make_grow_toy_vector(2, obs_mode="flat")
    env.reset(seed=3)
    for _ in range(15):
        taken = env.step_torch(torch.zeros(2, 3, dtype=torch.int64))
        assert torch.equal(taken.inputs["features"], taken.transition.inputs["features"])
    taken = env.step_torch(torch.zeros(2, 3, dtype=torch.int64))
    assert taken.transition.terminated.tolist() == [True, True]
    assert taken.transition.inputs["features"][:, 0].tolist() == [0.0, 0.0]
    assert taken.inputs["features"][:, 0].tolist() == [1.0, 1.0]
    assert sorted(taken.facts) == [0, 1]
    assert env.telemetry()["num_episodes"] == 2


def test_seeds_may_be_given_per_row() -> None:
    env = make_grow_toy_vector(8, obs_mode="flat")
    together = flat(env.reset(seed=4)[0])
    assert np.array_equal(together, flat(env.reset(seed=list(range(4, 12)))[0]))
    assert np.array_equal(together[::-1], flat(env.reset(seed=list(range(11, 3, -1)))[0]))
    assert len(set(map(tuple, together.tolist()))) > 1
    with pytest.raises(ValueError, match="2 seeds for 8 rows"):
        env.reset(seed=[1, 2])


def test_unseeded_resets_go_on_with_each_rows_own_stream() -> None:
    env, again = make_grow_toy_vector(3, obs_mode="flat"), make_grow_toy_vector(3, obs_mode="flat")
    env.reset(seed=4)
    again.reset(seed=4)
    for _ in range(4):
        assert np.array_equal(flat(env.reset()[0]), flat(again.reset()[0]))
    fresh = make_grow_toy_vector(2)
    fresh.reset()
    fresh.step(np.zeros((2, 3), dtype=np.int64))


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        (np.array([1, 0]), TypeError),
        ([True, False], TypeError),
        (np.array([True]), ValueError),
        (np.array([False, False]), ValueError),
    ],
)
def test_a_reset_mask_of_another_kind_is_refused(mask: object, error: type[Exception]) -> None:
    env = make_grow_toy_vector(2, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    with pytest.raises(error, match="reset_mask"):
        env.reset(options={"reset_mask": mask})


def test_misuse_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_envs=0"):
        make_grow_toy_vector(0)
    with pytest.raises(ConfigError, match="max_episode_steps=0"):
        make_grow_toy_vector(1, max_episode_steps=0)
    with pytest.raises(ValueError, match="3 rows for 2 seeds"):
        GrowthVectorEnv(lambda seeds: FakeGrowth((*seeds, 1)), 2)
    env = make_grow_toy_vector(2)
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="only 'reset_mask'"):
        env.reset(options={"mask": 1})
    with pytest.raises(ConfigError, match="reseed all rows"):
        env.reset(seed=1, options={"reset_mask": np.array([True, False])})
    with pytest.raises(ValueError, match="expected a member"):
        env.step(np.array([[4, 0, 0], [0, 0, 0]]))
    env.close()
    env.close()


def test_make_vec_prefers_the_native_vector_and_hands_it_the_time_limit() -> None:
    spec = EnvSpec(
        "test/Toy-v0",
        entry_point=MODULE + "make_grow_toy",
        vector_entry_point=MODULE + "make_grow_toy_vector",
        max_episode_steps=3,
    )
    env = gymnasium.make_vec(spec, num_envs=2, obs_mode="flat")
    assert isinstance(env.unwrapped, GrowthVectorEnv)
    env.reset(seed=0)
    ends = [env.step(np.zeros((2, 3), dtype=np.int64)) for _ in range(3)]
    assert [step[3].tolist() for step in ends] == [[False, False], [False, False], [True, True]]
    facts = ends[-1][4]["final_info"]
    assert facts["termination_reason"].tolist() == ["time_limit"] * 2


@pytest.mark.slow
@pytest.mark.dist
def test_gymnasiums_processes_give_the_same_rows() -> None:
    spec = EnvSpec("test/Toy-v0", entry_point=MODULE + "make_grow_toy")
    env = gymnasium.make_vec(
        spec,
        num_envs=2,
        vectorization_mode="async",
        obs_mode="flat",
        vector_kwargs={"context": "spawn", "daemon": False, "shared_memory": True},
    )
    native = make_grow_toy_vector(2, obs_mode="flat", autoreset_mode=AutoresetMode.NEXT_STEP)
    try:
        assert data_equivalence(env.reset(seed=0), native.reset(seed=0), exact=True)
        for _ in range(20):
            actions = np.array([[1, 0, 0], [0, 0, 0]])
            assert data_equivalence(env.step(actions), native.step(actions), exact=True)
    finally:
        env.close()
