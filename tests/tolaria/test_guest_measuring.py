"""A user's own evaluation, asked once per setting; tolaria/norm_statistics.py, tolaria/input_recorder.py."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina import build_seeded, norms_with_statistics
from esper.leyline import ConfigError, MetricSpec, SeedStage
from esper.tolaria.guest_measuring import MIN_SCALARS, GuestMeasurer, read_values
from esper.tolaria.input_recorder import InputRecorder
from esper.tolaria.norm_statistics import batch_statistics, read_statistics, write_statistics
from tolaria.loop_toys import TRAIN, VALIDATION, Loop, Net, advance, germinate, make_loop

LOSS = MetricSpec(name="loss", is_higher_better=False, scale=0.1)
ACCURACY = MetricSpec(name="accuracy", is_higher_better=True, scale=0.05)


def _blending(*, norm: bool = False) -> Loop:
    """Return a loop whose seed at `body` stands at alpha 1, weights stirred."""
    loop = make_loop([germinate(), None, advance()], host=build_seeded(lambda: Net(norm=norm), 0)).run(4)
    slot = loop.model.slot("body")
    assert slot.state.stage is SeedStage.PROBATIONARY
    with torch.no_grad():
        for place, parameter in enumerate(slot.parameters()):
            parameter.copy_(
                0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(place))
            )
    return loop


@pytest.mark.parametrize(
    ("values", "metric", "mean", "count"),
    [
        (0.25, LOSS, -0.25, None),
        (torch.tensor(0.25), ACCURACY, 0.25, None),
        (torch.tensor([0.0, 1.0]), ACCURACY, 0.5, 2),
        (torch.tensor([0.0, 1.0]), LOSS, -0.5, 2),
        ({"loss": 0.5, "accuracy": 0.75}, ACCURACY, 0.75, None),
        ({"loss": torch.tensor([1.0, 3.0]), "note": "text"}, LOSS, -2.0, 2),
    ],
)
def test_numbers_tensors_and_mappings_are_read_higher_is_better(
    values: object, metric: MetricSpec, mean: float, count: int | None
) -> None:
    reading = read_values(values, metric)
    assert reading.mean == mean
    assert (None if reading.items is None else len(reading.items)) == count


def test_what_comes_with_the_metric_is_kept_as_it_was_given() -> None:
    reading = read_values({"loss": torch.tensor([1.0, 3.0]), "accuracy": 0.5, "note": "text"}, LOSS)
    assert reading.others == {"loss": 2.0, "accuracy": 0.5}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"accuracy": 1.0}, "returned 'accuracy', not the metric 'loss'"),
        ({"lss": 1.0}, "did you mean 'lss'"),
        ({}, "returned nothing"),
        (None, r"is 'None' \(NoneType\): expected a finite number, or a tensor \[N\]"),
        (float("inf"), "expected a finite number"),
        (torch.tensor([1.0, float("nan")]), "is not finite for every item"),
    ],
)
def test_what_is_no_metric_is_refused(values: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_values(values, LOSS)


def test_contribution_is_the_paired_difference_with_the_seed_off() -> None:
    loop = _blending()
    with torch.no_grad():
        on = loop.item_losses().double()
        alpha, slot = loop.model.slot("body").state.alpha, loop.model.slot("body")
        slot.set_alpha(0.0)
        off = loop.item_losses().double()
        slot.set_alpha(alpha)
    measurer = GuestMeasurer(LOSS, InputRecorder(64))
    estimate = measurer.measure(loop.model, loop.item_losses)["body"].contribution
    assert estimate is not None
    difference = off - on
    assert estimate.mean == pytest.approx(float(difference.mean()), rel=1e-6)
    assert estimate.standard_error == pytest.approx(float(difference.std()) / 10.0, rel=1e-6)
    assert estimate.num_items == 100


def test_a_single_number_claims_nothing_before_three_intervals() -> None:
    loop = _blending()
    measurer = GuestMeasurer(LOSS, InputRecorder(64))
    found = [
        measurer.measure(loop.model, lambda: float(loop.item_losses().mean()))["body"].contribution
        for _ in range(MIN_SCALARS)
    ]
    assert [estimate is None for estimate in found] == [True] * (MIN_SCALARS - 1) + [False]
    last = found[-1]
    assert last is not None
    assert last.standard_error == pytest.approx(0.0, abs=1e-12)


def test_an_evaluation_that_changes_its_items_is_refused() -> None:
    loop = _blending()
    sizes = iter([100, 99])
    with pytest.raises(ConfigError, match=r"returned 100 items and then 99.*no shuffling"):
        GuestMeasurer(LOSS, InputRecorder(64)).measure(loop.model, lambda: loop.item_losses()[: next(sizes)])


def test_modes_statistics_and_plans_are_as_before_also_when_an_evaluation_fails() -> None:
    loop = _blending(norm=True)
    loop.model.train()
    before = {name: value.clone() for name, value in loop.model.state_dict().items()}
    for evaluate in (loop.item_losses, _raise):
        with contextlib.suppress(ZeroDivisionError):
            loop.controller.measurer.measure(loop.model, evaluate)
        assert all(module.training for module in loop.model.modules())
        assert all(torch.equal(value, before[name]) for name, value in loop.model.state_dict().items())
        assert all(not slot.plan.overrides for slot in loop.model.each_slot())


def _raise() -> Tensor:
    raise ZeroDivisionError


def test_a_host_with_norms_is_not_measured_before_inputs_were_seen() -> None:
    loop = _blending(norm=True)
    assert GuestMeasurer(LOSS, InputRecorder(64)).measure(loop.model, loop.item_losses) == {}
    assert loop.controller.measurer.can_measure(loop.model)


def test_a_constant_that_a_norm_takes_away_is_worth_nothing() -> None:
    class Normed(nn.Module):
        """A norm right after the slot takes any constant away in training; old statistics would not."""

        def __init__(self) -> None:
            super().__init__()
            self.body, self.neck = nn.Sequential(nn.Linear(6, 8), nn.ReLU()), nn.BatchNorm1d(8)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.neck(self.body(x)))
            return out

    loop = make_loop([germinate(), None, advance()], host=build_seeded(Normed, 0)).run(4)
    slot = loop.model.slot("body")
    with torch.no_grad():
        for parameter in slot.parameters():
            parameter.zero_()
        list(slot.parameters())[-1].fill_(5.0)
    loop.controller.measurer = GuestMeasurer(LOSS, loop.controller.recorder)
    measured = loop.controller.measurer.measure(loop.model, loop.item_losses)["body"].contribution
    assert measured is not None
    assert abs(measured.mean) < 1e-5


def test_statistics_of_several_batches_are_their_mean() -> None:
    norm = nn.BatchNorm1d(6).eval()
    batches = torch.split(TRAIN[0][:96], 32)
    saved = read_statistics([norm])
    with torch.no_grad(), batch_statistics([norm], num_batches=3):
        for batch in batches:
            norm(batch)
    assert norm.running_mean is not None
    assert torch.allclose(
        norm.running_mean, torch.stack([batch.mean(0) for batch in batches]).mean(0), atol=1e-6
    )
    assert norm.momentum == 0.1
    assert not norm.training
    write_statistics([norm], saved)
    assert torch.equal(norm.running_mean, torch.zeros(6))


def test_the_recorder_keeps_the_latest_inputs_up_to_its_size_and_counts_all() -> None:
    recorder, host = InputRecorder(64), Net(norm=True)
    host.register_forward_pre_hook(recorder, with_kwargs=True)
    for start in range(0, 128, 32):
        host(TRAIN[0][start : start + 32])
    with torch.no_grad():
        host(VALIDATION[0])
    assert (recorder.num_batches, recorder.num_items, recorder.take_trained(), recorder.take_trained()) == (
        2,
        64,
        128,
        0,
    )
    seen: list[Tensor] = []
    probe = Net()
    probe.body.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    recorder.run_again(probe)
    assert torch.equal(torch.cat(seen), TRAIN[0][64:128])


def test_a_recorder_comes_back_from_plain_data_with_arguments_by_name() -> None:
    recorder = InputRecorder(64)
    recorder(nn.Identity(), (TRAIN[0][:4],), {"mask": TRAIN[1][:4], "flag": True, "none": None})
    tensors, state = recorder.state()
    other = InputRecorder(64)
    other.restore(tensors, state, torch.device("cpu"))
    assert other.num_items == 4
    calls: list[object] = []

    class Host(nn.Module):
        def forward(self, x: Tensor, mask: Tensor, flag: bool, none: None) -> Tensor:
            calls.append((x, mask, flag, none))
            return x

    other.run_again(Host())
    assert torch.equal(calls[0][0], TRAIN[0][:4])  # type: ignore[index]
    assert calls[0][2:] == (True, None)  # type: ignore[index]


def test_an_argument_that_is_no_plain_data_is_refused_when_it_is_saved() -> None:
    recorder = InputRecorder(64)
    recorder(nn.Identity(), (TRAIN[0][:4], object()), {})
    with pytest.raises(ConfigError, match="an argument of the host is a object"):
        recorder.state()


def test_a_norms_list_is_what_statistics_are_read_from() -> None:
    assert len(read_statistics(norms_with_statistics(Net(norm=True)))) == 1
