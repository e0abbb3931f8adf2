"""The loop of experience: what is stored is what happened, and one bad row stays one bad row."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from esper.leyline import ForeignCheckpointError, JsonValue, SingleProcess
from esper.simic.advantages import compute_gae, compute_next_values
from esper.simic.collector import NoEnvironmentLeftError, build_carry, collect_rollout, describe_collection
from esper.simic.config import NormalizationConfig, RolloutConfig, TrainingConfig
from esper.simic.rollout_buffer import QuarantinedRow, Rollout, RolloutBatch
from esper.tamiyo import Memory

from .tiny_networks import FLAT, Bench, Script, build_bench

WITHIN = TrainingConfig(rollout=RolloutConfig(resets_within_rows=True))


def unroll(bench: Bench, batch: RolloutBatch, row: int, last: int) -> Memory:
    """Memory of one row after step `last`, step by step, cleared where an episode starts."""
    memory = batch.memory.select(torch.tensor([row]))
    for t in range(last + 1):
        now = {name: x[row : row + 1, t] for name, x in batch.inputs.items()}
        start = batch.steps.episode_start[row : row + 1, t]
        memory = bench.network.act(now, memory, start).memory
    return memory


def value_after(bench: Bench, batch: RolloutBatch, row: int, last: int, features: Tensor) -> float:
    memory = unroll(bench, batch, row, last)
    inputs = {"features": features[None], **{k: x[:1, 0] for k, x in batch.inputs.items() if k != "features"}}
    value = bench.network.compute_values(inputs, memory, torch.zeros(1, dtype=torch.bool))
    return float(bench.learner.value_normalizer.denormalize(value).detach())


def features_at(bench: Bench, row: int, episode: int, t: int) -> Tensor:
    """What the scripted environment shows there."""
    env = bench.env
    saved = env.episode[row], env.t[row]
    env.episode[row], env.t[row] = episode, t
    shown = env.observe()["features"][row]
    env.episode[row], env.t[row] = saved
    return shown


def columns_of(rollout: Rollout, rows: list[int]) -> list[Tensor]:
    batch = rollout.batch
    columns = [*batch.inputs.values(), batch.actions, batch.log_probs, batch.value, batch.num_valid]
    columns += [*batch.steps, *batch.bootstrap, batch.mask_hash]
    return [column[rows] for column in columns]


# ---------------------------------------------------------------------- bootstraps


def test_a04_bug02_a_cut_is_bootstrapped_from_the_true_final_observation_and_the_memory_after_the_step() -> (
    None
):
    bench = build_bench(WITHIN, script=Script(truncated_episodes=frozenset({(0, 0), (1, 1)})), num_steps=13)
    bench.learner.value_normalizer.restore(
        {**bench.learner.value_normalizer.state(), "mean": 2.0, "std": 3.0}
    )
    batch = bench.collect().batch
    cuts = batch.steps.truncated.nonzero().tolist()
    assert cuts == [[0, 3], [1, 10]]
    for (row, t), (episode, length) in zip(cuts, [(0, 4), (1, 4)], strict=True):
        expected = value_after(bench, batch, row, t, features_at(bench, row, episode, length))
        assert float(batch.bootstrap.next_value[row, t]) == pytest.approx(expected, abs=1e-6)
        reset = float(batch.value[row, t + 1])
        assert abs(reset - expected) > 1e-4
    assert int((batch.bootstrap.next_value != 0).sum()) == len(cuts)


def test_a04_bug02_a_row_that_goes_on_is_bootstrapped_from_its_pending_observation() -> None:
    bench = build_bench(num_steps=5)
    batch = bench.collect().batch
    assert batch.bootstrap.last_value[[0, 2]].tolist() == [0.0, 0.0]
    expected = value_after(bench, batch, 1, 4, features_at(bench, 1, 0, 5))
    assert float(batch.bootstrap.last_value[1]) == pytest.approx(expected, abs=1e-6)


def test_a_row_that_ended_with_the_rollout_bootstraps_nothing_although_it_was_reset() -> None:
    bench = build_bench(WITHIN, num_steps=4)
    batch = bench.collect().batch
    assert bool(batch.steps.terminated[0, 3])
    assert float(batch.bootstrap.last_value[0]) == 0.0
    assert float(batch.bootstrap.last_value[1]) != 0.0


# ---------------------------------------------------------------------- episodes and memory


def test_rows_that_ended_idle_until_the_next_rollout() -> None:
    bench = build_bench()
    first = bench.collect()
    assert first.batch.steps.valid.sum(dim=1).tolist() == [4, 7, 4]
    assert first.num_valid == 15
    assert [(e.name, e.num_steps) for e in first.episodes] == [
        ("scripted/0", 4),
        ("scripted/2", 4),
        ("scripted/1", 7),
    ]
    assert bench.env.num_resets == 1
    second = bench.collect()
    assert bench.env.num_resets == 2
    assert second.batch.steps.episode_start[:, 0].tolist() == [True] * 3
    assert not bool(second.batch.memory.hidden.any())


def test_a19_an_episode_start_is_the_first_step_of_its_episode() -> None:
    bench = build_bench(WITHIN, script=Script(lengths=(1, 3)), num_envs=2, num_steps=6)
    batch = bench.collect().batch
    # Row 0: lengths 1, 3, 1, 3; row 1: lengths 3, 1, 3. The done of the last step starts nothing in this row.
    assert batch.steps.episode_start.int().tolist() == [[1, 1, 0, 0, 1, 1], [1, 0, 0, 1, 1, 0]]
    assert batch.steps.terminated.int().tolist() == [[1, 0, 0, 1, 1, 0], [0, 0, 1, 1, 0, 0]]
    assert bool(batch.steps.valid.all())


def test_a19_an_end_in_the_last_step_starts_the_next_rollout() -> None:
    bench = build_bench(WITHIN, script=Script(lengths=(3,)), num_envs=2, num_steps=3)
    assert bool(bench.collect().batch.steps.terminated[:, 2].all())
    second = bench.collect().batch
    assert second.steps.episode_start.int().tolist() == [[1, 0, 0]] * 2
    assert not bool(second.memory.hidden.any())
    assert not bool(second.memory.cell.any())


def test_a20_an_episode_that_goes_on_carries_its_memory_into_the_next_rollout() -> None:
    bench = build_bench(script=Script(lengths=(9,)), num_steps=4)
    first = bench.collect().batch
    expected = unroll(bench, first, 1, 3)
    second = bench.collect().batch
    assert not bool(second.steps.episode_start.any())
    assert not second.memory.hidden.requires_grad
    torch.testing.assert_close(second.memory.hidden[:, 1:2], expected.hidden)
    torch.testing.assert_close(second.memory.cell[:, 1:2], expected.cell)


def test_a_rollout_stops_when_every_row_has_ended() -> None:
    bench = build_bench(script=Script(lengths=(2, 3)), num_steps=7)
    assert bench.collect().batch.actions.shape[1] == 3


def test_a_cut_ends_the_rollout_and_no_episode() -> None:
    bench = build_bench(script=Script(lengths=(9,)), num_steps=7)
    bench.parts = replace(bench.parts, should_cut=lambda num_steps: num_steps >= 2)
    first = bench.collect()
    assert first.batch.actions.shape[1] == 2
    assert not bool((first.batch.steps.terminated | first.batch.steps.truncated).any())
    assert bool((first.batch.bootstrap.last_value != 0).all())
    second = bench.collect()
    assert not bool(second.batch.steps.episode_start.any())
    assert (first.episodes, second.episodes) == ((), ())


def test_a_cut_that_comes_at_once_still_leaves_one_step() -> None:
    bench = build_bench()
    bench.parts = replace(bench.parts, should_cut=lambda num_steps: True)
    assert bench.collect().batch.actions.shape[1] == 1


def test_bug06_the_stored_action_is_the_executed_one_and_drawn_once() -> None:
    bench = build_bench(WITHIN)
    batch = bench.collect().batch
    assert torch.equal(batch.actions, torch.stack(bench.env.executed, dim=1))
    scored = bench.network.evaluate(batch.inputs, batch.actions, batch.memory, batch.steps.episode_start)
    torch.testing.assert_close(batch.log_probs, scored.log_probs)
    torch.testing.assert_close(batch.value, bench.learner.value_normalizer.denormalize(scored.values))


def test_a05_values_are_stored_on_the_scale_of_the_rewards() -> None:
    bench = build_bench(script=Script(lengths=(9,)))
    values = bench.learner.value_normalizer
    values.restore({**values.state(), "mean": 7.0, "std": 3.0})
    batch = bench.collect().batch
    scored = bench.network.evaluate(batch.inputs, batch.actions, batch.memory, batch.steps.episode_start)
    torch.testing.assert_close(batch.value, 7.0 + 3.0 * scored.values.detach())
    assert bool((batch.bootstrap.last_value > 4.0).all())


def test_bug04_statistics_stand_still_within_a_rollout() -> None:
    config = TrainingConfig(normalization=NormalizationConfig(inputs=("features",)))
    bench = build_bench(config)
    bench.learner.update(bench.collect().batch)
    seen: list[tuple[float, float, JsonValue]] = []

    def look() -> None:
        values, inputs = bench.learner.value_normalizer, bench.learner.input_normalizer
        seen.append((values.mean, values.std, inputs.state()["moments"]))

    bench.parts = replace(bench.parts, after_step=look)
    bench.collect()
    assert len(seen) == 7
    assert all(entry == seen[0] for entry in seen)
    assert bench.learner.value_normalizer.num_updates == 1


def test_stored_inputs_are_the_ones_that_the_network_saw() -> None:
    config = TrainingConfig(normalization=NormalizationConfig(inputs=("features",), input_bound=0.5))
    bench = build_bench(config)
    batch = bench.collect().batch
    assert float(batch.inputs["features"].abs().max()) == 0.5
    scored = bench.network.evaluate(batch.inputs, batch.actions, batch.memory, batch.steps.episode_start)
    torch.testing.assert_close(batch.log_probs, scored.log_probs)


def test_a_second_collection_into_an_unread_buffer_is_refused() -> None:
    bench = build_bench()
    bench.collect()
    with pytest.raises(RuntimeError, match="finished rollout"):
        collect_rollout(bench.env, bench.network, bench.buffer, bench.carry, bench.parts)


def test_returns_are_the_sums_of_rewards() -> None:
    bench = build_bench(WITHIN)
    rollout = bench.collect()
    first = rollout.episodes[0]
    assert first.facts == {"episode": 0}
    assert first.total_reward == pytest.approx(float(rollout.batch.steps.reward[0, :4].sum()))
    metrics = describe_collection(rollout, SingleProcess())
    totals = [episode.total_reward for episode in rollout.episodes]
    assert metrics["rollout/ep_rew_mean"] == pytest.approx(sum(totals) / len(totals))
    assert metrics["rollout/num_steps"] == 21.0
    empty = describe_collection(replace(rollout, episodes=()), SingleProcess())
    assert "rollout/ep_rew_mean" not in empty


def test_one_environment_of_a_flat_layout_is_collected() -> None:
    bench = build_bench(num_envs=1, script=Script(layout=FLAT))
    assert bench.collect().batch.actions.shape == (1, 4, 1)


# ---------------------------------------------------------------------- one bad row


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("kind", ["reward", "features"])
@pytest.mark.parametrize("config", [TrainingConfig(), WITHIN], ids=["idle", "within"])
def test_a24_one_bad_row_stays_one_bad_row(number: float, kind: str, config: TrainingConfig) -> None:
    heard: list[QuarantinedRow] = []
    script = Script(lengths=(7,), faults={(1, 0, 2): (kind, number)})
    sick, healthy = (build_bench(config, script=s, num_steps=6) for s in (script, Script(lengths=(7,))))
    sick.parts = replace(sick.parts, on_quarantine=heard.append)
    found, expected = sick.collect(), healthy.collect()
    for ours, theirs in zip(columns_of(found, [0, 2]), columns_of(expected, [0, 2]), strict=True):
        assert torch.equal(ours, theirs)
    assert found.batch.steps.valid[1, :3].tolist() == [True, True, False]
    assert bool(found.batch.steps.terminated[1, 2])
    assert not bool(found.batch.steps.terminated[1, :2].any())
    (row,) = found.quarantined
    assert heard == [row]
    assert (row.name, row.row, row.step) == ("scripted/1", 1, 2)
    assert ("reward" if kind == "reward" else "'features'") in row.reason
    assert describe_collection(found, SingleProcess())["rollout/num_quarantined"] == 1.0
    assert all(bool(x.isfinite().all()) for x in columns_of(found, [0, 1, 2]) if x.is_floating_point())


def test_a24_a_quarantined_row_idles_and_gets_a_new_episode_in_the_next_rollout() -> None:
    bench = build_bench(script=Script(lengths=(7,), faults={(1, 0, 2): ("reward", math.nan)}))
    first = bench.collect()
    assert first.batch.steps.valid[1].tolist() == [True] * 2 + [False] * 5
    assert [episode.name for episode in first.episodes] == ["scripted/0", "scripted/2"]
    second = bench.collect()
    assert bool(second.batch.steps.valid.all())
    assert second.quarantined == ()


@pytest.mark.fault
def test_a_row_that_was_lost_is_quarantined_and_nothing_is_learned_from_its_last_step() -> None:
    script = Script(lengths=(7,), losses=frozenset({(1, 0, 2)}))
    lost, whole = (build_bench(script=s) for s in (script, Script(lengths=(7,))))
    found, expected = lost.collect(), whole.collect()
    for ours, theirs in zip(columns_of(found, [0, 2]), columns_of(expected, [0, 2]), strict=True):
        assert torch.equal(ours, theirs)
    assert found.batch.steps.valid[1].tolist() == [True] * 2 + [False] * 5
    (row,) = found.quarantined
    assert (row.name, row.step, row.reason) == ("scripted/1", 2, "scripted")
    assert [episode.name for episode in found.episodes] == ["scripted/0", "scripted/2"]
    assert bool(lost.collect().batch.steps.valid.all())


def test_a24_within_rows_a_quarantined_row_begins_another_episode() -> None:
    bench = build_bench(WITHIN, script=Script(lengths=(7,), faults={(1, 0, 2): ("reward", math.nan)}))
    batch = bench.collect().batch
    assert batch.steps.valid[1].int().tolist() == [1, 1, 0, 1, 1, 1, 1]
    assert batch.steps.episode_start[1].int().tolist() == [1, 0, 0, 1, 0, 0, 0]


def test_a24_the_step_before_a_quarantine_bootstraps_from_its_last_good_observation() -> None:
    bench = build_bench(script=Script(lengths=(7,), faults={(1, 0, 2): ("features", math.nan)}))
    batch = bench.collect().batch
    next_value = compute_next_values(batch.value, batch.steps.truncated, batch.bootstrap)
    found = compute_gae(batch.value, next_value, batch.steps, gamma=0.9, gae_lambda=0.9).advantage[1]
    delta = float(batch.steps.reward[1, 1]) + 0.9 * float(batch.value[1, 2]) - float(batch.value[1, 1])
    assert float(found[1]) == pytest.approx(delta, rel=1e-9)
    assert not bool(found[2:].any())


@pytest.mark.parametrize("number", [math.nan, 1e30])
def test_a24_a_bad_first_observation_is_quarantined_before_it_is_seen(number: float) -> None:
    script = Script(lengths=(7,), faults={(1, 0, -1): ("features", number)})
    sick, healthy = (build_bench(script=s) for s in (script, Script(lengths=(7,))))
    found, expected = sick.collect(), healthy.collect()
    for ours, theirs in zip(columns_of(found, [0, 2]), columns_of(expected, [0, 2]), strict=True):
        assert torch.equal(ours, theirs)
    assert not bool(found.batch.steps.valid[1].any())
    assert found.quarantined[0].step == 0
    assert bool(sick.collect().batch.steps.valid[1].all())


def test_a24_an_update_on_a_rollout_with_a_bad_row_equals_one_without_that_row() -> None:
    script = Script(lengths=(7,), faults={(2, 0, -1): ("features", math.nan)})
    sick, healthy = build_bench(script=script), build_bench(script=Script(lengths=(7,)))
    batch = healthy.collect().batch
    healthy.learner.update(batch.select(torch.tensor([0, 1])))
    assert sick.learner.update(sick.collect().batch).num_steps == 4
    for ours, theirs in zip(sick.network.parameters(), healthy.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_a24_without_any_usable_environment_nothing_is_collected_and_it_says_why() -> None:
    faults = {(row, 0, -1): ("features", math.nan) for row in range(3)}
    bench = build_bench(script=Script(faults=faults))
    with pytest.raises(NoEnvironmentLeftError, match=r"scripted/0: input 'features' reached nan"):
        bench.collect()


# ---------------------------------------------------------------------- going on after an interruption


class Interrupt(Exception):  # noqa: N818 - it is no error
    """Raised by a test in place of a signal."""


@pytest.mark.parametrize("config", [TrainingConfig(), WITHIN], ids=["idle", "within"])
@pytest.mark.parametrize("stop_at", [1, 4, 6])
def test_a21_a_rollout_that_was_saved_in_mid_episode_goes_on_bit_for_bit(
    config: TrainingConfig, stop_at: int
) -> None:
    script = Script(truncated_episodes=frozenset({(2, 0)}))
    whole, first, second = (build_bench(config, script=script, num_steps=9) for _ in range(3))

    def stop() -> None:
        if first.buffer.num_steps == stop_at:
            raise Interrupt

    first.parts = replace(first.parts, after_step=stop)
    with pytest.raises(Interrupt):
        first.collect()
    second.buffer.restore(first.buffer.state())
    second.carry.restore(first.carry.state())
    second.env.restore(first.env.state())
    rollouts = [whole.collect(), second.collect()]
    for ours, theirs in zip(*(columns_of(r, [0, 1, 2]) for r in rollouts), strict=True):
        assert torch.equal(ours, theirs)
    assert rollouts[0].episodes == rollouts[1].episodes
    assert rollouts[0].num_valid == rollouts[1].num_valid
    # And the next rollout, which also needs what was carried out of this one.
    again = [bench.collect() for bench in (whole, second)]
    for ours, theirs in zip(*(columns_of(r, [0, 1, 2]) for r in again), strict=True):
        assert torch.equal(ours, theirs)


def test_a21_what_was_quarantined_before_the_interruption_is_still_reported() -> None:
    bench = build_bench(script=Script(lengths=(7,), faults={(1, 0, 2): ("reward", math.nan)}))
    rollout = bench.collect()
    carry = build_carry(bench.network, range(3), seed=1)
    carry.restore(bench.carry.state())
    assert tuple(carry.quarantined) == rollout.quarantined
    assert carry.num_valid == rollout.num_valid


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"episodes": None}, "expected a list"),
        ({"episodes": [["only a name"]]}, "episode"),
        ({"quarantined": [[1, 2]]}, "quarantined row"),
    ],
)
def test_a_malformed_carry_is_refused(change: dict[str, JsonValue], message: str) -> None:
    bench = build_bench()
    bench.collect()
    record = bench.carry.state()
    with pytest.raises(ForeignCheckpointError, match=message):
        bench.carry.restore(replace(record, state={**record.state, **change}))
    tensors = {name: x for name, x in record.tensors.items() if name != "num_begun"}
    with pytest.raises(ForeignCheckpointError, match="lacks \\['num_begun'\\]"):
        bench.carry.restore(replace(record, tensors=tensors))
    with pytest.raises(ForeignCheckpointError, match="not of 2 environments"):
        build_bench(num_envs=2).carry.restore(record)
