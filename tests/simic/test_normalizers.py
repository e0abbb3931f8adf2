"""Statistics against numpy and torchrl; the critic's layer follows when they move."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchrl.modules import PopArtValueNorm

from esper.leyline import ForeignCheckpointError, JsonValue, SingleProcess, UnknownNameError
from esper.simic.advantages import compute_gae, compute_next_values
from esper.simic.normalizers import (
    EmaMoments,
    InputNormalizer,
    Moments,
    RunningMoments,
    ValueNormalizer,
    compute_moments,
    scalar_moments,
)

from .test_advantages import GAMMA, LAMBDA, rows_of


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments_of(values: Tensor) -> Moments:
    return scalar_moments(float(values.numel()), float(values.sum()), float(values.square().sum()))


def batches(num: int = 6) -> list[Tensor]:
    """Batches of growing size whose mean and spread drift."""
    return [draw(5 + 7 * k, seed=k) * (1 + k) + 3 * k for k in range(num)]


def test_a06_running_moments_equal_numpy_over_everything() -> None:
    running = RunningMoments()
    for batch in batches():
        running.apply_update(moments_of(batch))
    everything = torch.cat(batches()).numpy()
    assert float(running.mean) == pytest.approx(np.mean(everything), rel=1e-9)
    assert float(running.variance) == pytest.approx(np.var(everything), rel=1e-9)
    assert running.count == len(everything)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.99])
def test_a06_moving_average_equals_torchrl(beta: float) -> None:
    moving = EmaMoments(beta)
    oracle = PopArtValueNorm(shape=1, beta=beta, epsilon=1e-9).double()
    for batch in batches():
        moving.apply_update(moments_of(batch))
        oracle.update(batch[:, None])
        mean, variance = oracle.running_mean / oracle.debiasing_term, oracle.scale().square()
        assert float(moving.mean) == pytest.approx(float(mean), rel=1e-6)
        assert float(moving.variance) == pytest.approx(float(variance), rel=1e-6)


def test_bug04_the_variance_of_a_moving_average_holds_the_shift_of_the_mean() -> None:
    moving, beta = EmaMoments(0.9), 0.9
    weights = np.array([beta ** (5 - k) for k in range(6)])
    weights /= weights.sum()
    for batch in batches():
        moving.apply_update(moments_of(batch))
    means = np.array([np.mean(batch.numpy()) for batch in batches()])
    variances = np.array([np.var(batch.numpy()) for batch in batches()])
    mean = float(weights @ means)
    expected = float(weights @ (variances + (means - mean) ** 2))
    assert float(moving.variance) == pytest.approx(expected, rel=1e-9)
    assert expected > 1.5 * float(weights @ variances)


def test_an_empty_batch_changes_nothing() -> None:
    empty = scalar_moments(0.0, 0.0, 0.0)
    layer = nn.Linear(2, 1)
    before = copy.deepcopy(layer.state_dict())
    for moments in (RunningMoments(), EmaMoments(0.9)):
        moments.apply_update(empty)
        assert (float(moments.mean), float(moments.variance)) == (0.0, 1.0)
    normalizer = ValueNormalizer("popart", beta=0.9)
    normalizer.apply_update(empty, layer)
    normalizer.apply_update(scalar_moments(3.0, math.nan, 1.0), layer)
    assert (normalizer.mean, normalizer.std, normalizer.num_updates) == (0.0, 1.0, 0)
    assert all(torch.equal(before[name], x) for name, x in layer.state_dict().items())


@pytest.mark.parametrize("kind", ["popart", "welford"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a07_no_raw_prediction_changes_when_the_statistics_move(kind: str, dtype: torch.dtype) -> None:
    layer = nn.Linear(4, 1, dtype=dtype)
    features = draw(20, 4).to(dtype)
    normalizer = ValueNormalizer(kind, beta=0.9)
    for batch in batches():
        before = normalizer.denormalize(layer(features))
        old = normalizer.mean, normalizer.std
        normalizer.apply_update(moments_of(batch), layer)
        assert (normalizer.mean, normalizer.std) != old
        after = normalizer.denormalize(layer(features))
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    assert normalizer.num_updates == len(batches())


def test_a07_normalised_targets_have_mean_0_and_deviation_1() -> None:
    normalizer, returns = ValueNormalizer("popart", beta=0.9), draw(50) * 7 + 30
    normalizer.apply_update(moments_of(returns), nn.Linear(1, 1))
    targets = normalizer.normalize(returns)
    assert float(targets.mean()) == pytest.approx(0.0, abs=1e-12)
    assert float(targets.std(correction=0)) == pytest.approx(1.0, rel=1e-9)
    torch.testing.assert_close(normalizer.denormalize(targets), returns)


def test_returns_that_do_not_vary_are_not_blown_up() -> None:
    normalizer = ValueNormalizer("popart", beta=0.9)
    normalizer.apply_update(moments_of(torch.full((9,), 2.0)), nn.Linear(1, 1))
    assert normalizer.std == pytest.approx(1e-4)


def test_without_normalisation_values_are_raw() -> None:
    normalizer = ValueNormalizer("none", beta=0.9)
    layer = nn.Linear(1, 1)
    before = layer.weight.clone()
    normalizer.apply_update(moments_of(draw(9)), layer)
    assert torch.equal(before, layer.weight)
    assert torch.equal(normalizer.normalize(draw(3)), draw(3))


def test_a05_bug05_advantages_do_not_depend_on_the_scale_of_the_critic() -> None:
    raw, _, steps, bootstrap = rows_of(3, 8, 4)
    normalizer = ValueNormalizer("popart", beta=0.9)
    normalizer.restore({**normalizer.state(), "mean": 7.0, "std": 3.0})
    seen = normalizer.denormalize(normalizer.normalize(raw))
    plain, scaled = (
        compute_gae(
            value,
            compute_next_values(value, steps.truncated, bootstrap),
            steps,
            gamma=GAMMA,
            gae_lambda=LAMBDA,
        )
        for value in (raw, seen)
    )
    torch.testing.assert_close(scaled.advantage, plain.advantage, rtol=0, atol=1e-6)
    torch.testing.assert_close(scaled.returns, plain.returns, rtol=0, atol=1e-6)
    torch.testing.assert_close(scaled.returns, scaled.advantage + seen)


@pytest.mark.parametrize("kind", ["popart", "welford", "none"])
def test_bug11_a_restored_normaliser_goes_on_bit_for_bit(kind: str) -> None:
    first, second = ValueNormalizer(kind, beta=0.9), ValueNormalizer(kind, beta=0.9)
    layer = nn.Linear(2, 1, dtype=torch.float64)
    for batch in batches()[:3]:
        first.apply_update(moments_of(batch), layer)
    twin = copy.deepcopy(layer)
    second.restore(first.state())
    for batch in batches()[3:]:
        first.apply_update(moments_of(batch), layer)
        second.apply_update(moments_of(batch), twin)
    assert first.state() == second.state()
    assert torch.equal(layer.weight, twin.weight)
    assert torch.equal(layer.bias, twin.bias)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "welford"},
        {"moments": None},
        {"mean": "7"},
        {"moments": {"weight": 1.0, "first": [1.0, 2.0]}},
    ],
)
def test_another_normaliser_s_state_is_refused(change: dict[str, JsonValue]) -> None:
    normalizer = ValueNormalizer("popart", beta=0.9)
    with pytest.raises(ForeignCheckpointError):
        normalizer.restore({**normalizer.state(), **change})


# ---------------------------------------------------------------------- inputs

ALL = torch.ones(4, dtype=torch.bool)


class Doubling:
    """Two ranks that saw the same."""

    rank, world_size = 0, 2

    def all_max(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def broadcast(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def gather_bytes(self, data: bytes) -> list[bytes]:
        return [data]

    def all_agree(self, digest: str) -> bool:
        return True

    def all_sum(self, values: Sequence[float]) -> list[float]:
        return [2.0 * value for value in values]


def test_moments_count_only_the_rows_that_are_observed() -> None:
    values = draw(4, 2, 3)
    mask = torch.tensor([True, False, True, True])
    spoilt = values.clone()
    spoilt[1] = math.nan
    found = compute_moments(spoilt, mask)
    kept = values[mask].flatten(0, 1)
    assert found.number == len(kept)
    torch.testing.assert_close(found.total, kept.sum(dim=0))
    torch.testing.assert_close(found.squares, kept.square().sum(dim=0))


def test_ranks_merge_by_their_sums() -> None:
    found = compute_moments(draw(4, 3), ALL).merged(Doubling())
    once = compute_moments(draw(4, 3), ALL)
    assert found.number == 2 * once.number
    torch.testing.assert_close(found.total, 2 * once.total)
    torch.testing.assert_close(found.squares, 2 * once.squares)


def test_bug04_inputs_are_scaled_alike_until_the_rollout_has_ended() -> None:
    normalizer = InputNormalizer(("features",), bound=10.0)
    inputs = {"features": draw(4, 3).float() * 5 + 2, "mask_op": ALL[:, None]}
    first = normalizer.normalize(inputs)["features"]
    for _ in range(3):
        normalizer.observe(inputs, ALL)
        assert torch.equal(normalizer.normalize(inputs)["features"], first)
    normalizer.apply_update(SingleProcess())
    after = normalizer.normalize(inputs)["features"]
    assert after.dtype is torch.float32
    torch.testing.assert_close(after.mean(dim=0), torch.zeros(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(after.std(dim=0, correction=0), torch.ones(3), rtol=0, atol=1e-5)
    assert normalizer.normalize(inputs)["mask_op"] is inputs["mask_op"]


def test_normalised_inputs_stay_within_the_bound() -> None:
    normalizer = InputNormalizer(("features",), bound=10.0)
    normalizer.observe({"features": draw(4, 3)}, ALL)
    normalizer.apply_update(SingleProcess())
    wild = normalizer.normalize({"features": torch.tensor([[1e9, -1e9, 0.0]])})["features"]
    assert wild[0, :2].tolist() == [10.0, -10.0]


def test_a_name_that_no_input_has_is_refused_with_the_nearest() -> None:
    normalizer = InputNormalizer(("featurs",), bound=10.0)
    with pytest.raises(UnknownNameError, match="did you mean 'features'"):
        normalizer.normalize({"features": draw(4, 3)})
    with pytest.raises(UnknownNameError):
        normalizer.observe({"features": draw(4, 3)}, ALL)


def test_without_names_inputs_pass_as_they_are() -> None:
    inputs = {"features": draw(4, 3)}
    assert InputNormalizer((), bound=10.0).normalize(inputs) is inputs


def test_bug11_input_statistics_are_restored_in_mid_rollout() -> None:
    first, second = (InputNormalizer(("features",), bound=10.0) for _ in range(2))
    first.observe({"features": draw(4, 3)}, ALL)
    first.apply_update(SingleProcess())
    first.observe({"features": draw(4, 3, seed=1)}, ALL)
    second.restore(first.state())
    for normalizer in (first, second):
        normalizer.observe({"features": draw(4, 3, seed=2)}, ALL)
        normalizer.apply_update(SingleProcess())
    assert first.state() == second.state()


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"moments": {"slots": {}}, "pending": {}},
        {"moments": {"features": 3}, "pending": {}},
        {"moments": {}, "pending": {"features": [1.0]}},
    ],
)
def test_other_input_statistics_are_refused(state: dict[str, JsonValue]) -> None:
    with pytest.raises(ForeignCheckpointError):
        InputNormalizer(("features",), bound=10.0).restore(state)
