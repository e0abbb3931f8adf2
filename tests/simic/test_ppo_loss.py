"""Terms of the objective against enumeration, hand-written sums, and two independent implementations."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace

import gymnasium
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure
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

from esper.simic.config import PPOConfig, TrainingConfig
from esper.simic.ppo_loss import (
    MAX_LOG_RATIO,
    TERMS,
    LossCoefs,
    LossTargets,
    Surrogate,
    SurrogateInputs,
    build_targets,
    compute_entropy_ceilings,
    compute_entropy_means,
    compute_entropy_shares,
    compute_floor_penalties,
    compute_loss,
    compute_surrogate,
    compute_value_loss,
    compute_zero,
)
from esper.tamiyo import ActionLayout, SequenceEvaluation

from .tiny_networks import GROWTH_LIKE, Script, build_bench

CLIP = 0.2
R, T, H = 3, 6, 4


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def number(x: Tensor | float) -> float:
    """A scalar as a plain number, whether or not it is part of a graph."""
    return x.detach().item() if isinstance(x, Tensor) else x


def coin(*shape: int, seed: int, share: float = 0.6) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share


def case(seed: int = 0, *, spread: float = 0.3) -> SurrogateInputs:
    active = coin(R, T, H, seed=seed + 1)
    active[..., 0] = True
    anchor = -draw(R, T, H, seed=seed + 2).abs()
    log_probs = (anchor + spread * draw(R, T, H, seed=seed + 3)).requires_grad_()
    return SurrogateInputs(log_probs, anchor, active, draw(R, T, seed=seed + 4), coin(R, T, seed=seed + 5))


def surrogate(x: SurrogateInputs, mode: str = "joint", *, num_learn: float | None = None) -> Surrogate:
    count = number(x.learn.sum()) if num_learn is None else num_learn
    return compute_surrogate(x, count, clip_range=CLIP, clip_mode=mode)


def gradient(loss: Tensor, x: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss, x)
    return found


# ---------------------------------------------------------------------- policy term


@pytest.mark.parametrize("mode", ["joint", "per_head"])
def test_the_surrogate_is_the_sum_that_the_formula_says(mode: str) -> None:
    x = case()
    total, num_clipped, kl = 0.0, 0.0, 0.0
    for r in range(R):
        for t in range(T):
            if not bool(x.learn[r, t]):
                continue
            logs = [
                number(x.log_probs[r, t, h] - x.anchor[r, t, h]) for h in range(H) if bool(x.active[r, t, h])
            ]
            ratios = [math.exp(sum(logs))] if mode == "joint" else [math.exp(log) for log in logs]
            a = number(x.advantage[r, t])
            total += sum(min(q * a, min(max(q, 1 - CLIP), 1 + CLIP) * a) for q in ratios)
            num_clipped += sum(abs(q - 1) > CLIP for q in ratios) / len(ratios)
            kl += math.exp(sum(logs)) - 1 - sum(logs)
    count = int(x.learn.sum())
    found = surrogate(x, mode)
    assert number(found.loss) == pytest.approx(-total / count, rel=1e-12)
    assert number(found.clip_fraction) == pytest.approx(num_clipped / count, rel=1e-6)
    assert number(found.kl) == pytest.approx(kl / count, rel=1e-10)


class TwoHeads(nn.Module):
    """Logits of two independent heads."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 3, dtype=torch.float64)
        self.second = nn.Linear(4, 5, dtype=torch.float64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(x), self.second(x)


def torchrl_case() -> tuple[ClipPPOLoss, TensorDict, TwoHeads, nn.Linear]:
    network, critic = TwoHeads(), nn.Linear(4, 1, dtype=torch.float64)
    keys = [("params", "a", "logits"), ("params", "b", "logits")]
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(network, in_keys=["observation"], out_keys=keys),
        ProbabilisticTensorDictModule(
            in_keys=["params"],
            out_keys=["a", "b"],
            distribution_class=CompositeDistribution,
            distribution_kwargs={"distribution_map": {"a": Categorical, "b": Categorical}},
            return_log_prob=True,
        ),
    )
    value = TensorDictModule(critic, in_keys=["observation"], out_keys=["state_value"])
    loss = ClipPPOLoss(
        actor,
        value,
        clip_epsilon=0.25,  # powers of two, and 1e-8 below: it keeps them, and their logarithms, in float32
        entropy_coeff=0.0625,
        critic_coeff=0.25,
        loss_critic_type="l2",
        normalize_advantage=False,
    )
    loss.set_keys(action=["a", "b"])
    with torch.no_grad():
        data = actor(TensorDict({"observation": draw(24, 4)}, [24]))
    for head, seed in (("a", 5), ("b", 6)):
        data[f"{head}_log_prob"] = data[f"{head}_log_prob"] + 0.2 * draw(24, seed=seed)
    data["sample_log_prob"] = data["a_log_prob"] + data["b_log_prob"]
    data["advantage"], data["value_target"] = draw(24, 1, seed=7), draw(24, 1, seed=8)
    return loss, data, network, critic


@pytest.mark.filterwarnings("ignore:::tensordict")
@pytest.mark.filterwarnings("ignore:::torchrl")
def test_a09_a13_loss_terms_and_gradients_equal_torchrl() -> None:
    with set_composite_lp_aggregate(True):
        oracle, data, network, critic = torchrl_case()
        theirs = oracle(data.clone())
        total = theirs["loss_objective"] + theirs["loss_critic"] + theirs["loss_entropy"]
        total.backward()
    their_gradients = [p.grad.clone() for p in [*oracle.parameters()] if p.grad is not None]

    logs = [torch.log_softmax(logits, dim=-1) for logits in network(data["observation"])]
    chosen = torch.stack(
        [x.gather(1, data[h][:, None])[:, 0] for h, x in zip("ab", logs, strict=True)], dim=-1
    )
    entropy = torch.stack([-(x.exp() * x).sum(dim=-1) for x in logs], dim=-1)
    everywhere = torch.ones(1, 24, dtype=torch.bool)
    counts = {"learn": 24.0, "weight": 24.0, "available/a": 24.0, "available/b": 24.0}
    targets = LossTargets(
        anchor_log_probs=torch.stack([data["a_log_prob"], data["b_log_prob"]], dim=-1)[None],
        anchor_values=torch.zeros(1, 24),
        advantage=data["advantage"].T,
        returns=data["value_target"].T,
        weights=everywhere.double(),
        learn=everywhere,
        ceiling=torch.tensor([3.0, 5.0]).log().expand(1, 24, 2),
        available=everywhere[..., None].expand(1, 24, 2),
    )
    scored = SequenceEvaluation(
        log_probs=chosen[None],
        active=everywhere[..., None].expand(1, 24, 2),
        entropy=entropy[None],
        values=critic(data["observation"]).T,
        num_valid=torch.full((1, 24), 15),
    )
    coefs = LossCoefs(PPOConfig(vf_coef=0.5, clip_range=0.25), {"a": 0.0625, "b": 0.0625}, {}, 0.0)
    found = compute_loss(scored, targets, counts, coefs)
    assert number(found.numbers["policy"]) == pytest.approx(number(theirs["loss_objective"]), abs=1e-8)
    assert 0.5 * number(found.numbers["value"]) == pytest.approx(number(theirs["loss_critic"]), abs=1e-10)
    assert -0.0625 * number(found.numbers["entropy"]) == pytest.approx(
        number(theirs["loss_entropy"]), abs=1e-10
    )
    parameters = [*network.parameters(), *critic.parameters()]
    for ours, expected in zip(torch.autograd.grad(found.total, parameters), their_gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)
    # What is called kl_approx there is the mean of old - new (k1), not k3.
    k1 = (targets.anchor_log_probs - scored.log_probs).sum(dim=-1).mean()
    assert number(theirs["kl_approx"]) == pytest.approx(number(k1), abs=1e-6)


@pytest.mark.filterwarnings("ignore:::stable_baselines3")
def test_a09_loss_terms_equal_stable_baselines3_after_its_factors() -> None:
    model = PPO(
        "MlpPolicy",
        gymnasium.make("CartPole-v1"),
        n_steps=32,
        batch_size=32,
        n_epochs=1,
        vf_coef=0.25,
        ent_coef=0.03,
        normalize_advantage=False,
        seed=0,
        device="cpu",
        policy_kwargs={"net_arch": [8]},
    )
    model.learn(32)  # one update, so that buffer and logger exist
    model.set_logger(configure(None, []))
    buffer = model.rollout_buffer
    buffer.log_probs += 0.3 * draw(32, 1).numpy().astype("float32")
    data = next(buffer.get(32))
    values, log_prob, entropy = model.policy.evaluate_actions(
        data.observations, data.actions.long().flatten()
    )
    assert entropy is not None
    mask = torch.ones(1, 32, dtype=torch.bool)
    x = SurrogateInputs(
        log_prob[None, :, None],
        data.old_log_prob[None, :, None],
        mask[..., None],
        data.advantages[None],
        mask,
    )
    ours = surrogate(x)
    value = compute_value_loss(values.T, data.returns[None], mask.float(), total_weight=32.0)
    model.train()
    logged = model.logger.name_to_value
    assert number(ours.loss) == pytest.approx(logged["train/policy_gradient_loss"], abs=1e-5)
    assert number(ours.clip_fraction) == pytest.approx(logged["train/clip_fraction"], abs=1e-6)
    assert number(ours.kl) == pytest.approx(logged["train/approx_kl"], abs=1e-5)
    assert 2 * number(value) == pytest.approx(logged["train/value_loss"], rel=1e-5)
    means = compute_entropy_means(entropy[None, :, None], mask, 32.0)
    assert -number(means.sum()) == pytest.approx(logged["train/entropy_loss"], abs=1e-6)
    total = ours.loss - 0.03 * means.sum() + 0.5 * value
    assert number(total) == pytest.approx(logged["train/loss"], rel=1e-5)


def test_a13_per_head_equals_joint_where_one_head_is_active() -> None:
    x = case()
    one = torch.zeros_like(x.active)
    one[..., 0] = True
    x = x._replace(active=one)
    joint, per_head = surrogate(x), surrogate(x, "per_head")
    assert number(joint.loss) == number(per_head.loss)
    assert number(joint.clip_fraction) == number(per_head.clip_fraction)
    assert torch.equal(gradient(joint.loss, x.log_probs), gradient(per_head.loss, x.log_probs))


@pytest.mark.parametrize("mode", ["joint", "per_head"])
def test_a13_heads_that_the_operation_does_not_use_get_no_gradient(mode: str) -> None:
    x = case()
    found = gradient(surrogate(x, mode).loss, x.log_probs)
    assert bool((found[~x.active] == 0).all())
    assert bool((found[~x.learn] == 0).all())
    assert bool((found != 0).any())


def test_a13_both_modes_have_one_gradient_where_the_weights_are_the_old_ones() -> None:
    x = case(spread=0.0)
    joint, per_head = (gradient(surrogate(x, mode).loss, x.log_probs) for mode in ("joint", "per_head"))
    torch.testing.assert_close(joint, per_head, rtol=0, atol=1e-10)
    expected = -torch.where(x.active & x.learn[..., None], x.advantage[..., None], 0.0) / number(
        x.learn.sum()
    )
    torch.testing.assert_close(joint, expected, rtol=0, atol=1e-10)


def test_a13_away_from_the_old_weights_the_modes_are_two_objectives() -> None:
    x = case()
    assert number(surrogate(x).loss) != pytest.approx(number(surrogate(x, "per_head").loss), rel=1e-3)


def test_log_ratios_are_clamped_and_counted() -> None:
    x = case()
    far = x.log_probs.detach().clone()
    far[0, 0, 0], far[1, 1, 0] = x.anchor[0, 0, 0] + 500.0, x.anchor[1, 1, 0] - 500.0
    learn = torch.ones(R, T, dtype=torch.bool)
    one = torch.zeros_like(x.active)
    one[..., 0] = True
    for mode in ("joint", "per_head"):
        found = surrogate(x._replace(log_probs=far, learn=learn, active=one), mode)
        assert int(found.num_clamped) == 2
        assert math.isfinite(number(found.loss))
        assert number(found.max_ratio) == pytest.approx(math.exp(MAX_LOG_RATIO))


@pytest.mark.parametrize("mode", ["joint", "per_head"])
def test_a_ratio_beyond_any_float_costs_what_the_largest_one_costs(mode: str) -> None:
    """A rise is not clipped where the advantage is negative, so that only the clamp bounds it."""
    shape = (1, 1, 1)
    far, learn = torch.full(shape, 1_000.0, requires_grad=True), torch.ones(1, 1, dtype=torch.bool)
    x = SurrogateInputs(far, torch.zeros(shape), learn[..., None], torch.full((1, 1), -1.0), learn)
    found = surrogate(x, mode)
    assert number(found.loss) == pytest.approx(math.exp(MAX_LOG_RATIO))
    assert gradient(found.loss, far).tolist() == [[[0.0]]]


# ---------------------------------------------------------------------- divergence


@pytest.mark.parametrize("seed", range(5))
def test_a14_k3_is_never_negative_and_is_zero_at_the_old_weights(seed: int) -> None:
    assert number(surrogate(case(seed, spread=2.0)).kl) > 0
    assert number(surrogate(case(seed, spread=0.0)).kl) == 0.0


def test_a14_the_expectation_of_k3_is_the_divergence() -> None:
    old, new = (torch.log_softmax(draw(7, seed=s), dim=-1) for s in (1, 2))
    learn = torch.ones(7, 1, dtype=torch.bool)
    each = [
        surrogate(
            SurrogateInputs(
                new[k].view(1, 1, 1), old[k].view(1, 1, 1), learn[:1, :, None], torch.zeros(1, 1), learn[:1]
            )
        ).kl
        for k in range(7)
    ]
    expected = (old.exp() * (old - new)).sum()
    assert number((old.exp() * torch.stack(each)).sum()) == pytest.approx(number(expected), abs=1e-10)
    sampled = torch.multinomial(
        old.exp(), 20_000, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    terms = torch.stack(each)[sampled]
    error = number(terms.std() / math.sqrt(len(terms)))
    assert abs(number(terms.mean()) - number(expected)) < 3 * error


# ---------------------------------------------------------------------- value term


def test_a09_the_value_loss_is_half_the_mean_square_over_what_is_valid() -> None:
    values, targets, valid = draw(R, T), draw(R, T, seed=1), coin(R, T, seed=2)
    found = compute_value_loss(values, targets, valid.double(), total_weight=number(valid.sum()))
    expected = 0.5 * (values - targets)[valid].square().mean()
    assert number(found) == pytest.approx(number(expected), rel=1e-12)


def test_a10_clipping_needs_the_anchor_s_values() -> None:
    ones = torch.ones(R, T)
    with pytest.raises(ValueError, match="needs the anchor's values"):
        compute_value_loss(ones, ones, ones, total_weight=18.0, clip=0.2)


def test_a10_clipped_it_is_the_larger_of_both_losses_on_the_normalised_scale() -> None:
    values, targets, anchor = (
        torch.tensor([[1.0, 1.0, 0.1]]),
        torch.tensor([[2.0, 0.0, 0.0]]),
        torch.zeros(1, 3),
    )
    ones = torch.ones(1, 3)
    found = compute_value_loss(values, targets, ones, total_weight=3.0, clip=0.2, anchor_values=anchor)
    expected = 0.5 * (max(1.0, 1.8**2) + max(1.0, 0.2**2) + 0.1**2) / 3
    assert number(found) == pytest.approx(expected, rel=1e-6)
    assert PPOConfig().value_clip is None


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_a10_the_clip_is_as_wide_below_the_anchor_as_above_it(side: float) -> None:
    value, target, anchor = (torch.full((1, 1), side * x) for x in (0.9, 1.0, 0.0))
    found = compute_value_loss(
        value, target, torch.ones(1, 1), total_weight=1.0, clip=0.2, anchor_values=anchor
    )
    assert number(found) == pytest.approx(0.5 * 0.8**2, rel=1e-6)


def test_forced_steps_weigh_in_the_value_loss_what_they_are_told_to() -> None:
    values, targets = torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2)
    weights = torch.tensor([[1.0, 0.2]])
    found = compute_value_loss(values, targets, weights, total_weight=1.2)
    assert number(found) == pytest.approx(0.5 * (1.0 + 0.2 * 9.0) / 1.2)


# ---------------------------------------------------------------------- entropy terms


def test_bug19_entropy_is_a_mean_over_the_steps_with_a_choice() -> None:
    entropy, learn = draw(R, T, H).abs(), coin(R, T, seed=1)
    found = compute_entropy_means(entropy, learn, number(learn.sum()))
    torch.testing.assert_close(found, entropy[learn].mean(dim=0))
    padded = [torch.cat([x, torch.full_like(x, fill)], dim=1) for x, fill in ((entropy, 9.0), (learn, False))]
    torch.testing.assert_close(compute_entropy_means(padded[0], padded[1], number(learn.sum())), found)


def growth_inputs(op: list[bool], slot: list[list[bool]], blueprint: list[list[bool]]) -> dict[str, Tensor]:
    named = {"mask_op": op, "mask_slot": slot, "mask_blueprint": blueprint}
    return {name: torch.tensor(mask)[None, None] for name, mask in named.items()}


def ceilings(inputs: dict[str, Tensor], layout: ActionLayout = GROWTH_LIKE) -> list[float]:
    return [math.exp(x) for x in compute_entropy_ceilings(layout, inputs)[0, 0].tolist()]


def test_ceilings_count_what_could_be_chosen() -> None:
    wide = [[False, False], [True, True], [True, False], [True, True]]
    blueprints = [[True, True, True], [True, False, False]]
    everything = growth_inputs([True, True, True, True], wide, blueprints)
    assert ceilings(everything) == pytest.approx([4.0, 2.0, 3.0, 2.0])
    only_cull = growth_inputs([True, False, True, False], wide, blueprints)
    assert ceilings(only_cull) == pytest.approx([2.0, 1.0, 1.0, 1.0])
    second_slot = growth_inputs(
        [True, True, False, False], [[False] * 2, [False, True], *wide[2:]], blueprints
    )
    assert ceilings(second_slot) == pytest.approx([2.0, 1.0, 1.0, 2.0])
    forced = growth_inputs([True, False, False, False], wide, blueprints)
    assert ceilings(forced) == pytest.approx([1.0, 1.0, 1.0, 1.0])


def test_shares_and_floors_are_over_the_steps_where_a_head_had_a_choice() -> None:
    ceiling = torch.tensor([[[2.0, 0.0], [2.0, 1.0], [1.0, 0.0]]])
    entropy = torch.tensor([[[1.0, 0.0], [0.2, 0.4], [0.9, 0.0]]], requires_grad=True)
    available = (ceiling > 0) & torch.tensor([[True, True, False]])[..., None]
    counts = [2.0, 1.0]
    shares = compute_entropy_shares(entropy, ceiling, available, counts)
    assert shares.tolist() == pytest.approx([(0.5 + 0.1) / 2, 0.4])
    penalties = compute_floor_penalties(entropy, ceiling, available, counts, [0.3, 0.5])
    assert penalties.tolist() == pytest.approx([0.2**2 / 2, 0.1**2])
    found = gradient(penalties.sum(), entropy)
    assert found[0, 1, 0] < 0
    assert found[0, 0, 0] == 0
    assert not bool(found[0, 2].any())


def test_no_floor_is_no_penalty() -> None:
    ones = torch.ones(1, 2, 1)
    assert compute_floor_penalties(ones * 0.0, ones, ones > 0, [2.0], [0.0]).tolist() == [0.0]


# ---------------------------------------------------------------------- all of it


def real_case(
    script: Script | None = None,
) -> tuple[SequenceEvaluation, LossTargets, dict[str, float], nn.Module]:
    """A scored rollout of the tiny network, with old log-probabilities moved away."""
    bench = build_bench(script=script)
    batch = bench.collect().batch
    network = bench.network
    scored = network.evaluate(batch.inputs, batch.actions, batch.memory, batch.steps.episode_start)
    ceiling = compute_entropy_ceilings(network.layout, batch.inputs)
    available = batch.learn[..., None] & (ceiling > 0)
    shape = batch.value.shape
    targets = LossTargets(
        anchor_log_probs=torch.where(scored.active, scored.log_probs.detach() + 0.2 * draw(*shape, 4), 0.0),
        anchor_values=draw(*shape, seed=1),
        advantage=draw(*shape, seed=2),
        returns=draw(*shape, seed=3),
        weights=batch.steps.valid.double(),
        learn=batch.learn,
        ceiling=ceiling,
        available=available,
    )
    return scored, targets, counts_of(targets), network


def counts_of(targets: LossTargets) -> dict[str, float]:
    counts = {"learn": number(targets.learn.sum()), "weight": number(targets.weights.sum())}
    per_head = targets.available.flatten(0, 1).sum(dim=0).tolist()
    return counts | {f"available/{h}": number(n) for h, n in zip(GROWTH_LIKE.heads, per_head, strict=True)}


def coefs(mode: str = "joint") -> LossCoefs:
    entropy = {"op": 0.05, "slot": 0.02, "blueprint": 0.03, "tempo": 0.04}
    config = PPOConfig(clip_mode=mode, value_clip=0.3)
    return LossCoefs(config, entropy, {"op": 0.99, "tempo": 0.95}, 0.3)


def pad(x: Tensor, fill: float) -> Tensor:
    return torch.cat([x, torch.full_like(x.detach(), fill)], dim=1)


@pytest.mark.parametrize("mode", ["joint", "per_head"])
@pytest.mark.parametrize("fill", [0.0, 7.0, math.nan])
def test_a17_doubling_the_padding_changes_no_loss_gradient_or_metric(mode: str, fill: float) -> None:
    scored, targets, counts, network = real_case()
    plain = compute_loss(scored, targets, counts, coefs(mode))
    masks = {"weights": 0.0, "learn": False, "available": False}
    padded = LossTargets(**{name: pad(x, masks.get(name, fill)) for name, x in targets._asdict().items()})
    wide = SequenceEvaluation(
        log_probs=pad(scored.log_probs, fill),
        active=pad(scored.active, True),
        entropy=pad(scored.entropy, fill),
        values=pad(scored.values, fill),
        num_valid=pad(scored.num_valid, 1),
    )
    found = compute_loss(wide, padded, counts, coefs(mode))
    for name, number in plain.numbers.items():
        torch.testing.assert_close(found.numbers[name], number, rtol=0, atol=1e-7)
    torch.testing.assert_close(found.max_ratio, plain.max_ratio)
    parameters = list(network.parameters())
    before = torch.autograd.grad(plain.total, parameters, retain_graph=True)
    after = torch.autograd.grad(found.total, parameters)
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-7)


@pytest.mark.parametrize("mode", ["joint", "per_head"])
def test_a32_forced_steps_change_no_policy_gradient(mode: str) -> None:
    x = case()
    plain = surrogate(x, mode)
    expected = gradient(plain.loss, x.log_probs)
    # A forced step has log-probability 0 under any weights, and an advantage like any other step.
    forced = torch.zeros(R, T, H, dtype=torch.float64, requires_grad=True)
    wide = SurrogateInputs(
        log_probs=torch.cat([x.log_probs, forced], dim=1),
        anchor=torch.cat([x.anchor, forced.detach()], dim=1),
        active=torch.cat([x.active, torch.ones_like(x.active)], dim=1),
        advantage=torch.cat([x.advantage, 100 + draw(R, T)], dim=1),
        learn=torch.cat([x.learn, torch.zeros_like(x.learn)], dim=1),
    )
    found = surrogate(wide, mode)
    for name in ("loss", "kl", "clip_fraction", "max_ratio"):
        assert number(getattr(found, name)) == pytest.approx(number(getattr(plain, name)), rel=1e-6)
    torch.testing.assert_close(gradient(found.loss, x.log_probs), expected)
    assert number(compute_entropy_means(forced, torch.zeros(R, T).bool(), 0.0).sum()) == 0.0


@pytest.mark.parametrize("mode", ["joint", "per_head"])
def test_without_a_learnable_step_the_policy_loss_is_zero_and_no_gradient_is_nan(mode: str) -> None:
    scored, targets, _, network = real_case()
    nothing = targets._replace(
        learn=torch.zeros_like(targets.learn),
        weights=torch.zeros_like(targets.weights),
        available=torch.zeros_like(targets.available),
    )
    loss = compute_loss(scored, nothing, counts_of(nothing), coefs(mode))
    assert number(loss.total) == 0.0
    assert number(loss.max_ratio) == 0.0
    assert not any(bool(loss.numbers[f"bad/{term}"]) for term in TERMS)
    total = loss.total + compute_zero(network.parameters())
    for found in torch.autograd.grad(total, list(network.parameters())):
        assert bool((found == 0).all())


def split_rows(
    scored: SequenceEvaluation, targets: LossTargets, rows: slice
) -> tuple[SequenceEvaluation, LossTargets]:
    return SequenceEvaluation(*(x[rows] for x in scored)), LossTargets(*(x[rows] for x in targets))


def only_first(num_learn: int, mask: Tensor) -> Tensor:
    """Keep the first `num_learn` True entries."""
    flat = mask.flatten().clone()
    flat[flat.nonzero().flatten()[num_learn:]] = False
    return flat.reshape(mask.shape)


@pytest.mark.parametrize(("small", "large"), [(7, 93), (0, 100)])
@pytest.mark.parametrize("mode", ["joint", "per_head"])
def test_a40_two_ranks_with_unequal_counts_have_the_gradient_of_one(
    small: int, large: int, mode: str
) -> None:
    bench = build_bench(num_envs=28, script=Script(lengths=(7,)))
    batch = bench.collect().batch
    network = bench.network
    scored = network.evaluate(batch.inputs, batch.actions, batch.memory, batch.steps.episode_start)
    ceiling = compute_entropy_ceilings(network.layout, batch.inputs)
    learn = torch.cat([only_first(small, batch.learn[:12]), only_first(large, batch.learn[12:])])
    assert (int(learn[:12].sum()), int(learn[12:].sum())) == (small, large)
    shape = batch.value.shape
    targets = LossTargets(
        anchor_log_probs=torch.where(scored.active, scored.log_probs.detach() + 0.2 * draw(*shape, 4), 0.0),
        anchor_values=draw(*shape, seed=1),
        advantage=draw(*shape, seed=2),
        returns=draw(*shape, seed=3),
        weights=learn.double(),
        learn=learn,
        ceiling=ceiling,
        available=learn[..., None] & (ceiling > 0),
    )
    counts, parameters = counts_of(targets), list(network.parameters())

    def gradients(rows: slice) -> list[Tensor]:
        part = split_rows(scored, targets, rows)
        loss = compute_loss(*part, counts, coefs(mode)).total * (2 if rows != slice(None) else 1)
        total = loss + compute_zero(parameters)
        return list(torch.autograd.grad(total, parameters, retain_graph=True))

    one = gradients(slice(None))
    ranks = zip(gradients(slice(0, 12)), gradients(slice(12, 28)), strict=True)
    for whole, (first, second) in zip(one, ranks, strict=True):
        torch.testing.assert_close((first + second) / 2, whole, rtol=0, atol=1e-10)
    assert any(bool((g != 0).any()) for g in one)


def test_the_total_is_put_together_as_documented() -> None:
    scored, targets, counts, _ = real_case()
    settings = coefs()
    found = compute_loss(scored, targets, counts, settings)
    policy, value, entropy, floors = (number(found.numbers[name]) for name in TERMS)
    heads = compute_entropy_means(scored.entropy, targets.learn, counts["learn"])
    bonus = sum(c * number(h) for c, h in zip(settings.entropy.values(), heads, strict=True))
    assert floors > 0
    assert entropy == pytest.approx(number(heads.sum()))
    assert number(found.total) == pytest.approx(
        policy + settings.ppo.vf_coef * value - bonus + floors, rel=1e-12
    )


def test_targets_have_the_discount_the_lambda_and_the_weights_of_the_configuration() -> None:
    bench = build_bench(script=Script(lengths=(3, 5)))
    batch = bench.collect().batch
    never = torch.zeros_like(batch.learn)
    num_valid, valid = torch.full_like(batch.num_valid, 2), ~never
    num_valid[:, 1:3], valid[:, -1] = 1, False
    steps = batch.steps._replace(terminated=never, truncated=never, episode_start=never, valid=valid)
    config = TrainingConfig(gamma=0.7, gae_lambda=0.3, ppo=PPOConfig(forced_value_weight=0.25))
    made = build_targets(replace(batch, num_valid=num_valid, steps=steps), bench.network.layout, config)
    reward, value, last = batch.steps.reward[0].tolist(), batch.value[0].tolist(), valid.shape[1] - 2
    first, second = (reward[t] + 0.7 * value[t + 1] - value[t] for t in (last - 1, last))
    assert made.advantage[0, last - 1 :].tolist() == pytest.approx([first + 0.7 * 0.3 * second, second, 0.0])
    weights = [1.0, 0.25, 0.25, *[1.0] * (last - 2), 0.0]
    assert made.weights.tolist() == [weights] * len(valid)


def test_every_term_says_whether_it_is_finite() -> None:
    scored, targets, counts, _ = real_case()
    spoil: dict[str, Callable[[], tuple[SequenceEvaluation, LossTargets]]] = {
        "policy": lambda: (scored, targets._replace(advantage=targets.advantage * math.nan)),
        "value": lambda: (scored, targets._replace(returns=targets.returns * math.inf)),
        "entropy": lambda: (scored._replace(entropy=scored.entropy * math.nan), targets),
    }
    for term, make in spoil.items():
        numbers = compute_loss(*make(), counts, coefs()).numbers
        bad = {name for name in TERMS if bool(numbers[f"bad/{name}"])}
        assert term in bad
        assert bad <= {term, "floors"}
    fine = compute_loss(scored, targets, counts, coefs()).numbers
    assert not any(bool(fine[f"bad/{name}"]) for name in TERMS)


def test_bug07_the_critic_sees_no_action() -> None:
    named = inspect.signature(build_bench().network.compute_values).parameters
    assert set(named) == {"inputs", "memory", "episode_start"}
    bench = build_bench()
    batch = bench.collect().batch
    others = torch.zeros_like(batch.actions)
    first, second = (
        bench.network.evaluate(batch.inputs, actions, batch.memory, batch.steps.episode_start).values
        for actions in (batch.actions, others)
    )
    assert torch.equal(first, second)
