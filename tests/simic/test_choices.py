"""The defaults of policy training are the chosen ones, one test per row of the list of choices.

Rows that are behaviour, not a default, are tested where the code is; their checks are named in the comments.
"""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch
from torch import nn

from esper.simic.config import PPOConfig, TrainingConfig
from esper.simic.gym.toys import make_grow_toy_vector
from esper.simic.ppo import KL_FACTOR
from esper.simic.ppo_loss import SurrogateInputs, compute_surrogate
from esper.tamiyo import NetworkConfig, build_network

from .tiny_networks import GROWTH_LIKE, NUM_BLUEPRINTS, NUM_FEATURES, NUM_SLOTS, Script, build_bench

CONFIG = TrainingConfig()


def test_c01_the_policy_is_autoregressive_and_factored_or_flat_on_request() -> None:
    assert NetworkConfig().factorisation == "conditional"
    assert NetworkConfig(kind="flat", factorisation="factored").factorisation == "factored"


def test_c02_one_ratio_of_the_whole_action_is_clipped_once() -> None:
    assert CONFIG.ppo.clip_mode == "joint"
    half = torch.full((1, 1, 2), 0.15)  # each part within the range of 0.2, the whole beyond it
    yes = torch.ones(1, 1, dtype=torch.bool)
    x = SurrogateInputs(half, torch.zeros(1, 1, 2), yes[..., None].expand(1, 1, 2), torch.ones(1, 1), yes)
    joint, per_head = (
        compute_surrogate(x, 1.0, clip_range=0.2, clip_mode=mode) for mode in ("joint", "per_head")
    )
    assert (float(joint.clip_fraction), float(per_head.clip_fraction)) == (1.0, 0.0)
    assert float(joint.loss) == pytest.approx(-1.2)


def test_c04_an_update_ends_at_one_and_a_half_times_the_target_and_not_at_all_on_request() -> None:
    assert (KL_FACTOR, CONFIG.ppo.target_kl) == (1.5, 0.015)
    assert PPOConfig(target_kl=0.0).target_kl == 0.0


def test_c05_the_value_loss_weighs_one_half_and_is_not_clipped() -> None:
    assert (CONFIG.ppo.vf_coef, CONFIG.ppo.value_clip) == (0.5, None)


def test_c06_returns_are_normalised_with_a_rescaled_last_layer() -> None:
    assert CONFIG.normalization.value_norm == "popart"
    for kind in ("welford", "none"):
        assert replace(CONFIG.normalization, value_norm=kind).value_norm == kind


def test_c07_advantages_are_normalised_once_per_rollout() -> None:
    assert CONFIG.ppo.advantage_norm == "rollout"
    for kind in ("minibatch", "returns", "none"):
        assert PPOConfig(advantage_norm=kind).advantage_norm == kind


def test_c08_the_horizon_is_part_of_the_task() -> None:
    assert CONFIG.rollout.horizon_semantics == "terminate"
    assert replace(CONFIG.rollout, horizon_semantics="truncate").horizon_semantics == "truncate"


def test_c10_rows_are_whole_episodes_unless_steps_are_asked_for() -> None:
    assert CONFIG.rollout.num_steps is None
    assert not CONFIG.rollout.resets_within_rows


# c09, c11: test_collector.py, a04 and a20; test_ppo.py, a12. c12: tamiyo/test_distributions.py, a25 to a27.


def test_c13_a_forced_step_is_in_the_value_loss_and_in_nothing_of_the_policy() -> None:
    script = Script(forced=lambda row, t: t % 2 == 0)
    bench = build_bench(script=script)
    batch = bench.collect().batch
    forced = batch.steps.valid & ~batch.learn
    assert bool(forced.any())
    assert bool((batch.num_valid[forced] == 1).all())
    assert bool((batch.num_valid[batch.learn] > 1).all())
    scored = bench.network.evaluate(batch.inputs, batch.actions, batch.memory, batch.steps.episode_start)
    assert not bool(scored.log_probs[forced].any())
    assert not bool(scored.entropy[forced].any())
    assert CONFIG.ppo.forced_value_weight == 1.0
    losses = []
    for weight in (1.0, 0.0):
        ppo = PPOConfig(epochs=1, target_kl=0.0, forced_value_weight=weight)
        twin = build_bench(TrainingConfig(ppo=ppo), script=script)
        losses.append(twin.learner.update(twin.collect().batch).metrics)
    for name in ("train/policy_gradient_loss", "train/entropy_loss", "train/approx_kl"):
        assert losses[0][name] == losses[1][name]
    assert losses[0]["train/value_loss"] != losses[1]["train/value_loss"]


def test_c14_a_vector_begins_anew_in_the_same_step() -> None:
    default = inspect.signature(make_grow_toy_vector).parameters["autoreset_mode"].default
    assert default.value == "SameStep"


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_c15_what_is_stored_for_the_ratio_is_float32_under_autocast(amp: str) -> None:
    bench = build_bench(TrainingConfig(amp=amp), dtype=torch.float32)
    batch = bench.collect().batch
    for tensor in (batch.log_probs, batch.value, batch.steps.reward, *batch.memory, *batch.bootstrap):
        assert tensor.dtype is torch.float32


def test_c16_adam_clip_gain_and_dropout() -> None:
    assert (CONFIG.ppo.adam_eps, CONFIG.ppo.max_grad_norm) == (1e-5, 0.5)
    bench = build_bench()
    (group,) = bench.learner._optimizer.param_groups
    assert isinstance(bench.learner._optimizer, torch.optim.Adam)
    assert group["eps"] == 1e-5
    network = build_network(
        NetworkConfig(
            kind="flat",
            hidden_size=12,
            core_size=10,
            core_layers=2,
            flat_features=NUM_FEATURES,
            flat_slots=NUM_SLOTS,
            flat_blueprints=NUM_BLUEPRINTS,
            family_size=1,
        ),
        GROWTH_LIKE,
        seed=0,
    )
    for layer in network.heads.policy_layers():
        # Orthogonal at gain 0.01: no direction is stretched beyond it.
        assert float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) == pytest.approx(0.01, rel=1e-4)
    memories = [module for module in network.modules() if isinstance(module, nn.LSTM)]
    assert memories
    assert all(lstm.dropout == 0.0 for lstm in memories)
