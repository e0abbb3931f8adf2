"""Every toy task keeps the contract of `ToyTask`: bounded features, masks to draw from."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.simic.interfaces import RolloutEnv
from esper.simic.toys.grow_toy import build_grow_toy
from esper.simic.toys.joint_bandit import build_joint_bandit
from esper.simic.toys.masked_recall import build_masked_recall
from esper.tamiyo import ActionLogits, ActionMask, JointDistribution, PolicyInputs

Build = Callable[[tuple[int, ...]], RolloutEnv]
BUILDERS: tuple[Build, ...] = (
    build_grow_toy,
    lambda seeds: build_grow_toy(seeds, is_hidden=True),
    build_masked_recall,
    build_joint_bandit,
)


def uniform_policy(env: RolloutEnv, inputs: PolicyInputs) -> JointDistribution:
    """Return a policy with equal logits under the masks of the inputs."""
    mask = ActionMask(
        op=inputs["mask_op"], slot=inputs.get("mask_slot"), blueprint=inputs.get("mask_blueprint")
    )
    logits = ActionLogits(
        op=torch.zeros(mask.op.shape),
        slot=None if mask.slot is None else torch.zeros(mask.slot.shape),
        blueprint=None if mask.blueprint is None else torch.zeros(mask.blueprint.shape),
    )
    return JointDistribution(env.layout, logits, mask)


@pytest.mark.parametrize("build", BUILDERS)
@given(seed=st.integers(0, 2**31))
@settings(max_examples=10)
def test_a_toy_gives_bounded_features_and_masks_to_draw_from(build: Build, seed: int) -> None:
    env = build((seed, seed + 1))
    env.reset(torch.ones(2, dtype=torch.bool))
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(2, dtype=torch.float64)
    for _ in range(20):
        inputs = env.observe()
        assert inputs["features"].dtype is torch.float32
        assert bool((inputs["features"].abs() <= 1.0).all())
        policy = uniform_policy(env, inputs)
        policy.check_not_empty(env.names)
        step = env.step(policy.sample(torch.rand(policy.mode().shape, generator=generator)))
        total += step.reward.double()
        assert torch.allclose(torch.stack(list(step.terms.values())).sum(dim=0), step.reward, atol=1e-7)
        for key, value in env.observe().items():
            assert torch.equal(step.inputs[key], value)
        if bool(step.ended.any()):
            assert bool(step.ended.all())
            for row, summary in enumerate(step.summaries):
                assert summary is not None
                assert summary["return"] == pytest.approx(float(total[row]), abs=1e-6)
            break
    else:
        pytest.fail("the episode did not end")
    idle = env.step(torch.zeros(2, len(env.layout.heads), dtype=torch.int64))
    assert not bool(idle.is_valid.any())
    assert not bool(idle.ended.any())
    assert idle.reward.tolist() == [0.0, 0.0]
