"""Saved trainings by rows: parts of two ranks are what one process saves, and go on as its rows do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch

from esper.leyline import ForeignCheckpointError
from esper.simic.config import PPOConfig, TrainingConfig
from esper.simic.ppo import LearnerParts, PPOLearner
from esper.simic.row_states import count_rows, join_rows, pick_rows
from esper.simic.trainer import PolicyTrainer, TrainerParts
from esper.tamiyo import NetworkConfig, build_inputs, build_network
from esper.tolaria import StateRecord
from simic.growing import HORIZON, make_env

SMALL = NetworkConfig(hidden_size=16, token_size=8, family_size=3, attention_heads=2, core_size=16)
CONFIG = TrainingConfig(num_updates=2, ppo=PPOConfig(num_minibatches=1))


def make_trainer(first_env: int, num_envs: int) -> PolicyTrainer:
    env, _ = make_env(num_envs, encode=partial(build_inputs, num_slots=3), first_env=first_env)
    network = build_network(SMALL, env.layout, seed=0)
    return PolicyTrainer(
        TrainerParts(
            env=env,
            network=network,
            learner=PPOLearner(LearnerParts(network=network, config=CONFIG, seed=0)),
            config=CONFIG,
            num_steps=HORIZON,
            device=torch.device("cpu"),
            seed=3,
            env_ids=tuple(range(first_env, first_env + num_envs)),
        )
    )


def stop_after(trainer: PolicyTrainer, num_steps: int) -> StateRecord:
    """The state in the middle of the first round."""
    assert trainer.run_round(lambda: trainer.num_collected >= num_steps) is None
    return trainer.state()


def assert_equal(ours: StateRecord, theirs: StateRecord, *, exact: bool) -> None:
    assert ours.state == theirs.state
    assert set(ours.tensors) == set(theirs.tensors)
    for name, tensor in ours.tensors.items():
        atol = 0.0 if exact or not tensor.dtype.is_floating_point else 1e-6
        torch.testing.assert_close(
            tensor,
            theirs.tensors[name],
            rtol=0,
            atol=atol,
            equal_nan=True,
            msg=partial("{}: {}".format, name),
        )


def test_a41_two_ranks_of_two_hosts_collect_what_one_process_collects_from_four() -> None:
    """Hosts, actions, masks and rewards alike; the network's float32 may differ in its last bits."""
    whole = stop_after(make_trainer(0, 4), 3)
    halves = [stop_after(make_trainer(first, 2), 3) for first in (0, 2)]
    assert_equal(join_rows(halves), whole, exact=False)
    for name in ("buffer/actions", "buffer/reward", "buffer/mask_hash", "carry/returns"):
        assert torch.equal(join_rows(halves).tensors[name], whole.tensors[name])
    hosts = [name for name in whole.tensors if name.startswith("env/host")]
    assert hosts
    assert all(torch.equal(join_rows(halves).tensors[name], whole.tensors[name]) for name in hosts)


@pytest.mark.parametrize("deal", [[[0, 1], [2, 3]], [[0], [1, 2, 3]], [[3], [2], [1], [0]]])
def test_dealing_and_joining_again_changes_nothing(deal: Sequence[Sequence[int]]) -> None:
    whole = stop_after(make_trainer(0, 4), 2)
    parts = [pick_rows(whole, rows, is_first=place == 0) for place, rows in enumerate(deal)]
    assert [count_rows(part) for part in parts] == [len(rows) for rows in deal]
    order = [row for rows in deal for row in rows]
    back = pick_rows(join_rows(parts), [order.index(row) for row in range(4)], is_first=True)
    assert_equal(back, whole, exact=True)


def test_rows_that_were_dealt_go_on_as_in_the_whole() -> None:
    """A checkpoint of four hosts, resumed by one rank that has the last two: same actions, same rewards."""
    whole, late = make_trainer(0, 4), make_trainer(2, 2)
    late.restore(pick_rows(stop_after(whole, 2), [2, 3], is_first=False))
    ours, theirs = stop_after(late, 5), stop_after(whole, 5)
    for name in ("buffer/actions", "buffer/reward", "buffer/mask_hash"):
        assert torch.equal(ours.tensors[name], theirs.tensors[name][2:])


def test_reports_of_the_running_rollout_go_to_one_rank_and_places_follow_their_rows() -> None:
    whole = stop_after(make_trainer(0, 4), 2)
    carry = whole.state["carry"]
    assert isinstance(carry, dict)
    told = {**carry, "quarantined": [["environment 3", 3, 1, "reward nan"]], "episodes": [["e", 0.5, 6, {}]]}
    whole = replace(whole, state={**whole.state, "carry": told})
    first, second = (
        pick_rows(whole, rows, is_first=is_first).state["carry"]
        for rows, is_first in (([0, 1], True), ([2, 3], False))
    )
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert (first["quarantined"], second["quarantined"]) == ([], [["environment 3", 1, 1, "reward nan"]])
    assert (first["episodes"], second["episodes"]) == (told["episodes"], [])
    assert (first["num_valid"], second["num_valid"]) == (carry["num_valid"], 0)


def test_ranks_at_different_steps_and_rows_that_are_not_there_are_refused() -> None:
    with pytest.raises(ForeignCheckpointError, match="no rank's record"):
        join_rows([])
    records = [stop_after(make_trainer(first, 1), steps) for first, steps in ((0, 2), (1, 3))]
    with pytest.raises(ForeignCheckpointError, match="ranks stand at different steps"):
        join_rows(records)
    for rows in ([], [0, 0], [1]):
        with pytest.raises(ForeignCheckpointError, match="of 1 environments: cannot take rows"):
            pick_rows(records[0], rows, is_first=True)
    with pytest.raises(ForeignCheckpointError, match="carry/has_ended is missing"):
        count_rows(StateRecord(tensors={}, state={}))
