"""What single functions cannot show of a numbered check: the learner as a whole, peers, rows on processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import (
    CompositeDistribution,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    set_composite_lp_aggregate,
)
from torch import Tensor, nn
from torch.distributions import Categorical
from torchrl.objectives import ClipPPOLoss

from esper.leyline import WAIT, Action, ConfigError, LifecycleOp
from esper.simic.config import NormalizationConfig, PPOConfig, TrainingConfig
from esper.simic.growth_env import GrowthRolloutEnv
from esper.simic.ppo_loss import Loss, LossCoefs, LossTargets, compute_entropy_means, compute_loss
from esper.simic.rollout_buffer import RolloutBatch
from esper.tamiyo import EmptyMaskError, PolicyInputs, SequenceEvaluation
from tolaria.small_run import germinate

from .growing import HORIZON, all_rows, as_rows, make_env
from .tiny_networks import Bench, Script, TypedEnv, build_bench

# ---------------------------------------------------------------------- 8: what is not offered


@pytest.mark.parametrize("name", ["symlog", "two_hot"])
def test_a08_returns_are_not_squashed_and_asking_for_it_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"value_norm='{name}': .*known: none, popart, welford"):
        NormalizationConfig(value_norm=name)


# ---------------------------------------------------------------------- 16, 17: the whole update


def capture_targets(bench: Bench, batch: RolloutBatch, patch: pytest.MonkeyPatch) -> list[LossTargets]:
    """Return what the losses of an update were given."""
    seen: list[LossTargets] = []

    def look(
        scored: SequenceEvaluation, targets: LossTargets, counts: Mapping[str, float], coefs: LossCoefs
    ) -> Loss:
        seen.append(targets)
        return compute_loss(scored, targets, counts, coefs)

    patch.setattr("esper.simic.ppo.compute_loss", look)
    bench.learner.update(batch)
    return seen


def test_a16_advantages_have_mean_0_and_deviation_1_over_the_steps_with_a_choice_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = Script(forced=lambda row, t: (row + t) % 3 == 0)
    bench = build_bench(TrainingConfig(ppo=PPOConfig(num_minibatches=3, target_kl=0.0)), script=script)
    batch = bench.collect().batch
    seen = capture_targets(bench, batch, monkeypatch)
    assert 0 < int(batch.learn.sum()) < int(batch.steps.valid.sum())
    for epoch in range(4):
        targets = seen[3 * epoch : 3 * epoch + 3]
        learned = torch.cat([x.advantage[x.learn] for x in targets])
        assert len(learned) == int(batch.learn.sum())
        assert float(learned.mean()) == pytest.approx(0.0, abs=1e-9)
        assert float(learned.std()) == pytest.approx(1.0, rel=1e-6)
        # Forced steps are shifted with the others but do not count: theirs are not normalised by themselves.
        everywhere = torch.cat([x.advantage[x.weights > 0] for x in targets])
        assert abs(float(everywhere.mean())) > 1e-3


def pad(batch: RolloutBatch, fill: float) -> RolloutBatch:
    """Return the rollout with as many steps again that never happened, floating numbers at `fill`."""

    def double(x: Tensor, value: float = fill) -> Tensor:
        blank = torch.full_like(x, value) if x.is_floating_point() else torch.zeros_like(x)
        return torch.cat([x, blank], dim=1)

    inputs = {name: double(x) for name, x in batch.inputs.items()}
    masks = {name: torch.cat([x, x], dim=1) for name, x in batch.inputs.items() if x.dtype is torch.bool}
    steps = batch.steps
    return replace(
        batch,
        inputs={**inputs, **masks},
        actions=double(batch.actions),
        log_probs=double(batch.log_probs, 0.0),
        value=double(batch.value),
        num_valid=torch.cat([batch.num_valid, torch.ones_like(batch.num_valid)], dim=1),
        steps=steps._replace(**{name: double(x) for name, x in steps._asdict().items()}),
        bootstrap=batch.bootstrap._replace(next_value=double(batch.bootstrap.next_value, 0.0)),
        mask_hash=torch.cat([batch.mask_hash, batch.mask_hash], dim=1),
    )


@pytest.mark.parametrize("mode", ["joint", "per_head"])
@pytest.mark.parametrize("fill", [0.0, 7.0])
def test_a17_doubling_the_padding_changes_no_metric_and_no_weight_of_an_update(
    mode: str, fill: float
) -> None:
    config = TrainingConfig(ppo=PPOConfig(clip_mode=mode, num_minibatches=2, target_kl=0.0))
    # Every step is real before the padding: what counted padded ones would be right without it.
    plain, padded = (build_bench(config, script=Script(lengths=(7,))) for _ in range(2))
    metrics = [
        bench.learner.update(change(bench.collect().batch)).metrics
        for bench, change in ((plain, lambda batch: batch), (padded, lambda batch: pad(batch, fill)))
    ]
    assert set(metrics[0]) == set(metrics[1])
    for name, number in metrics[0].items():
        assert metrics[1][name] == pytest.approx(number, rel=1e-7, abs=1e-7), name
    for ours, theirs in zip(padded.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


# ---------------------------------------------------------------------- 27: nothing legal


class Stuck(TypedEnv):
    """A scripted environment that takes every operation away from one row at its third observation."""

    def observe(self) -> PolicyInputs:
        inputs = dict(super().observe())
        if self.t[1] == 2:
            inputs["mask_op"] = inputs["mask_op"].clone()
            inputs["mask_op"][1] = False
        return inputs


def test_a27_a_row_without_a_legal_action_stops_collecting_before_anything_is_carried_out() -> None:
    bench = build_bench()
    bench.env = Stuck(3, Script(lengths=(7,)), dtype=torch.float64)
    with pytest.raises(EmptyMaskError, match=r"scripted/1: no legal choice for head 'op'; WAIT must always"):
        bench.collect()
    assert len(bench.env.executed) == 2
    assert bench.env.t == [2, 2, 2]


# ---------------------------------------------------------------------- 33: coefficients per head


@pytest.mark.filterwarnings("ignore:::tensordict")
@pytest.mark.filterwarnings("ignore:::torchrl")
def test_a33_a_coefficient_for_each_head_weighs_as_torchrls_does() -> None:
    layer = nn.Linear(4, 8, dtype=torch.float64)
    coefs = {"a_entropy": 0.0625, "b_entropy": 0.5}

    class Split(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            first, second = layer(x).split([3, 5], dim=-1)
            return first, second

    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(
            Split(), in_keys=["observation"], out_keys=[("params", "a", "logits"), ("params", "b", "logits")]
        ),
        ProbabilisticTensorDictModule(
            in_keys=["params"],
            out_keys=["a", "b"],
            distribution_class=CompositeDistribution,
            distribution_kwargs={"distribution_map": {"a": Categorical, "b": Categorical}},
            return_log_prob=True,
        ),
    )
    critic = TensorDictModule(
        nn.Linear(4, 1, dtype=torch.float64), in_keys=["observation"], out_keys=["state_value"]
    )
    generator = torch.Generator().manual_seed(0)
    observation = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    with set_composite_lp_aggregate(False):
        loss = ClipPPOLoss(actor, critic, entropy_coeff=coefs, normalize_advantage=False)
        loss.set_keys(action=["a", "b"], sample_log_prob=["a_log_prob", "b_log_prob"])
        with torch.no_grad():
            data = actor(TensorDict({"observation": observation}, [20]))
        data["advantage"] = torch.ones(20, 1, dtype=torch.float64)
        data["value_target"] = torch.ones(20, 1, dtype=torch.float64)
        theirs = loss(data)["loss_entropy"]
    logs = [torch.log_softmax(x, dim=-1) for x in layer(observation).split([3, 5], dim=-1)]
    entropy = torch.stack([-(x.exp() * x).sum(dim=-1) for x in logs], dim=-1)[None]
    means = compute_entropy_means(entropy, torch.ones(1, 20, dtype=torch.bool), 20.0)
    ours = -(means * torch.tensor([*coefs.values()], dtype=torch.float64)).sum()
    assert float(ours.detach()) == pytest.approx(float(theirs.detach().sum()), abs=1e-6)


# ---------------------------------------------------------------------- 41: rows on processes


def play_growth(env: GrowthRolloutEnv) -> tuple[list[Tensor], list[Tensor]]:
    """Return inputs and rewards of every step of two episodes in which a seed is blended in."""
    inputs, rewards = [], []
    script = {0: germinate("block1"), 2: Action(op=LifecycleOp.ADVANCE, slot="block1")}
    for _ in range(2):
        env.reset(all_rows(env))
        for t in range(HORIZON):
            step = env.step(as_rows(env, *[script.get(t, WAIT)] * env.num_envs))
            inputs.append(torch.cat([x.flatten(1) for _, x in sorted(step.inputs.items())], dim=1))
            rewards.append(step.reward)
    return inputs, rewards


def with_numbers(first: int, count: int) -> GrowthRolloutEnv:
    """Return rows `first` .. of a run, as one process of several would hold them."""
    env, _ = make_env(count, instances=(0, 1, 2, 3))
    return GrowthRolloutEnv(replace(env._parts, env_ids=tuple(range(first, first + count))))


@pytest.mark.slow
def test_a41_growing_hosts_are_those_of_their_numbers_however_they_lie_on_processes() -> None:
    inputs, rewards = play_growth(with_numbers(0, 4))
    halves = [play_growth(with_numbers(first, 2)) for first in (0, 2)]
    for t, (seen, paid) in enumerate(zip(inputs, rewards, strict=True)):
        assert torch.equal(seen, torch.cat([half[0][t] for half in halves]))
        assert torch.equal(paid, torch.cat([half[1][t] for half in halves]))
    assert any(bool(paid.any()) for paid in rewards)
