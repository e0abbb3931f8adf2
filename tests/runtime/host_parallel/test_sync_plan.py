"""The battery's T24 to T26: gradients of several ranks are those of one process on the same batch.

Parity is bit by bit against one process that adds the losses of the ranks' rows one after the other, where
gradients are added in the order of ranks, and up to rounding otherwise.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from esper.data import Batch
from esper.leyline import ExitCode, RanksDisagreeError
from esper.runtime.host_parallel.agreed_stop import AgreedStop
from esper.runtime.host_parallel.shares import deal_rows
from esper.runtime.host_parallel.sync_plan import SyncPlan
from esper.runtime.ranks.channel import Channel
from esper.tolaria import BatchShare, EpochProgress, HostRun, PlanEntry, StepFlags, StepVerdict
from runtime.ranks.thread_ranks import run_ranks
from tolaria.small_run import HORIZON, ListSink, drive, make_parts, make_run

from .copies import (
    Copy,
    LocalSignal,
    config_of,
    largest_difference,
    local_stop,
    results,
    run_copies,
    saved_tensors,
    without_reasons,
)

UNEVEN = 44
"""Batches of 44, 44 and 8 of 96 rows; dealt to three ranks 15, 15 and 14, then 3, 3 and 2."""
TINY_LAST = 31
"""Batches of 31, 31, 31 and 3: of the last, two of three ranks get nothing."""


def learn_in_parts(run: HostRun, world_size: int) -> None:
    """Let one process train on the rows of each rank, one after the other, before it steps."""
    runner = run.bench.runner
    whole = runner._learn

    def learn(share: BatchShare, progress: EpochProgress) -> StepFlags:
        assert share.batch is not None
        num_rows = len(share.batch.targets)
        loss, metric_sum = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for rank in range(world_size):
            rows = deal_rows(num_rows, rank, world_size)
            if rows:
                part = Batch(*(column[rows.start : rows.stop] for column in share.batch))
                flags = whole(BatchShare(part, len(rows) / num_rows), progress)
                assert flags.loss is not None
                assert flags.metric_sum is not None
                loss, metric_sum = loss + flags.loss.double(), metric_sum + flags.metric_sum.double()
        return StepFlags(loss=loss, metric_sum=metric_sum)

    object.__setattr__(runner, "_learn", learn)


def live(copy: Copy) -> tuple[dict[str, torch.Tensor], list[str]]:
    drive(copy.run, HORIZON)
    copy.run.finish()
    return saved_tensors(copy.run.state()), without_reasons(copy.sink.events)


@pytest.mark.slow
@pytest.mark.battery("T24", "T26")
@pytest.mark.parametrize(
    ("world_size", "settings"),
    [
        (2, {"batch_size": UNEVEN}),
        (3, {"batch_size": TINY_LAST, "optimizer": "adamw", "incubation": "residual"}),
        (3, {"batch_size": UNEVEN, "incubation": "straight_through"}),
    ],
)
def test_added_in_order_a_whole_life_equals_that_of_one_process_to_the_bit(
    world_size: int, settings: dict[str, object], tmp_path: Path
) -> None:
    config = config_of(**settings)  # type: ignore[arg-type]
    sink = ListSink()
    alone = make_run(config, make_parts(sink=sink, norm="group"))
    learn_in_parts(alone, world_size)
    drive(alone, HORIZON)
    alone.finish()
    events = without_reasons(sink.events)
    assert {"SeedGerminated", "SeedFossilized", "SeedCulled"} <= {event.kind for event in sink.events}
    for tensors, told in results(run_copies(tmp_path, world_size, live, config, is_ordered=True)):
        assert largest_difference(tensors, saved_tensors(alone.state())) == 0.0
        assert told == events


@pytest.mark.slow
@pytest.mark.battery("T24", "T26")
@pytest.mark.parametrize("world_size", [2, 3])
def test_added_in_any_order_a_step_equals_that_of_one_process_up_to_rounding(
    world_size: int, tmp_path: Path
) -> None:
    config = config_of(batch_size=UNEVEN)

    def walk(run: HostRun) -> list[dict[str, torch.Tensor]]:
        """Return the gradients of the last batch of each interval, before they are clipped."""
        seen: list[dict[str, torch.Tensor]] = []
        optimizer = run.bench.optimizer
        clip = optimizer.check_and_clip

        def look(inverse_scale: float = 1.0) -> object:
            gradients = optimizer.parameters().items()
            seen.append({name: p.grad.clone() for name, p in gradients if p.grad is not None})
            return clip(inverse_scale)

        object.__setattr__(optimizer, "check_and_clip", look)
        drive(run, HORIZON)
        return seen

    whole = walk(make_run(config, make_parts(norm="group")))
    for seen in results(run_copies(tmp_path, world_size, lambda copy: walk(copy.run), config)):
        assert len(seen) == len(whole)
        assert max(largest_difference(a, b) for a, b in zip(seen, whole, strict=True)) <= 1e-6


@pytest.mark.slow
@pytest.mark.battery("T24")
def test_ranks_of_a_host_with_batch_norm_stay_equal_although_none_equals_one_process(
    tmp_path: Path,
) -> None:
    first, second = results(run_copies(tmp_path, 2, live, norm="batch"))
    assert largest_difference(first[0], second[0]) == 0.0
    assert first[1] == second[1]


# ---------------------------------------------------------------------- by itself


def entries_of(parameters: dict[str, nn.Parameter], *isolated: str) -> list[PlanEntry]:
    return [
        PlanEntry(
            name=name,
            shape=tuple(parameter.shape),
            dtype=str(parameter.dtype).removeprefix("torch."),
            group="host" if name.startswith("host") else f"seed:{name}",
            is_isolated=name in isolated,
        )
        for name, parameter in parameters.items()
    ]


def make_plan(channel: Channel, signal: LocalSignal | None = None) -> tuple[SyncPlan, AgreedStop]:
    stop = AgreedStop(local_stop(signal or LocalSignal()))
    return SyncPlan(channel, stop), stop


def make_parameters() -> dict[str, nn.Parameter]:
    names = ("host.a", "host.b", "s1", "s2")
    return {name: nn.Parameter(torch.zeros(3)) for name in names}


def test_missing_gradients_are_zeros_by_plan_but_those_of_an_isolated_seed_only_where_another_rank_has_one(
    tmp_path: Path,
) -> None:
    def reduce(channel: Channel) -> dict[str, list[float] | None]:
        plan, parameters = make_plan(channel)[0], make_parameters()
        plan.replan(entries_of(parameters, "s1", "s2"), parameters)
        if channel.place.rank == 1:
            parameters["host.a"].grad = torch.ones(3)
            parameters["s1"].grad = torch.full((3,), 2.0)
        plan.reduce(StepFlags())
        return {name: None if p.grad is None else p.grad.tolist() for name, p in parameters.items()}

    for found in results(run_ranks(tmp_path, 2, reduce)):
        assert found == {"host.a": [1.0] * 3, "host.b": [0.0] * 3, "s1": [2.0] * 3, "s2": None}


def test_every_rank_hears_which_group_is_faulty_and_on_which_rank(tmp_path: Path) -> None:
    def reduce(channel: Channel) -> tuple[StepVerdict, dict[str, tuple[int, int]]]:
        plan, parameters = make_plan(channel)[0], make_parameters()
        plan.replan(entries_of(parameters), parameters)
        for parameter in parameters.values():
            parameter.grad = torch.ones(3)
        if channel.place.rank == 1:
            parameters["s2"].grad = torch.tensor([1.0, float("inf"), 1.0])
        if channel.place.rank == 2:
            loss = torch.tensor(float("nan"))
            return plan.reduce(StepFlags(loss=loss, metric_sum=torch.ones(()))), plan.take_faults()
        return plan.reduce(StepFlags()), plan.take_faults()

    for verdict, faults in results(run_ranks(tmp_path, 3, reduce)):
        assert verdict.faulty_ranks == {"host": 2, "seed:s2": 1}
        assert faults == {"host": (1, 2), "seed:s2": (1, 1)}
        assert verdict.loss is not None
        assert verdict.loss.isnan()


def test_losses_and_metrics_are_added_over_ranks(tmp_path: Path) -> None:
    def reduce(channel: Channel) -> StepVerdict:
        plan, parameters = make_plan(channel)[0], make_parameters()
        plan.replan(entries_of(parameters), parameters)
        if channel.place.rank == 0:
            return plan.reduce(StepFlags())
        part = torch.tensor(0.1 * channel.place.rank, dtype=torch.float64)
        return plan.reduce(StepFlags(loss=part, metric_sum=torch.tensor(3.0)))

    for verdict in results(run_ranks(tmp_path, 3, reduce)):
        assert verdict.loss is not None
        assert verdict.metric_sum is not None
        assert float(verdict.loss) == 0.1 + 0.2
        assert float(verdict.metric_sum) == 6.0


@pytest.mark.battery("T21")
def test_a_gradient_outside_of_the_plan_ends_all_ranks_with_its_name(tmp_path: Path) -> None:
    def reduce(channel: Channel) -> StepVerdict:
        plan, parameters = make_plan(channel)[0], make_parameters()
        plan.replan(entries_of(parameters), parameters)
        late = nn.Parameter(torch.zeros(2))
        plan.watch({**parameters, "slots.late": late})
        if channel.place.rank == 1:
            late.grad = torch.ones(2)
        return plan.reduce(StepFlags())

    for error in run_ranks(tmp_path, 2, reduce):
        assert isinstance(error, RanksDisagreeError)
        assert "slots.late on rank 1" in str(error)


@pytest.mark.battery("T20", "T21")
def test_plans_of_as_many_numbers_in_other_shapes_are_never_added_up(tmp_path: Path) -> None:
    def reduce(channel: Channel) -> StepVerdict:
        plan = make_plan(channel)[0]
        shape = (2, 3) if channel.place.rank else (3, 2)
        parameters = {"host.a": nn.Parameter(torch.zeros(shape))}
        plan.replan(entries_of(parameters), parameters)
        return plan.reduce(StepFlags())

    for error in run_ranks(tmp_path, 2, reduce):
        assert isinstance(error, RanksDisagreeError)
        assert "different parameters" in str(error)


@pytest.mark.battery("T25")
def test_a_stop_on_one_rank_stops_all_after_the_same_batch(tmp_path: Path) -> None:
    def train(copy: Copy) -> tuple[object, int, ExitCode]:
        if copy.rank == 1:
            copy.signal.code = ExitCode.SIGINT
        outcome = copy.run.train_epoch(copy.stop)
        return outcome, copy.run.progress.batch, copy.stop.exit_code

    assert results(run_copies(tmp_path, 2, train)) == [(None, 1, ExitCode.SIGINT)] * 2


@pytest.mark.slow
def test_a_stop_and_the_way_on_change_nothing(tmp_path: Path) -> None:
    def train_in_pieces(copy: Copy) -> dict[str, torch.Tensor]:
        drive(copy.run, 3)
        while copy.run.train_epoch(lambda: True) is None:
            copy.run.settle()
        drive(copy.run, 5)
        return saved_tensors(copy.run.state())

    def train_whole(copy: Copy) -> dict[str, torch.Tensor]:
        drive(copy.run, 3)
        copy.run.train_epoch()
        drive(copy.run, 5)
        return saved_tensors(copy.run.state())

    config = replace(config_of(), epochs=6)
    pieces = results(run_copies(tmp_path, 2, train_in_pieces, config, norm="batch"))
    whole = results(run_copies(tmp_path, 2, train_whole, config, norm="batch"))
    assert largest_difference(pieces[0], whole[0]) == largest_difference(pieces[1], whole[0]) == 0.0
