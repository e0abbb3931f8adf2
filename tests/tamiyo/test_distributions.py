from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esper.tamiyo.action_layout import ActionLayout
from esper.tamiyo.distributions import (
    ActionLogits,
    ActionMask,
    EmptyMaskError,
    JointDistribution,
    masked_entropy,
    masked_log_softmax,
)
from tamiyo.joint_cases import GROWTH_LAYOUT, JointCase, enumerate_joint, make_case

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SEEDS = st.integers(0, 10_000)
PLAIN = ActionLayout(op_names=("LEFT", "RIGHT", "JUMP"), uses={"op": (True, True, True)})


def enumerated(case: JointCase, row: int) -> tuple[Tensor, Tensor]:
    """All legal joint actions [J, H] of a row and the log-probability of each column [J, H]."""
    pairs = list(enumerate_joint(case, row))
    return torch.tensor([action for action, _ in pairs]), torch.stack(
        [torch.stack(scores) for _, scores in pairs]
    )


def sample(distribution: JointDistribution, seed: int) -> Tensor:
    """Draw with numbers of a seed, alike for every row."""
    shape = distribution.mode().shape
    return distribution.sample(torch.rand(shape, generator=torch.Generator().manual_seed(seed)))


def spread(case: JointCase, row: int, count: int) -> JointCase:
    """`count` equal rows, so that one call draws them all."""

    def repeat(tensor: Tensor) -> Tensor:
        return tensor.detach()[row : row + 1].expand(count, *tensor.shape[1:])

    logits, mask = case.logits, case.mask
    assert logits.slot is not None
    assert logits.blueprint is not None
    assert mask.slot is not None
    assert mask.blueprint is not None
    return replace(
        case,
        logits=ActionLogits(
            op=repeat(logits.op),
            slot=repeat(logits.slot),
            blueprint=repeat(logits.blueprint),
            arguments={head: repeat(table) for head, table in logits.arguments.items()},
        ),
        mask=ActionMask(op=repeat(mask.op), slot=repeat(mask.slot), blueprint=repeat(mask.blueprint)),
    )


def scored(case: JointCase, row: int, actions: Tensor) -> Tensor:
    """[J, H] log-probabilities of J actions in one row, by the distribution under test."""
    return spread(case, row, len(actions)).distribution.log_prob(actions)


def gradients(value: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Gradient by each leaf, zeros where it has no part."""
    return list(torch.autograd.grad(value, leaves, retain_graph=True, materialize_grads=True))


def categorical_entropy(logits: Tensor) -> Tensor:
    """Entropy by torch's own categorical distribution."""
    entropy: Tensor = torch.distributions.Categorical(logits=logits).entropy()  # type: ignore[no-untyped-call]
    return entropy


# ---------------------------------------------------------------------- one head


def flat_cases(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """[200, 7] logits and masks with at least one legal choice each."""
    rng = torch.Generator().manual_seed(3)
    logits = torch.randn(200, 7, generator=rng, dtype=torch.float64) * 4
    mask = torch.rand(200, 7, generator=rng) < 0.5
    mask[torch.arange(200), torch.randint(0, 7, (200,), generator=rng)] = True
    return logits.to(dtype), mask


def test_masked_log_softmax_is_a_softmax_over_the_legal_choices_alone() -> None:
    logits, mask = flat_cases()
    log_probs = masked_log_softmax(logits, mask)
    entropy = masked_entropy(log_probs, mask)
    for row in range(len(logits)):
        oracle = torch.distributions.Categorical(logits=logits[row][mask[row]])
        torch.testing.assert_close(log_probs[row][mask[row]], oracle.logits, rtol=0, atol=1e-12)
        torch.testing.assert_close(
            entropy[row], categorical_entropy(logits[row][mask[row]]), rtol=0, atol=1e-12
        )
    assert log_probs[~mask].eq(torch.finfo(torch.float64).min).all()


@pytest.mark.slow
def test_a25_masked_log_probs_and_entropies_equal_two_peers() -> None:
    from sb3_contrib.common.maskable.distributions import MaskableCategorical  # noqa: PLC0415
    from torchrl.modules.distributions import MaskedCategorical  # noqa: PLC0415

    logits, mask = flat_cases()
    log_probs = masked_log_softmax(logits, mask)
    entropy = masked_entropy(log_probs, mask)
    first = MaskableCategorical(logits=logits, masks=mask.numpy())
    second = MaskedCategorical(logits=logits, mask=mask)
    torch.testing.assert_close(entropy, first.entropy(), rtol=0, atol=1e-6)
    for choice in range(logits.shape[1]):
        column = torch.full((len(logits),), choice)
        legal = mask[:, choice]
        ours = log_probs[:, choice][legal]
        torch.testing.assert_close(ours, first.log_prob(column)[legal], rtol=0, atol=1e-6)  # type: ignore[no-untyped-call]
        torch.testing.assert_close(ours, second.log_prob(column)[legal], rtol=0, atol=1e-6)
    for row in range(len(logits)):
        alone = MaskedCategorical(logits=logits[row], mask=mask[row])
        torch.testing.assert_close(entropy[row], alone.entropy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_valid", [1, 2, 5, 7])
def test_a26_uniform_logits_give_the_logarithm_of_the_number_of_legal_choices(
    dtype: torch.dtype, num_valid: int
) -> None:
    logits = torch.full((1, 7), -3.0, dtype=dtype)
    mask = torch.arange(7)[None] < num_valid
    log_probs = masked_log_softmax(logits, mask)
    assert log_probs.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    assert masked_entropy(log_probs, mask).exp().item() == pytest.approx(num_valid, abs=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a26_a_single_legal_choice_is_certain_and_has_no_gradient(dtype: torch.dtype) -> None:
    logits = torch.tensor([[3.0, -100.0, 0.5]], dtype=dtype, requires_grad=True)
    mask = torch.tensor([[False, True, False]])
    log_probs = masked_log_softmax(logits, mask)
    entropy = masked_entropy(log_probs, mask)
    assert log_probs[0, 1].item() == 0.0
    assert entropy.item() == 0.0
    (gradient,) = gradients(log_probs[0, 1] + entropy.sum(), [logits])
    assert gradient.eq(0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_entropies_of_narrow_logits_equal_those_of_their_float64_values(dtype: torch.dtype) -> None:
    logits, mask = flat_cases(dtype)
    wide = masked_entropy(masked_log_softmax(logits.double(), mask), mask)
    narrow = masked_entropy(masked_log_softmax(logits, mask), mask)
    torch.testing.assert_close(narrow.double(), wide, rtol=0, atol=2e-6)


def test_a_row_without_a_choice_is_finite_in_value_and_gradient() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    mask = torch.zeros(2, 3, dtype=torch.bool)
    log_probs = masked_log_softmax(logits, mask)
    entropy = masked_entropy(log_probs, mask)
    assert log_probs.isfinite().all()
    assert entropy.eq(0).all()
    (gradient,) = gradients(log_probs.sum() * 1e-38 + entropy.sum(), [logits])
    assert gradient.eq(0).all()


@pytest.mark.parametrize("size", [1e4, 1e30, 3e38])
def test_huge_logits_never_let_a_masked_choice_in(size: float) -> None:
    logits = torch.tensor([[size, -size, -size], [-size, -size, size]])
    mask = torch.tensor([[False, True, True], [True, True, False]])
    log_probs = masked_log_softmax(logits, mask)
    assert log_probs[~mask].exp().eq(0).all()
    torch.testing.assert_close(log_probs[mask].exp(), torch.full((4,), 0.5))


# ---------------------------------------------------------------------- the joint distribution, enumerated


@settings(max_examples=8)
@given(SEEDS, st.booleans())
def test_a30_the_enumerated_joint_sums_to_one_and_has_the_scored_log_probs(
    seed: int, is_factored: bool
) -> None:
    case = make_case(seed, rows=2, slots=2, blueprints=3, is_factored=is_factored)
    for row in range(2):
        actions, expected = enumerated(case, row)
        torch.testing.assert_close(scored(case, row, actions), expected, rtol=0, atol=1e-10)
        assert expected.sum(dim=-1).exp().sum().item() == pytest.approx(1.0, abs=1e-10)
        assert case.distribution.num_valid()[row].item() == len(actions)


@settings(max_examples=10)
@given(SEEDS, st.booleans())
def test_a31_entropy_and_its_gradient_equal_the_enumeration(seed: int, is_factored: bool) -> None:
    case = make_case(seed, is_factored=is_factored)
    entropy = case.distribution.entropy()
    for row in range(3):
        _, by_head = enumerated(case, row)
        joint = by_head.sum(dim=-1)
        total = -(joint.exp() * joint).sum()
        torch.testing.assert_close(entropy[row].sum(), total, rtol=0, atol=1e-9)
        # A head's conditional entropy is the mean surprise of its column over the whole joint.
        per_head = -(joint.exp()[:, None] * by_head).sum(dim=0)
        torch.testing.assert_close(entropy[row], per_head, rtol=0, atol=1e-9)
        ours, theirs = gradients(entropy[row].sum(), case.leaves), gradients(total, case.leaves)
        for ours_by_leaf, theirs_by_leaf in zip(ours, theirs, strict=True):
            torch.testing.assert_close(ours_by_leaf, theirs_by_leaf, rtol=0, atol=1e-9)


@settings(max_examples=10)
@given(SEEDS)
def test_a33_weighted_entropies_and_their_gradients_equal_the_enumeration(seed: int) -> None:
    case = make_case(seed)
    weights = torch.tensor([0.01, 0.2, 0.0, 3.0, 1.0, 0.5, 0.05], dtype=torch.float64)
    entropy = case.distribution.entropy()
    for row in range(3):
        _, by_head = enumerated(case, row)
        expected = -(by_head.sum(dim=-1).exp()[:, None] * by_head * weights).sum()
        ours = (entropy[row] * weights).sum()
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)
        for mine, oracle in zip(gradients(ours, case.leaves), gradients(expected, case.leaves), strict=True):
            torch.testing.assert_close(mine, oracle, rtol=0, atol=1e-9)


def test_entropy_of_later_heads_moves_the_operation() -> None:
    case = make_case(5, rows=6)
    exact = gradients(case.distribution.entropy().sum(), case.leaves)[0]
    op_entropy = masked_entropy(masked_log_softmax(case.logits.op, case.mask.op), case.mask.op).sum()
    assert not torch.allclose(exact, gradients(op_entropy, case.leaves)[0], atol=1e-3)


@settings(max_examples=10)
@given(SEEDS)
def test_log_prob_gradients_equal_the_enumeration_and_unused_columns_have_none(seed: int) -> None:
    case = make_case(seed, rows=1, slots=2, blueprints=2)
    actions, expected = enumerated(case, 0)
    place = seed % len(actions)
    ours = case.distribution.log_prob(actions[place : place + 1])
    for mine, oracle in zip(
        gradients(ours.sum(), case.leaves), gradients(expected[place].sum(), case.leaves), strict=True
    ):
        torch.testing.assert_close(mine, oracle, rtol=0, atol=1e-10)
    active = case.distribution.active(actions[place : place + 1])
    assert ours[~active].eq(0).all()
    if not bool(active.all()):
        assert all(g.eq(0).all() for g in gradients(ours[~active].sum(), case.leaves))


@pytest.mark.slow
def test_a30_the_joint_equals_a_flat_masked_categorical_with_matching_logits() -> None:
    from sb3_contrib.common.maskable.distributions import MaskableCategorical  # noqa: PLC0415

    rng = torch.Generator().manual_seed(11)
    layout = ActionLayout(op_names=("A", "B"), uses={"op": (True,) * 2, "slot": (True,) * 2})
    table = torch.randn(4, 2, 5, generator=rng, dtype=torch.float64) * 3
    mask = torch.rand(4, 2, 5, generator=rng) < 0.6
    mask[:, 0, 0] = True
    flat = MaskableCategorical(logits=table.reshape(4, 10), masks=mask.reshape(4, 10).numpy())
    joint = JointDistribution(
        layout,
        ActionLogits(op=table.masked_fill(~mask, -1e8).logsumexp(dim=-1), slot=table),
        ActionMask(op=mask.any(dim=-1), slot=mask),
    )
    for op in range(2):
        for slot in range(5):
            ours = joint.log_prob(torch.tensor([[op, slot]] * 4)).sum(dim=-1)
            theirs = flat.log_prob(torch.full((4,), op * 5 + slot))  # type: ignore[no-untyped-call]
            legal = mask[:, op, slot]
            torch.testing.assert_close(ours[legal], theirs[legal], rtol=0, atol=1e-6)
    torch.testing.assert_close(joint.entropy().sum(dim=-1), flat.entropy(), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a33_weighted_entropies_of_independent_heads_equal_a_peer() -> None:
    from torchrl.modules.distributions import MaskedCategorical  # noqa: PLC0415

    uses = {"op": (True,) * 3, "slot": (True,) * 3, "tempo": (True,) * 3}
    layout = ActionLayout(op_names=("A", "B", "C"), uses=uses, argument_sizes={"tempo": 4})
    rng = torch.Generator().manual_seed(4)
    op, slot, tempo = (torch.randn(1, size, generator=rng, dtype=torch.float64) for size in (3, 5, 4))
    op_mask, slot_mask = torch.tensor([True, False, True]), torch.tensor([True, True, False, True, False])
    ours = JointDistribution(
        layout,
        ActionLogits(op=op, slot=slot[:, None], arguments={"tempo": tempo[:, None, None]}),
        ActionMask(op=op_mask[None], slot=slot_mask.expand(1, 3, 5)),
    ).entropy()
    peers = torch.stack(
        [
            MaskedCategorical(logits=op[0], mask=op_mask).entropy(),
            MaskedCategorical(logits=slot[0], mask=slot_mask).entropy(),
            categorical_entropy(tempo[0]),
        ]
    )
    weights = torch.tensor([0.01, 0.3, 2.0], dtype=torch.float64)
    torch.testing.assert_close((ours[0] * weights).sum(), (peers * weights).sum(), rtol=0, atol=1e-6)


def test_a_plain_discrete_action_is_one_categorical() -> None:
    logits = torch.randn(5, 3, dtype=torch.float64)
    joint = JointDistribution(
        PLAIN, ActionLogits(op=logits), ActionMask(op=torch.ones(5, 3, dtype=torch.bool))
    )
    oracle = torch.distributions.Categorical(logits=logits)
    actions = torch.tensor([[0], [1], [2], [1], [0]])
    expected = oracle.logits.gather(1, actions)
    torch.testing.assert_close(joint.log_prob(actions), expected)
    torch.testing.assert_close(joint.entropy()[:, 0], categorical_entropy(logits))
    assert joint.num_valid().tolist() == [3] * 5
    assert joint.active(actions).all()
    assert torch.equal(joint.mode()[:, 0], logits.argmax(dim=-1))
    assert sample(joint, 0).shape == (5, 1)
    torch.testing.assert_close(joint.probabilities(actions)["op"], logits.softmax(dim=-1))
    joint.check_not_empty()


# ---------------------------------------------------------------------- drawing


def legal_rows(case: JointCase) -> list[set[tuple[int, ...]]]:
    return [{action for action, _ in enumerate_joint(case, row)} for row in range(len(case.mask.op))]


def draw(case: JointCase, row: int, count: int, seed: int = 0) -> dict[tuple[int, ...], int]:
    """Drawn action -> how often, of `count` draws."""
    drawn = sample(spread(case, row, count).distribution, seed)
    actions, counts = torch.unique(drawn, dim=0, return_counts=True)
    return {tuple(action): n for action, n in zip(actions.tolist(), counts.tolist(), strict=True)}


def shifted(case: JointCase, shift: float) -> JointCase:
    """The same distribution with every logit moved; illegal ones get the opposite sign."""
    logits, mask = case.logits, case.mask

    def move(tensor: Tensor, legal: Tensor | None) -> Tensor:
        moved = tensor.detach().float() + shift
        return moved if legal is None else torch.where(legal, moved, -moved)

    assert logits.slot is not None
    assert logits.blueprint is not None
    return replace(
        case,
        logits=ActionLogits(
            op=move(logits.op, mask.op),
            slot=move(logits.slot, mask.slot),
            blueprint=move(logits.blueprint, mask.blueprint),
            arguments={head: move(table, None) for head, table in logits.arguments.items()},
        ),
    )


@pytest.mark.parametrize("shift", [0.0, -1e4, -1e30])
@pytest.mark.parametrize("count", [pytest.param(10_000), pytest.param(100_000, marks=pytest.mark.slow)])
def test_a29_no_illegal_action_is_ever_drawn(shift: float, count: int) -> None:
    """Ten rows: 1e5 draws per shift in the fast run, 1e6 in the slow one."""
    case = shifted(make_case(7, rows=10, slots=2, blueprints=2, dtype=torch.float32), shift)
    legal = legal_rows(case)
    for row in range(10):
        assert set(draw(case, row, count, seed=row)) <= legal[row]


def test_draws_have_the_enumerated_frequencies() -> None:
    case = make_case(21, rows=1, slots=2, blueprints=2, scale=0.7)
    actions, by_head = enumerated(case, 0)
    probabilities = by_head.sum(dim=-1).exp().tolist()
    count = 60_000
    drawn = draw(case, 0, count)
    statistic = sum(
        (drawn.get(tuple(action), 0) - count * p) ** 2 / (count * p)
        for action, p in zip(actions.tolist(), probabilities, strict=True)
    )
    freedom = len(actions) - 1
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)


def test_draws_come_from_the_given_numbers_alone() -> None:
    case = make_case(3)
    before = torch.get_rng_state()
    first = sample(case.distribution, 5)
    assert torch.equal(first, sample(case.distribution, 5))
    assert torch.equal(before, torch.get_rng_state())


def test_a41_what_a_row_draws_does_not_depend_on_the_rows_beside_it() -> None:
    case = make_case(3)
    noise = torch.rand(case.distribution.mode().shape, generator=torch.Generator().manual_seed(2))
    together = case.distribution.sample(noise)
    for row in range(len(noise)):
        alone = spread(case, row, 1).distribution.sample(noise[row : row + 1])
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("edge", [0.0, 1.0 - 2.0**-32])
def test_the_ends_of_the_range_draw_something_legal(edge: float) -> None:
    for seed in range(20):
        case = make_case(seed, scale=3.0)
        drawn = case.distribution.sample(
            torch.full(case.distribution.mode().shape, edge, dtype=torch.float64)
        )
        for row, legal in enumerate(legal_rows(case)):
            assert tuple(drawn[row].tolist()) in legal


def test_a_number_draws_the_choice_whose_stretch_holds_it() -> None:
    """p = .2, .5, .3: below .2 the first, up to .7 the second."""
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log().expand(6, 3)
    joint = JointDistribution(PLAIN, ActionLogits(op=logits), ActionMask(op=torch.ones(6, 3).bool()))
    numbers = torch.tensor([[0.0], [0.199], [0.201], [0.699], [0.701], [0.999]])
    assert joint.sample(numbers)[:, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_noise_of_another_shape_is_refused() -> None:
    case = make_case(3)
    with pytest.raises(ValueError, match=r"noise of shape \[3, 1\]: need \[3, "):
        case.distribution.sample(torch.zeros(3, 1))


@settings(max_examples=10)
@given(SEEDS)
def test_the_mode_is_legal_and_each_choice_is_the_likeliest_after_those_before_it(seed: int) -> None:
    case = make_case(seed)
    mode = case.distribution.mode()
    for row in range(3):
        actions, by_head = enumerated(case, row)
        candidates = torch.ones(len(actions), dtype=torch.bool)
        for head in range(actions.shape[1]):
            best = by_head[candidates, head].max()
            candidates &= (by_head[:, head] == best) & candidates
        assert mode[row].tolist() in actions[candidates].tolist()


def with_bad_row(case: JointCase, value: float) -> JointCase:
    """Every logit of row 1 replaced."""

    def spoil(tensor: Tensor) -> Tensor:
        spoilt = tensor.detach().clone()
        spoilt[1] = value
        return spoilt

    logits = case.logits
    assert logits.slot is not None
    assert logits.blueprint is not None
    return replace(
        case,
        logits=ActionLogits(
            op=spoil(logits.op),
            slot=spoil(logits.slot),
            blueprint=spoil(logits.blueprint),
            arguments={head: spoil(table) for head, table in logits.arguments.items()},
        ),
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a24_a_row_that_is_not_finite_draws_something_legal_and_disturbs_no_other(value: float) -> None:
    clean = make_case(13)
    bad = with_bad_row(clean, value)
    legal = legal_rows(clean)[1]
    others = [0, 2]
    for seed in range(50):
        expected = sample(clean.distribution, seed)
        drawn = sample(bad.distribution, seed)
        assert torch.equal(drawn[others], expected[others])
        assert tuple(drawn[1].tolist()) in legal
    assert tuple(bad.distribution.mode()[1].tolist()) in legal
    actions = clean.distribution.mode()
    assert not bad.distribution.log_prob(actions)[1].isfinite().all()
    assert torch.equal(
        bad.distribution.log_prob(actions)[others], clean.distribution.log_prob(actions)[others]
    )
    assert torch.equal(bad.distribution.entropy()[others], clean.distribution.entropy()[others])


# ---------------------------------------------------------------------- empty masks, wrong inputs


def test_a27_an_empty_mask_names_the_environment_and_the_head() -> None:
    case = make_case(2)
    case.distribution.check_not_empty()
    case.mask.op[1] = False
    with pytest.raises(EmptyMaskError, match=r"^env-b: no legal choice for head 'op'"):
        case.distribution.check_not_empty(("env-a", "env-b", "env-c"))
    with pytest.raises(EmptyMaskError, match=r"^row 1: "):
        case.distribution.check_not_empty()


def test_a27_a_legal_operation_without_a_slot_is_an_error_and_an_illegal_one_is_not() -> None:
    case = make_case(2)
    assert case.mask.slot is not None
    cull = GROWTH_LAYOUT.op_names.index("CULL")
    case.mask.slot[2, cull] = False
    case.mask.op[2, cull] = False
    case.distribution.check_not_empty()
    case.mask.op[2, cull] = True
    with pytest.raises(EmptyMaskError, match="row 2: no legal choice for head 'slot'"):
        case.distribution.check_not_empty()


def test_a27_a_slot_that_may_be_germinated_without_a_blueprint_is_an_error() -> None:
    case = make_case(2)
    assert case.mask.slot is not None
    assert case.mask.blueprint is not None
    birth = GROWTH_LAYOUT.op_names.index("GERMINATE")
    case.mask.op[0, birth] = True
    case.mask.slot[0, birth] = torch.tensor([True, False])
    case.mask.blueprint[0, 0] = True
    case.mask.blueprint[0, 1:] = False
    case.distribution.check_not_empty()
    case.mask.blueprint[0, 0] = False
    with pytest.raises(EmptyMaskError, match="row 0: no legal choice for head 'blueprint'"):
        case.distribution.check_not_empty()


@pytest.mark.parametrize("missing", ["slot", "blueprint"])
def test_a_head_without_its_mask_is_refused(missing: str) -> None:
    case = make_case(1)
    masks = {"slot": case.mask.slot, "blueprint": case.mask.blueprint, missing: None}
    with pytest.raises(ValueError, match=rf"'{missing}'.*no mask"):
        JointDistribution(case.layout, case.logits, ActionMask(op=case.mask.op, **masks))


def test_a_mask_for_a_head_that_the_layout_lacks_is_refused() -> None:
    everything = torch.ones(1, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"'slot'.*no such head"):
        JointDistribution(
            PLAIN, ActionLogits(op=torch.zeros(1, 3)), ActionMask(op=everything, slot=everything[..., None])
        )


def test_logits_that_do_not_match_the_layout_are_refused() -> None:
    case = make_case(1)
    with pytest.raises(ValueError, match="the layout has the heads"):
        JointDistribution(case.layout, ActionLogits(op=case.logits.op), case.mask)
    with pytest.raises(ValueError, match="the layout has the heads"):
        JointDistribution(PLAIN, case.logits, case.mask)


# ---------------------------------------------------------------------- shapes and showing


@settings(max_examples=10)
@given(SEEDS, st.integers(0, 3), st.integers(0, 3))
def test_padding_slots_and_blueprints_changes_nothing(seed: int, more_slots: int, more: int) -> None:
    case = make_case(seed)

    def pad(tensor: Tensor, last: int, before: int = 0) -> Tensor:
        return torch.nn.functional.pad(tensor, (0, last, 0, before))

    logits, mask = case.logits, case.mask
    assert logits.slot is not None
    assert logits.blueprint is not None
    assert mask.slot is not None
    assert mask.blueprint is not None
    padded = JointDistribution(
        case.layout,
        ActionLogits(
            op=logits.op,
            slot=pad(logits.slot, more_slots),
            blueprint=pad(logits.blueprint, more, more_slots),
            arguments={head: pad(table, 0, more_slots) for head, table in logits.arguments.items()},
        ),
        ActionMask(
            op=mask.op, slot=pad(mask.slot, more_slots), blueprint=pad(mask.blueprint, more, more_slots)
        ),
    )
    actions = case.distribution.mode()
    torch.testing.assert_close(padded.log_prob(actions), case.distribution.log_prob(actions))
    torch.testing.assert_close(padded.entropy(), case.distribution.entropy())
    assert torch.equal(padded.num_valid(), case.distribution.num_valid())
    assert torch.equal(padded.mode(), actions)


def test_shown_probabilities_are_those_of_the_scored_columns() -> None:
    case = make_case(17)
    actions = sample(case.distribution, 1)
    shown = case.distribution.probabilities(actions)
    scores, active = case.distribution.log_prob(actions), case.distribution.active(actions)
    assert tuple(shown) == case.layout.heads
    for column, head in enumerate(case.layout.heads):
        chosen = shown[head].gather(1, actions[:, column : column + 1])[:, 0]
        rows = active[:, column]
        torch.testing.assert_close(chosen[rows], scores[:, column][rows].exp())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a38_log_probs_and_entropies_are_float32_under_autocast(dtype: torch.dtype) -> None:
    case = make_case(9, dtype=dtype)
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    for autocast in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=autocast):
            distribution = case.distribution
            actions = distribution.mode()
            scores, entropy = distribution.log_prob(actions), distribution.entropy()
        assert scores.dtype is wide
        assert entropy.dtype is wide
        assert torch.equal(scores, case.distribution.log_prob(actions))
        assert torch.equal(entropy, case.distribution.entropy())


@pytest.mark.parametrize("pick", [JointDistribution.mode, lambda joint: sample(joint, 0)])
def test_a_single_row_has_the_shapes_of_many(pick: Callable[[JointDistribution], Tensor]) -> None:
    case = make_case(2, rows=1, slots=1, blueprints=1)
    actions = pick(case.distribution)
    assert actions.shape == (1, 7)
    assert actions.dtype is torch.int64
    assert case.distribution.log_prob(actions).shape == (1, 7)
    assert case.distribution.entropy().shape == (1, 7)
    assert case.distribution.num_valid().shape == (1,)
