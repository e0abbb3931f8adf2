"""The learner as a whole: ratios start at 1, bad steps are not taken, and nothing is forgotten."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from esper.leyline import ForeignCheckpointError, UnknownNameError
from esper.simic.config import (
    EntropyConfig,
    HeadNumbers,
    NormalizationConfig,
    PPOConfig,
    ScheduleConfig,
    TrainingConfig,
)
from esper.simic.minibatches import draw_groups
from esper.simic.ppo import KL_FACTOR, LearnerParts, PPOLearner, keep_gradients
from esper.simic.rollout_buffer import RolloutBatch
from esper.simic.schedules import compute_learning_rate
from esper.tamiyo import Memory, PolicyInputs, SequenceEvaluation
from esper.tolaria import CheckpointStore, StateRecord

from .thread_ranks import ThreadRanks
from .tiny_networks import FLAT, Bench, Script, TinyActorCritic, build_bench

FAST = PPOConfig(num_minibatches=1, learning_rate=0.05, target_kl=0.0)


def weights_of(network: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in network.parameters()]


def are_equal(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def train(bench: Bench, rounds: int) -> None:
    for _ in range(rounds):
        bench.learner.update(bench.collect().batch)


def spoil(batch: RolloutBatch, **columns: object) -> RolloutBatch:
    """Return the batch with other columns; those of its steps go by their own names."""
    inner = {name: x for name, x in columns.items() if name in batch.steps._fields}
    outer = {name: x for name, x in columns.items() if name not in batch.steps._fields}
    steps = batch.steps._replace(**inner)  # type: ignore[arg-type]
    return replace(batch, steps=steps, **outer)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- the ratio before the first step


def first_ratios(bench: Bench) -> Tensor:
    """[valid steps, H] ratios of sampling and scoring, row by row in the shapes of an update."""
    batch = bench.collect().batch
    with bench.learner.autocast.context():
        scored = bench.network.evaluate(batch.inputs, batch.actions, batch.memory, batch.steps.episode_start)
    return (scored.log_probs.detach() - batch.log_probs).exp()[batch.steps.valid]


@pytest.mark.parametrize("num_envs", [1, 4])
@pytest.mark.parametrize("num_steps", [3, 8])
@pytest.mark.parametrize(("dtype", "amp", "tolerance"), [
    (torch.float64, "off", 1e-6),
    (torch.float32, "off", 1e-5),
    (torch.float32, "bf16", 1e-3),
    (torch.float32, "fp16", 1e-3),
])  # fmt: skip
def test_a11_a38_bug03_the_ratio_is_1_for_every_head_and_step_before_the_first_optimiser_step(
    num_envs: int, num_steps: int, dtype: torch.dtype, amp: str, tolerance: float
) -> None:
    bench = build_bench(
        TrainingConfig(amp=amp), num_envs=num_envs, num_steps=num_steps, script=Script((5, 7)), dtype=dtype
    )
    for _ in range(3):  # the later rollouts start in mid-episode, from a memory that was carried
        ratios = first_ratios(bench)
        torch.testing.assert_close(ratios, torch.ones_like(ratios), rtol=0, atol=tolerance)


def test_a11_the_memory_matters_for_the_ratio() -> None:
    bench = build_bench(script=Script((9,)), num_steps=4)
    bench.collect()
    batch = bench.collect().batch
    forgotten = Memory(torch.zeros_like(batch.memory.hidden), torch.zeros_like(batch.memory.cell))
    scored = bench.network.evaluate(batch.inputs, batch.actions, forgotten, batch.steps.episode_start)
    assert float((scored.log_probs.detach() - batch.log_probs).abs().max()) > 1e-3


@pytest.mark.parametrize("num_minibatches", [1, 2, 3])
def test_a12_the_first_minibatch_has_ratio_exactly_1(num_minibatches: int) -> None:
    config = TrainingConfig(ppo=PPOConfig(epochs=1, num_minibatches=num_minibatches, target_kl=0.0))
    bench = build_bench(config, dtype=torch.float32)
    learner, batch = bench.learner, bench.collect().batch
    groups = draw_groups(batch.num_rows, num_minibatches, learner._generator)
    anchor, _ = learner._compute_anchor(batch, groups)
    rows = torch.tensor(groups[0])
    scored = learner._score(batch.select(rows))
    assert torch.equal(scored.log_probs.detach(), anchor[rows])


def test_a12_the_drift_of_a_sound_rollout_is_within_what_is_allowed() -> None:
    metrics = build_bench(dtype=torch.float32)
    report = metrics.learner.update(metrics.collect().batch)
    assert report.metrics["train/anchor_drift"] <= report.metrics["train/anchor_drift_allowed"] == 1e-5


def test_a12_a_rollout_that_scoring_does_not_repeat_is_reported_and_still_anchored() -> None:
    bench = build_bench(TrainingConfig(ppo=PPOConfig(num_minibatches=1, epochs=1, target_kl=0.0)))
    batch = bench.collect().batch
    report = bench.learner.update(spoil(batch, log_probs=batch.log_probs + 0.5))
    assert report.metrics["train/anchor_drift"] >= 0.5
    assert report.metrics["train/ratio_max"] == 1.0
    assert report.metrics["train/approx_kl"] == 0.0


# ---------------------------------------------------------------------- stopping


@pytest.mark.battery("T36")
def test_a15_the_offending_step_is_not_applied_and_steps_count_what_was_executed() -> None:
    config = TrainingConfig(ppo=PPOConfig(num_minibatches=1, learning_rate=0.1, target_kl=0.01, epochs=6))
    bench, twin = build_bench(config), build_bench(replace(config, ppo=replace(config.ppo, target_kl=0.0)))
    report = bench.learner.update(bench.collect().batch)
    assert report.is_stopped
    assert 1 <= report.num_steps < 6
    assert report.metrics["train/n_updates"] == report.metrics["train/num_steps"] == report.num_steps
    # The same rollout with exactly that many epochs and no stop ends at the same weights.
    exact = replace(config.ppo, target_kl=0.0, epochs=report.num_steps)
    same = build_bench(replace(config, ppo=exact))
    same.learner.update(same.collect().batch)
    assert are_equal(weights_of(bench.network), weights_of(same.network))
    assert twin.learner.update(twin.collect().batch).num_steps == 6


@pytest.mark.battery("T36")
def test_a15_the_stop_is_at_one_and_a_half_times_the_target() -> None:
    ppo = PPOConfig(num_minibatches=1, learning_rate=0.02, target_kl=0.0, epochs=2)
    free = build_bench(TrainingConfig(ppo=ppo))
    kl = 2 * free.learner.update(free.collect().batch).metrics["train/approx_kl"]  # the first of two is 0
    for factor, is_stopped in ((1.01, False), (0.99, True)):
        bench = build_bench(TrainingConfig(ppo=replace(ppo, target_kl=factor * kl / KL_FACTOR)))
        assert bench.learner.update(bench.collect().batch).is_stopped is is_stopped


def test_a15_executed_steps_are_counted_over_updates() -> None:
    bench = build_bench(TrainingConfig(ppo=PPOConfig(epochs=2, num_minibatches=3, target_kl=0.0)))
    counts = [bench.learner.update(bench.collect().batch).metrics["train/n_updates"] for _ in range(3)]
    assert counts == [6.0, 12.0, 18.0]


# ---------------------------------------------------------------------- rows, advantages, statistics


def test_a20_more_minibatches_than_rows_are_refused() -> None:
    bench = build_bench(TrainingConfig(ppo=PPOConfig(num_minibatches=4)))
    batch = bench.collect().batch
    with pytest.raises(ValueError, match=r"ppo.num_minibatches=4: .* there are 3; use at most 3"):
        bench.learner.update(batch)


@pytest.mark.parametrize("mode", ["rollout", "minibatch", "returns", "none"])
def test_a16_the_mode_decides_what_is_learned(mode: str) -> None:
    config = TrainingConfig(ppo=replace(FAST, advantage_norm=mode, num_minibatches=3))
    bench = build_bench(config)
    before = weights_of(bench.network)
    assert bench.learner.update(bench.collect().batch).num_steps == 12
    assert not are_equal(before, weights_of(bench.network))


def test_a16_normalised_over_the_rollout_the_scale_of_rewards_does_not_matter() -> None:
    benches = [build_bench(TrainingConfig(ppo=replace(FAST, vf_coef=0.0))) for _ in range(2)]
    for bench, scale in zip(benches, (1.0, 1000.0), strict=True):
        batch = bench.collect().batch
        zero = torch.zeros_like(batch.value)
        ends = type(batch.bootstrap)(zero, zero[:, 0])
        bench.learner.update(spoil(batch, reward=batch.steps.reward * scale, value=zero, bootstrap=ends))
    for ours, theirs in zip(*(weights_of(bench.network)[:-2] for bench in benches), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["rollout", "minibatch", "returns", "none"])
@pytest.mark.parametrize("num_learnable", [0, 1, 2])
def test_a16_none_one_and_two_learnable_steps_stay_finite(mode: str, num_learnable: int) -> None:
    script = Script(forced=lambda row, t: not (row == 0 and t < num_learnable))
    config = TrainingConfig(ppo=replace(FAST, advantage_norm=mode, num_minibatches=2))
    bench = build_bench(config, script=script)
    report = bench.learner.update(bench.collect().batch)
    assert report.num_steps == 8
    assert all(bool(w.isfinite().all()) for w in weights_of(bench.network))
    assert all(math.isfinite(x) for x in report.metrics.values())


def test_a16_divided_by_the_deviation_of_returns_a_quiet_round_moves_the_policy_less() -> None:
    """Rewards a thousandth as large: as loud by the rollout's own deviation, quiet by the kept one."""
    moved = {}
    for mode in ("rollout", "returns"):
        ppo = replace(FAST, advantage_norm=mode, vf_coef=0.0, max_grad_norm=1e9)
        entropy = EntropyConfig(start=0.0, end=0.0)
        norms = []
        bench = build_bench(TrainingConfig(ppo=ppo, entropy=entropy))
        for scale in (1.0, 1e-3):
            batch = bench.collect().batch
            zero = torch.zeros_like(batch.value)
            ends = type(batch.bootstrap)(zero, zero[:, 0])
            quiet = spoil(batch, reward=batch.steps.reward * scale, value=zero, bootstrap=ends)
            norms.append(bench.learner.update(quiet).metrics["train/grad_norm"])
        moved[mode] = norms[1] / norms[0]
    assert moved["rollout"] > 0.1
    assert moved["returns"] < 0.01


def test_a06_statistics_of_returns_move_once_per_update() -> None:
    bench = build_bench(TrainingConfig(ppo=PPOConfig(num_minibatches=3)))
    for count in (1, 2, 3):
        bench.learner.update(bench.collect().batch)
        assert bench.learner.value_normalizer.num_updates == count


def test_a09_the_value_loss_is_on_the_scale_of_normalised_returns() -> None:
    losses = []
    for scale in (1.0, 1e4):
        bench = build_bench(TrainingConfig(ppo=PPOConfig(num_minibatches=1, epochs=1, target_kl=0.0)))
        batch = bench.collect().batch
        zero = torch.zeros_like(batch.value)
        ends = type(batch.bootstrap)(zero, zero[:, 0])
        scaled = spoil(batch, reward=batch.steps.reward * scale, value=zero, bootstrap=ends)
        losses.append(bench.learner.update(scaled).metrics["train/value_loss"])
    # Half of mean^2 + deviation^2 over deviation^2 for a critic that still says about 0, on any scale.
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] < 1.0


def test_explained_variance_is_of_the_values_before_the_update() -> None:
    bench = build_bench(TrainingConfig(ppo=FAST))
    batch = bench.collect().batch
    report = bench.learner.update(batch)
    assert report.metrics["train/explained_variance"] == pytest.approx(0.0, abs=0.05)
    assert report.metrics["train/value_std"] == pytest.approx(
        float(batch.value[batch.steps.valid].std(correction=0)), rel=1e-6
    )


def test_the_critic_learns_the_returns() -> None:
    ppo = PPOConfig(num_minibatches=1, learning_rate=0.05, target_kl=0.0, epochs=12)
    bench = build_bench(
        TrainingConfig(ppo=ppo, schedule=ScheduleConfig(kind="constant", warmup_fraction=0.0))
    )
    batch = bench.collect().batch
    losses = [bench.learner.update(batch).metrics["train/value_loss"] for _ in range(3)]
    assert losses[2] < 0.5 * losses[0]


def test_entropy_floors_raise_the_entropy_of_the_head_that_has_one() -> None:
    def settings(floors: HeadNumbers) -> TrainingConfig:
        entropy = EntropyConfig(start=0.0, end=0.0, floors=floors, floor_coef=100.0)
        return TrainingConfig(
            entropy=entropy, ppo=replace(FAST, advantage_norm="none", vf_coef=0.0, epochs=12)
        )

    shares = []
    for floors in (HeadNumbers(), HeadNumbers(op=0.99)):
        bench = build_bench(settings(floors))
        with torch.no_grad():
            bench.network.op.weight.zero_()
            bench.network.op.bias.copy_(torch.tensor([3.0, 0.0, 0.0, 0.0]))
        batch = bench.collect().batch
        quiet = spoil(batch, reward=batch.steps.reward * 0)
        bench.learner.update(quiet)
        shares.append(bench.learner.update(quiet).metrics["train/entropy/op"])
    assert shares[1] > shares[0] + 0.2


def test_a_head_that_the_network_lacks_is_refused_with_the_list() -> None:
    config = TrainingConfig(entropy=EntropyConfig(floors=HeadNumbers(slot=0.1)))
    with pytest.raises(UnknownNameError, match="head of the action 'slot': known: op"):
        PPOLearner(LearnerParts(network=TinyActorCritic(FLAT), config=config, seed=0))


def test_a_network_that_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"needs an nn\.Module"):
        PPOLearner(LearnerParts(network=object(), config=TrainingConfig(), seed=0))  # type: ignore[arg-type]


def test_a28_masks_that_changed_after_sampling_are_refused() -> None:
    bench = build_bench()
    batch = bench.collect().batch
    batch.inputs["mask_op"][1, 2] ^= True
    before = weights_of(bench.network)
    with pytest.raises(RuntimeError, match="1 stored steps have other masks"):
        bench.learner.update(batch)
    assert are_equal(before, weights_of(bench.network))


# ---------------------------------------------------------------------- clipping, precision, faults


def test_a39_the_gradient_is_clipped_by_its_norm_over_all_parameters() -> None:
    seen: list[list[Tensor]] = []

    def parts(network: TinyActorCritic, config: TrainingConfig) -> LearnerParts:
        def record(parameters: Sequence[nn.Parameter]) -> None:
            seen.append([p.grad.clone() for p in parameters if p.grad is not None])

        return LearnerParts(network=network, config=config, seed=0, reduce_gradients=record)

    config = TrainingConfig(ppo=PPOConfig(num_minibatches=1, epochs=1, target_kl=0.0, max_grad_norm=0.01))
    bench = build_bench(config, learner_parts=parts)
    report = bench.learner.update(bench.collect().batch)
    (before,) = seen
    flat = torch.cat([g.flatten() for g in before])
    assert report.metrics["train/grad_norm"] == pytest.approx(float(flat.norm()), rel=1e-9)
    oracle = [nn.Parameter(torch.zeros_like(flat))]
    oracle[0].grad = flat.clone()
    nn.utils.clip_grad_norm_(oracle, 0.01)
    after = torch.cat([p.grad.flatten() for p in bench.network.parameters() if p.grad is not None])
    torch.testing.assert_close(after, oracle[0].grad, rtol=0, atol=1e-6)
    assert float(after.norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_bug08_every_parameter_has_a_gradient_after_an_anchor_pass(amp: str) -> None:
    bench = build_bench(TrainingConfig(amp=amp), dtype=torch.float32)
    assert bench.learner.update(bench.collect().batch).num_steps > 0
    for name, parameter in bench.network.named_parameters():
        assert parameter.grad is not None, name
        assert bool((parameter.grad != 0).any()), name


class Watching(TinyActorCritic):
    """Notes in which precision it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.dtype | None] = []

    def evaluate(
        self, inputs: PolicyInputs, actions: Tensor, memory: Memory, episode_start: Tensor
    ) -> SequenceEvaluation:
        self.seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return super().evaluate(inputs, actions, memory, episode_start)


@pytest.mark.parametrize(("amp", "dtype"), [("off", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_a38_anchor_and_epochs_score_in_the_precision_that_was_asked_for(
    amp: str, dtype: torch.dtype | None
) -> None:
    network, config = Watching(), TrainingConfig(amp=amp, ppo=PPOConfig(num_minibatches=1))
    batch = build_bench(config, dtype=torch.float32).collect().batch
    PPOLearner(LearnerParts(network=network, config=config, seed=0)).update(batch)
    assert network.seen == [dtype] * 5


def overflow_once(bench: Bench) -> None:
    """Make the next backward pass of the learner overflow."""

    def grow(grad: Tensor) -> Tensor:
        handle.remove()
        return grad * math.inf

    handle = bench.network.value_layer.weight.register_hook(grow)  # type: ignore[no-untyped-call]


def test_a38_an_overflow_skips_the_step_and_lowers_the_scale() -> None:
    bench = build_bench(
        TrainingConfig(amp="fp16", ppo=PPOConfig(num_minibatches=1, target_kl=0.0)), dtype=torch.float32
    )
    batch = bench.collect().batch
    overflow_once(bench)
    report = bench.learner.update(batch)
    assert report.num_steps == 3
    assert report.metrics["train/skipped/gradient"] == 1.0
    scaler = bench.learner.state().state["scaler"]
    assert isinstance(scaler, dict)
    assert scaler["scale"] == 32768.0
    assert all(bool(w.isfinite().all()) for w in weights_of(bench.network))


def test_a38_an_update_without_a_step_does_not_advance_the_schedule() -> None:
    ppo = PPOConfig(num_minibatches=1, epochs=1, target_kl=0.0)
    bench = build_bench(TrainingConfig(amp="fp16", ppo=ppo), dtype=torch.float32)
    batch = bench.collect().batch
    before, rate = weights_of(bench.network), bench.learner.learning_rate
    overflow_once(bench)
    assert bench.learner.update(batch).num_steps == 0
    assert (bench.learner.update_index, bench.learner.learning_rate) == (0, rate)
    assert are_equal(before[:-2], weights_of(bench.network)[:-2])  # the critic's layer follows the returns
    assert bench.learner.update(batch).num_steps == 1
    assert bench.learner.update_index == 1


def test_a38_gradients_are_unscaled_before_they_are_clipped() -> None:
    norms = []
    for amp in ("off", "fp16"):
        config = TrainingConfig(amp=amp, ppo=PPOConfig(num_minibatches=1, epochs=1, target_kl=0.0))
        bench = build_bench(config, dtype=torch.float32)
        norms.append(bench.learner.update(bench.collect().batch).metrics["train/grad_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


class Spoiled(TinyActorCritic):
    """Scores one quantity as not finite once gradients are asked for."""

    term = ""

    def evaluate(
        self, inputs: PolicyInputs, actions: Tensor, memory: Memory, episode_start: Tensor
    ) -> SequenceEvaluation:
        scored = super().evaluate(inputs, actions, memory, episode_start)
        if not torch.is_grad_enabled() or not self.term:
            return scored
        return scored._replace(**{self.term: getattr(scored, self.term) * math.nan})


@pytest.mark.battery("T29")
@pytest.mark.parametrize(
    ("field", "term"), [("log_probs", "policy"), ("values", "value"), ("entropy", "entropy")]
)
def test_bug09_a_term_that_is_not_finite_skips_the_step_and_is_counted(field: str, term: str) -> None:
    bench = build_bench()
    network = Spoiled().double()
    network.load_state_dict(bench.network.state_dict())
    config = TrainingConfig(ppo=PPOConfig(num_minibatches=1))
    learner = PPOLearner(LearnerParts(network=network, config=config, seed=0))
    batch = bench.collect().batch
    network.term = field
    before = weights_of(network)
    report = learner.update(batch)
    assert report.num_steps == 0
    assert report.metrics[f"train/skipped/{term}"] == 4.0
    assert sum(x for name, x in report.metrics.items() if name.startswith("train/skipped/")) == 4.0
    assert are_equal(before[:-2], weights_of(network)[:-2])
    network.term = ""
    assert learner.update(batch).num_steps == 4


def test_bug09_an_auxiliary_floor_that_is_not_finite_is_counted_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = build_bench(TrainingConfig(entropy=EntropyConfig(floors=HeadNumbers(op=0.5))))
    batch = bench.collect().batch
    monkeypatch.setattr(
        "esper.simic.ppo_loss.compute_floor_penalties",
        lambda entropy, *_: entropy.flatten(0, 1).sum(dim=0) * math.nan,
    )
    report = bench.learner.update(batch)
    assert report.metrics["train/skipped/floors"] == 4.0


@pytest.mark.parametrize("is_fused", [None, True, False])
def test_fused_kernels_are_a_setting(is_fused: bool | None) -> None:
    bench = build_bench(
        TrainingConfig(ppo=PPOConfig(num_minibatches=1, is_fused_optimizer=is_fused)), dtype=torch.float32
    )
    twin = build_bench(dtype=torch.float32)
    for each in (bench, twin):
        train(each, 2)
    for ours, theirs in zip(weights_of(bench.network), weights_of(twin.network), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_compiling_is_asked_for_once_and_for_this_network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, str]] = []

    def fake(function: Callable[..., SequenceEvaluation], *, mode: str) -> Callable[..., SequenceEvaluation]:
        asked.append((getattr(function, "__self__", None), mode))
        return function

    monkeypatch.setattr(torch, "compile", fake)
    bench = build_bench(TrainingConfig(compile="reduce-overhead"))
    build_bench()
    train(bench, 1)
    assert asked == [(bench.network, "reduce-overhead")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*instantiated:DeprecationWarning")
def test_a_compiled_update_equals_a_plain_one() -> None:
    script = Script(lengths=(2,), layout=FLAT)  # two steps: the loop over steps is unrolled by the compiler
    plain, compiled = (
        build_bench(
            TrainingConfig(compile=mode, ppo=PPOConfig(num_minibatches=1, epochs=2)),
            num_envs=2,
            num_steps=2,
            script=script,
        )
        for mode in ("none", "default")
    )
    for bench in (plain, compiled):
        train(bench, 1)
    for ours, theirs in zip(weights_of(compiled.network), weights_of(plain.network), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)


# ---------------------------------------------------------------------- going on after an interruption

EVERYTHING = TrainingConfig(
    amp="fp16",
    ppo=PPOConfig(learning_rate=0.01, num_minibatches=2),
    normalization=NormalizationConfig(inputs=("features",)),
)


def resume(first: Bench, second: Bench, record: StateRecord) -> None:
    second.learner.restore(record)
    second.carry.restore(first.carry.state())
    second.env.restore(first.env.state())


def test_a21_bug11_a_restored_learner_goes_on_bit_for_bit(tmp_path: Path) -> None:
    first, second = (build_bench(EVERYTHING, dtype=torch.float32) for _ in range(2))
    train(first, 3)
    store = CheckpointStore(tmp_path, kind="learner", esper_version="0")
    store.save("e0003-b00000", first.learner.state(), topology_hash="none")
    resume(first, second, store.load().record)
    assert second.learner.update_index == 3
    for bench in (first, second):
        train(bench, 3)
    assert are_equal(weights_of(first.network), weights_of(second.network))
    ours, theirs = first.learner.state(), second.learner.state()
    assert ours.state == theirs.state
    assert set(ours.tensors) == set(theirs.tensors)
    assert all(torch.equal(ours.tensors[name], theirs.tensors[name]) for name in ours.tensors)


def test_a37_a_resumed_learner_has_the_rate_of_the_uninterrupted_one() -> None:
    first, second = (build_bench() for _ in range(2))
    train(first, 7)
    second.learner.restore(first.learner.state())
    config = TrainingConfig()
    expected = compute_learning_rate(7, config.num_updates, config.ppo.learning_rate, config.schedule)
    assert second.learner.learning_rate == first.learner.learning_rate == expected
    assert second.learner.update(first.collect().batch).metrics["train/learning_rate"] == expected


def test_a_state_is_a_copy() -> None:
    bench = build_bench(TrainingConfig(ppo=FAST))
    train(bench, 1)
    record = bench.learner.state()
    before = copy.deepcopy(dict(record.tensors))
    train(bench, 1)
    assert all(torch.equal(before[name], x) for name, x in record.tensors.items())


def without(record: StateRecord, name: str) -> StateRecord:
    return replace(record, tensors={key: x for key, x in record.tensors.items() if key != name})


def test_a_state_of_another_learner_is_refused() -> None:
    bench = build_bench()
    train(bench, 1)
    record = bench.learner.state()
    flat = build_bench(script=Script(layout=FLAT))
    with pytest.raises(ForeignCheckpointError, match="of another shape"):
        flat.learner.restore(record)
    with pytest.raises(ForeignCheckpointError, match="does not fit"):
        flat.learner.restore(build_bench().learner.state())
    with pytest.raises(ForeignCheckpointError, match="random stream"):
        bench.learner.restore(without(record, "generator"))
    with pytest.raises(ForeignCheckpointError, match=r"'op\.weight' is incomplete"):
        bench.learner.restore(without(record, "optimizer.op.weight/exp_avg"))
    with pytest.raises(ForeignCheckpointError, match="loss scale"):
        build_bench(TrainingConfig(amp="fp16"), dtype=torch.float64).learner.restore(record)
    with pytest.raises(ForeignCheckpointError, match="lacks one of"):
        bench.learner.restore(replace(record, state={**record.state, "values": None}))


# ---------------------------------------------------------------------- several ranks


def run_ranks(
    config: TrainingConfig,
    splits: list[int],
    *,
    rounds: int = 2,
    change: Callable[[int, RolloutBatch], RolloutBatch] | None = None,
    script: Script | None = None,
) -> tuple[list[list[Tensor]], list[list[dict[str, float]]]]:
    """Train on as many ranks as there are splits; return weights and metrics of each."""
    ranks = ThreadRanks(len(splits))
    firsts = [sum(splits[:rank]) for rank in range(len(splits))]

    def parts_of(rank: int) -> Callable[[TinyActorCritic, TrainingConfig], LearnerParts]:
        return lambda network, config: LearnerParts(
            network=network,
            config=config,
            seed=0,
            collective=ranks.rank(rank),
            reduce_gradients=lambda parameters: ranks.mean_gradients(rank, parameters),
        )

    full = build_bench(config, num_envs=sum(splits), script=script)
    batches = []
    for _ in range(rounds):  # one policy collects for all, so that only the learning differs
        batches.append(full.collect().batch.select(torch.arange(sum(splits))))
    benches = [
        build_bench(config, num_envs=n, learner_parts=parts_of(r), script=script)
        for r, n in enumerate(splits)
    ]
    weights: list[list[Tensor]] = [[] for _ in splits]
    metrics: list[list[dict[str, float]]] = [[] for _ in splits]
    failures: list[BaseException] = []

    def work(rank: int) -> None:
        try:
            for batch in batches:
                rows = torch.arange(firsts[rank], firsts[rank] + splits[rank])
                mine = batch.select(rows)
                mine = mine if change is None else change(rank, mine)
                metrics[rank].append(dict(benches[rank].learner.update(mine).metrics))
            weights[rank] = weights_of(benches[rank].network)
        except BaseException as error:  # noqa: BLE001 - shown by the test below
            failures.append(error)
            ranks._barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(splits))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    return weights, metrics


STEADY = TrainingConfig(
    ppo=PPOConfig(num_minibatches=1, learning_rate=0.01, epochs=3, target_kl=0.0),
    entropy=EntropyConfig(floors=HeadNumbers(op=0.9)),
    is_sum_ordered=True,
)


@pytest.mark.parametrize("splits", [[2, 2], [1, 3], [1, 1, 2]])
@pytest.mark.parametrize("norm", ["rollout", "minibatch", "returns"])
def test_a40_ranks_learn_what_one_process_learns_from_all_rows(splits: list[int], norm: str) -> None:
    config = replace(STEADY, ppo=replace(STEADY.ppo, advantage_norm=norm))
    (alone,), (told,) = run_ranks(config, [4])
    weights, metrics = run_ranks(config, splits)
    for rank in range(len(splits)):
        for ours, theirs in zip(weights[rank], alone, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
        for mine, expected in zip(metrics[rank], told, strict=True):
            assert mine == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert all(are_equal(weights[0], other) for other in weights[1:])


@pytest.mark.battery("T26")
def test_a40_a_rank_without_any_learnable_step_takes_the_same_steps() -> None:
    script = Script(forced=lambda row, t: row == 0)
    (alone,), _ = run_ranks(STEADY, [4], script=script)
    weights, metrics = run_ranks(STEADY, [1, 3], script=script)
    for found in weights:
        for ours, theirs in zip(found, alone, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    assert metrics[0] == metrics[1]


@pytest.mark.battery("T25")
def test_a40_all_ranks_stop_at_the_same_minibatch() -> None:
    config = replace(STEADY, ppo=PPOConfig(learning_rate=0.1, epochs=6, num_minibatches=1, target_kl=0.01))
    (alone,), (told,) = run_ranks(config, [4], rounds=1)
    weights, metrics = run_ranks(config, [1, 3], rounds=1)
    assert told[0]["train/kl_stops"] == 1.0
    assert [m[0]["train/num_steps"] for m in metrics] == [told[0]["train/num_steps"]] * 2
    for ours, theirs in zip(weights[1], alone, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.battery("T25")
def test_a40_a_fault_on_one_rank_skips_the_step_on_all() -> None:
    def spoil_second(rank: int, batch: RolloutBatch) -> RolloutBatch:
        return spoil(batch, reward=batch.steps.reward * math.nan) if rank == 1 else batch

    weights, metrics = run_ranks(STEADY, [2, 2], rounds=1, change=spoil_second)
    assert [m[0]["train/num_steps"] for m in metrics] == [0.0, 0.0]
    assert are_equal(*weights)


def test_one_process_leaves_its_gradients_alone() -> None:
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    keep_gradients([parameter])
    assert parameter.grad.tolist() == [1.0, 1.0]
