"""Growing hosts as an environment: the order of a step, ends, rows that idle, going on from a saved state."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from esper.leyline import WAIT, Action, Decision, ForeignCheckpointError, LifecycleOp, SeedStage, Verdict
from esper.simic import EnvStep
from simic.growing import HORIZON, LosingFleet, all_rows, as_rows, build_small_run, make_env
from tolaria.small_run import germinate

ADVANCE = Action(op=LifecycleOp.ADVANCE, slot="block1")


def test_a_step_trains_one_interval_everywhere_and_pays_for_what_it_caused() -> None:
    env, rewards = make_env()
    env.reset(all_rows(env))
    step = env.step(as_rows(env, germinate("block1"), WAIT))
    first, second = rewards[0].facts[0], rewards[1].facts[0]
    assert first.before.signals.epoch == 0
    assert first.after.signals.epoch == 1
    assert first.after.slot("block1").stage is not SeedStage.DORMANT
    assert first.result.effective.op is LifecycleOp.GERMINATE
    assert second.result.effective.op is LifecycleOp.WAIT
    assert step.is_valid.tolist() == [True, True]
    torch.testing.assert_close(sum(step.terms.values()), step.reward)


def test_a_host_that_never_grows_earns_nothing_over_its_own_curve() -> None:
    env, _ = make_env()
    env.reset(all_rows(env))
    totals = torch.zeros(2)
    for _ in range(HORIZON):
        totals += env.step(as_rows(env, WAIT, WAIT)).reward
    assert totals.abs().max() < 1e-6


def _run_out(env_steps: int, *, horizon_semantics: str) -> EnvStep:
    env, _ = make_env(horizon_semantics=horizon_semantics)
    env.reset(all_rows(env))
    steps = [env.step(as_rows(env, WAIT, WAIT)) for _ in range(env_steps)]
    return steps[-1]


@pytest.mark.parametrize("semantics", ["terminate", "truncate"])
def test_the_horizon_ends_an_episode_as_the_semantics_say(semantics: str) -> None:
    before, last = (_run_out(n, horizon_semantics=semantics) for n in (HORIZON - 1, HORIZON))
    assert not before.ended.any()
    assert last.terminated.tolist() == [semantics == "terminate"] * 2
    assert last.truncated.tolist() == [semantics == "truncate"] * 2
    assert [summary is not None and summary["reason"] for summary in last.summaries] == ["horizon"] * 2


def test_an_outside_cut_is_not_paid_as_an_end() -> None:
    env, rewards = make_env(1, horizon_semantics="truncate")
    env.reset(all_rows(env))
    for _ in range(HORIZON):
        env.step(as_rows(env, WAIT))
    assert not any(facts.is_last for facts in rewards[0].facts)


def test_what_was_not_kept_is_gone_before_the_last_reward() -> None:
    env, rewards = make_env(1, instances=(0,))
    env.reset(all_rows(env))
    step = env.step(as_rows(env, germinate("block1")))
    for op in (WAIT, ADVANCE, WAIT, WAIT, WAIT):
        step = env.step(as_rows(env, op))
    last = rewards[0].facts[-1]
    assert last.is_last
    assert last.before.slot("block1").stage.is_live
    assert not last.after.slot("block1").stage.is_live
    summary = step.summaries[0]
    assert summary is not None
    assert summary["added_params"] == 0
    assert summary["metric"] == last.after.signals.metric
    assert summary["ops"] == {
        "WAIT": 4,
        "GERMINATE": 1,
        "ADVANCE": 1,
        "FOSSILIZE": 0,
        "CULL": 0,
        "SET_ALPHA": 0,
    }


def test_a_row_that_has_ended_idles_until_it_is_reset() -> None:
    env, rewards = make_env(2, start_epochs=(0, 2), instances=(0, 2))
    env.reset(all_rows(env))
    # Only hosts that begin later end earlier: find an order in which the rows differ.
    while len({episode.start.epoch for episode in env.episodes}) == 1:
        env.reset(torch.tensor([True, False]))
    late = [episode.start.epoch for episode in env.episodes].index(2)
    for _ in range(HORIZON - 2):
        step = env.step(as_rows(env, WAIT, WAIT))
    assert step.terminated[late]
    num_seen = len(rewards[late].facts)
    idle = env.step(as_rows(env, WAIT, WAIT))
    assert not idle.is_valid[late]
    assert idle.reward[late] == 0.0
    assert not idle.terminated[late]
    assert len(rewards[late].facts) == num_seen
    mask = torch.zeros(2, dtype=torch.bool)
    mask[late] = True
    env.reset(mask)
    assert env.step(as_rows(env, WAIT, WAIT)).is_valid[late]


def test_an_episode_that_begins_late_stands_where_the_never_grown_host_stood() -> None:
    env, rewards = make_env(1, start_epochs=(2,), instances=(4,))
    env.reset(all_rows(env))
    assert env.observations[0].signals.epoch == 2
    alone = build_small_run(4)
    for _ in range(2):
        alone.apply(Decision())
        alone.train_epoch()
    assert env.observations[0].signals == alone.signals
    env.step(as_rows(env, WAIT))
    assert rewards[0].facts[0].never_metric_before == alone.signals.metric


def test_padding_that_a_mask_should_have_excluded_counts_as_waiting() -> None:
    env, rewards = make_env(1, instances=(1,))
    env.reset(all_rows(env))
    assert len(env.observations[0].slots) == 2
    row = torch.tensor([[1, 2, 0, 0, 0, 0, 0]])  # GERMINATE in a third slot, which this host lacks
    env.step(row)
    assert rewards[0].facts[0].result.effective.op is LifecycleOp.WAIT


@pytest.mark.battery("T31")
def test_a_failed_host_is_terminated_with_the_verdict_as_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    env, rewards = make_env(1, horizon_semantics="truncate")
    env.reset(all_rows(env))
    failure = Verdict(kind="diverged", reason="planted")
    monkeypatch.setattr("esper.tolaria.governor.Governor.judge", lambda *_, **__: failure)
    step = env.step(as_rows(env, WAIT))
    assert step.terminated.tolist() == [True]
    assert not step.truncated.any()
    assert rewards[0].facts[0].is_failure
    assert rewards[0].facts[0].is_last
    summary = step.summaries[0]
    assert summary is not None
    assert summary["reason"] == "diverged"


def test_bug17_an_action_for_a_host_that_was_rolled_back_is_not_carried_out_and_not_valid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env, rewards = make_env(1)
    env.reset(all_rows(env))
    env.step(as_rows(env, germinate("block1")))
    with monkeypatch.context() as patch:
        failure = Verdict(kind="diverged", reason="planted")
        patch.setattr("esper.tolaria.governor.Governor.judge", lambda *_, **__: failure)
        assert env.step(as_rows(env, WAIT)).terminated.tolist() == [True]
    num_paid = len(rewards[0].facts)
    before = env.observe()
    stale = env.step(as_rows(env, germinate("block3")))
    assert not stale.is_valid.any()
    assert not stale.ended.any()
    assert stale.reward.tolist() == [0.0]
    assert stale.summaries == (None,)
    assert len(rewards[0].facts) == num_paid
    assert env.observations[0].slot("block3").stage is SeedStage.DORMANT
    for name, tensor in before.items():
        assert torch.equal(tensor, stale.inputs[name])


def test_a_saved_environment_goes_on_bit_for_bit() -> None:
    actions = (germinate("block1"), WAIT, ADVANCE, WAIT, WAIT, WAIT)
    env, _ = make_env()
    env.reset(all_rows(env))
    for action in actions[:3]:
        env.step(as_rows(env, action, WAIT))
    state = env.state()
    other, _ = make_env()
    other.restore(state)
    for action in actions[3:]:
        left, right = (e.step(as_rows(e, action, WAIT)) for e in (env, other))
        assert torch.equal(left.reward, right.reward)
        assert left.summaries == right.summaries
        for name, tensor in left.inputs.items():
            assert torch.equal(tensor, right.inputs[name])


@pytest.mark.parametrize("field", ["episodes", "rewards", "has_ended", "host0"])
def test_a_foreign_state_is_refused_by_field(field: str) -> None:
    env, _ = make_env()
    env.reset(all_rows(env))
    state = env.state() | {field: 3}
    with pytest.raises(ForeignCheckpointError):
        env.restore(state)


def test_a_state_of_another_number_of_rows_is_refused() -> None:
    env, _ = make_env(1)
    env.reset(all_rows(env))
    with pytest.raises(ForeignCheckpointError, match="saved for 1 environments, here are 2"):
        make_env(2)[0].restore(env.state())


def test_parts_that_disagree_are_refused() -> None:
    env, _ = make_env(2)
    parts = env._parts
    with pytest.raises(ValueError, match="1 env_ids for a fleet of 2 hosts"):
        type(env)(replace(parts, env_ids=(0,)))
    with pytest.raises(ValueError, match="horizon_semantics='never'"):
        type(env)(replace(parts, horizon_semantics="never"))


def test_names_tell_environment_and_instance_and_closing_twice_is_harmless() -> None:
    env, _ = make_env(1, instances=(3,))
    env.reset(all_rows(env))
    assert env.names == ("environment 0 (instance 3)",)
    assert env.layout.heads[:3] == ("op", "slot", "blueprint")
    env.close()
    env.close()


@pytest.mark.fault
@pytest.mark.parametrize("semantics", ["terminate", "truncate"])
@pytest.mark.parametrize("at_epoch", [3, None])
def test_a_lost_row_is_cut_off_with_a_step_that_is_not_valid_and_the_other_goes_on(
    at_epoch: int | None, semantics: str
) -> None:
    env, rewards = make_env(
        horizon_semantics=semantics, wrap=lambda inner: LosingFleet(inner, row=0, at_epoch=at_epoch)
    )
    whole, _ = make_env(horizon_semantics=semantics)
    lost_step = HORIZON if at_epoch is None else at_epoch
    for each in (env, whole):
        each.reset(all_rows(each))
    for number in range(1, lost_step + 1):
        step, expected = (each.step(as_rows(each, germinate("block1"), WAIT)) for each in (env, whole))
        is_lost = number == lost_step
        assert step.is_valid.tolist() == [not is_lost, True]
        assert float(step.reward[1]) == float(expected.reward[1])
        assert bool(step.truncated[0]) is is_lost
        assert not bool(step.terminated[0])
    assert float(step.reward[0]) == 0.0
    assert len(rewards[0].facts) == lost_step - 1, "what is not known is not paid"
    summary = step.summaries[0]
    assert summary is not None
    assert str(summary["reason"]).startswith("worker_lost: ")
    idle = env.step(as_rows(env, WAIT, WAIT))
    assert idle.is_valid.tolist()[0] is False
    assert not bool(idle.ended[0])
    env.reset(torch.tensor([True, False]))
    assert env.step(as_rows(env, WAIT, WAIT)).is_valid.tolist()[0]
