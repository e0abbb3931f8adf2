"""Spaces: finite, honest about what a growing host shows, and pinned by a digest."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from esper.leyline import ConfigError
from esper.simic.gym.single import GrowthEnv
from esper.simic.gym.spaces import GymInterface, GymOptions, pick_row, spaces_digest, split_mask
from esper.simic.gym.toys import make_grow_toy, make_grow_toy_vector, make_masked_recall
from simic.gym.fake_growth import FakeGrowth

TWO = torch.ones(2, dtype=torch.bool)


def build(obs_mode: str = "dict", *, flat_actions: bool = False) -> tuple[FakeGrowth, GymInterface]:
    """Return two rows of the fake and their spaces."""
    env = FakeGrowth((0, 1))
    env.reset(TWO)
    return env, GymInterface(env, GymOptions(obs_mode=obs_mode, flatten_actions=flat_actions))


def test_a_growing_host_shows_every_input_but_its_masks_within_finite_bounds() -> None:
    env, interface = build()
    space: object = interface.observation_space
    assert isinstance(space, spaces.Dict)
    assert list(space.spaces) == [
        "blueprint_exists",
        "blueprint_families",
        "blueprints",
        "global",
        "slot_exists",
        "slot_families",
        "slots",
    ]
    boxes = {key: box for key, box in space.spaces.items() if isinstance(box, spaces.Box)}
    assert len(boxes) == 7
    for box in boxes.values():
        assert box.dtype == np.float32
        assert bool(np.isfinite(box.low).all())
        assert bool(np.isfinite(box.high).all())
    bounds = {key: (float(box.low.min()), float(box.high.max())) for key, box in boxes.items()}
    assert bounds["global"] == (-10.0, 10.0)
    assert bounds["slot_exists"] == (0.0, 1.0)
    assert bounds["slot_families"][0] == 0.0
    inputs = env.observe()
    observations = interface.observations(inputs)
    assert isinstance(observations, dict)
    for key, shape in interface.shapes.items():
        assert np.array_equal(
            observations[key].reshape(2, *shape), inputs[key].float().clamp(-10, 10).numpy()
        )
    for row in range(2):
        assert space.contains(pick_row(observations, row))


def test_flat_observations_are_the_dict_ones_in_the_order_of_their_names() -> None:
    env, interface = build("flat")
    flat = interface.observations(env.observe())
    named = build()[1].observations(env.observe())
    assert isinstance(flat, np.ndarray)
    assert isinstance(named, dict)
    assert list(named) == sorted(named)
    assert np.array_equal(flat, np.concatenate(list(named.values()), axis=1))
    assert interface.observation_space.contains(pick_row(flat, 1))


def test_numbers_beyond_the_bound_are_clipped_and_non_finite_ones_refused() -> None:
    env, interface = build()
    observations = interface.observations(env.observe())
    assert isinstance(observations, dict)
    assert observations["global"][:, 2].tolist() == [10.0, 10.0]
    env.is_broken = True
    with pytest.raises(ValueError, match=r"fake/0.*'global'"):
        interface.observations(env.observe())


def test_action_spaces_are_one_column_per_head_or_one_number() -> None:
    env, interface = build()
    space = interface.action_space
    assert isinstance(space, spaces.MultiDiscrete)
    assert len(space.nvec) == 7
    assert interface.masks(env.observe()).shape == (2, int(space.nvec.sum()))
    env, interface = build(flat_actions=True)
    flat = interface.action_space
    assert isinstance(flat, spaces.Discrete)
    assert flat.n == len(interface.joint_actions)
    assert interface.masks(env.observe()).shape == (2, int(flat.n))


def test_a_cut_mask_is_what_gymnasium_samples_with() -> None:
    env, interface = build()
    space = interface.action_space
    assert isinstance(space, spaces.MultiDiscrete)
    mask = interface.masks(env.observe())[0]
    parts = split_mask(mask, space.nvec)
    assert [len(part) for part in parts] == list(space.nvec)
    space.seed(0)
    for _ in range(20):
        drawn = space.sample(mask=parts)
        assert all(part[index] == 1 for part, index in zip(parts, drawn, strict=True))
    with pytest.raises(ValueError, match="expected"):
        split_mask(mask[1:], space.nvec)


def test_the_digest_pins_spaces_and_rules() -> None:
    digest = spaces_digest(make_grow_toy())
    assert digest == spaces_digest(make_grow_toy())
    assert digest == spaces_digest(make_grow_toy_vector(3))
    others = [
        make_grow_toy(hidden=True),
        make_grow_toy(obs_mode="flat"),
        make_grow_toy(flatten_actions=True),
        make_masked_recall(),
        make_masked_recall(corridor=9),
    ]
    assert len({digest, *map(spaces_digest, others)}) == 1 + len(others)


def test_the_digest_of_a_foreign_environment_is_refused() -> None:
    with pytest.raises(TypeError, match="no rules"):
        spaces_digest(gymnasium.make("CartPole-v1"))
    env = make_grow_toy()
    env.action_space = spaces.Tuple([])  # type: ignore[assignment]
    with pytest.raises(TypeError, match="expected Dict"):
        spaces_digest(env)


@pytest.mark.parametrize("penalty", [-0.1, float("nan"), float("inf")])
def test_options_out_of_range_are_refused(penalty: float) -> None:
    with pytest.raises(ConfigError, match="invalid_penalty"):
        GymOptions(invalid_penalty=penalty)
    with pytest.raises(ConfigError, match="did you mean 'dict'"):
        GymOptions(obs_mode="dicts")


def test_growth_env_hands_out_fresh_spaces() -> None:
    first, second = make_grow_toy(), GrowthEnv(lambda seed: FakeGrowth((seed,)))
    assert first.interface.observation_space is not first.observation_space
    assert second.interface.action_space == second.action_space
