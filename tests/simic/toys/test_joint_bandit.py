"""JointBandit: its table lists every legal joint action once, and sums over it are exact."""

from __future__ import annotations

import pytest
import torch

from esper.simic.toys.joint_bandit import JointBandit, build_joint_bandit
from esper.tamiyo import ActionLogits, ActionMask, JointDistribution

ALL = torch.ones(1, dtype=torch.bool)


def distribution(bandit: JointBandit, num_rows: int, logits: ActionLogits) -> JointDistribution:
    """Return N equal rows of a policy on the bandit."""
    env = build_joint_bandit((0,) * num_rows, table_seed=int(str(bandit.rules()["table_seed"])))
    inputs = env.observe()
    mask = ActionMask(op=inputs["mask_op"], slot=inputs["mask_slot"], blueprint=inputs["mask_blueprint"])
    return JointDistribution(bandit.layout, logits, mask)


@pytest.mark.parametrize("table_seed", range(5))
def test_the_table_lists_every_legal_action_once(table_seed: int) -> None:
    bandit = JointBandit(table_seed=table_seed)
    actions = bandit.actions
    zeros = torch.zeros(len(actions), 4, dtype=torch.float64)
    logits = ActionLogits(
        op=zeros, slot=zeros.new_zeros(len(actions), 4, 2), blueprint=zeros.new_zeros(len(actions), 2, 3)
    )
    policy = distribution(bandit, len(actions), logits)
    assert len(set(map(tuple, actions.tolist()))) == len(actions) == int(policy.num_valid()[0])
    assert float(policy.log_prob(actions).sum(dim=-1).exp().sum()) == pytest.approx(1.0, abs=1e-12)


def test_the_gradient_of_the_expected_reward_is_the_score_function_sum() -> None:
    bandit = JointBandit(table_seed=1)
    actions, rewards = bandit.actions, bandit.rewards
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(4 + 4 * 2 + 2 * 3, generator=generator, dtype=torch.float64, requires_grad=True)
    count = len(actions)
    logits = ActionLogits(
        op=raw[:4].expand(count, 4),
        slot=raw[4:12].reshape(4, 2).expand(count, 4, 2),
        blueprint=raw[12:].reshape(2, 3).expand(count, 2, 3),
    )
    log_probs = distribution(bandit, count, logits).log_prob(actions).sum(dim=-1)
    probs = log_probs.exp()
    (exact,) = torch.autograd.grad((probs * rewards).sum(), raw, retain_graph=True)
    (score,) = torch.autograd.grad((probs.detach() * rewards * log_probs).sum(), raw)
    assert torch.allclose(exact, score, atol=1e-12)
    assert float(exact.abs().max()) > 0.0


def test_an_action_earns_its_entry_and_an_illegal_one_that_of_waiting() -> None:
    bandit = JointBandit(table_seed=0)
    table = {tuple(a): r for a, r in zip(bandit.actions.tolist(), bandit.rewards.tolist(), strict=True)}
    env = build_joint_bandit((0,))
    for op in range(4):
        for slot in range(2):
            for blueprint in range(3):
                env.reset(ALL)
                step = env.step(torch.tensor([[op, slot, blueprint]]))
                key = (op, slot if op else 0, blueprint if op == 1 else 0)
                assert float(step.reward) == pytest.approx(table.get(key, table[0, 0, 0]), abs=1e-7)
                assert bool(step.terminated)


def test_the_summary_names_the_ceiling() -> None:
    bandit = JointBandit(table_seed=2)
    env = build_joint_bandit((0,), table_seed=2)
    env.reset(ALL)
    best = bandit.actions[bandit.rewards.argmax()][None]
    summary = env.step(best).summaries[0]
    assert summary is not None
    assert summary["best_reward"] == summary["return"] == float(bandit.rewards.max())


def test_bandits_of_one_seed_are_equal_and_of_two_seeds_differ() -> None:
    assert JointBandit(table_seed=3).rules() == JointBandit(table_seed=3).rules()
    assert JointBandit(table_seed=3).rules() != JointBandit(table_seed=4).rules()
    state = JointBandit().begin(0)
    assert JointBandit().unpack(JointBandit().pack(state)) == state
