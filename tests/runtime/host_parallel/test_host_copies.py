"""The battery's T19, T20, T22, T23, T25, T37: ranks that differ are found, follow rank 0, or do nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from esper.leyline import (
    WAIT,
    Decision,
    EpochOutcome,
    LifecycleOp,
    RanksDisagreeError,
    RolledBack,
    SeedStage,
    Verdict,
    VerdictKind,
)
from esper.tolaria import GovernorConfig, HostRun
from tolaria.small_run import decide, drive, germinate

from .copies import Copy, config_of, largest_difference, results, run_copies, saved_tensors


def grown(run: HostRun) -> None:
    """Bring block1 to BLENDING and block2 to TRAINING."""
    drive(run, 3)


def is_training(copy: Copy) -> bool:
    """Whether a rank goes on to train a batch."""
    return copy.run.progress.batch > 0


def alter_stage(copy: Copy) -> None:
    copy.run.bench.model.slot("block2").state.stage = SeedStage.BLENDING


def alter_shape(copy: Copy) -> None:
    head = copy.run.bench.model.host.get_parameter("block1.0.weight")
    head.data = head.data.transpose(0, 1).contiguous()


def alter_requires_grad(copy: Copy) -> None:
    copy.run.bench.model.host.get_parameter("block1.0.weight").requires_grad_(False)


def alter_alpha(copy: Copy) -> None:
    state = copy.run.bench.model.slot("block1").state
    state.alpha = state.alpha / 2


def alter_group_order(copy: Copy) -> None:
    copy.run.bench.optimizer._optimizer.param_groups.reverse()


def alter_buffer(copy: Copy) -> None:
    copy.run.bench.model.host.register_buffer("extra", torch.zeros(2))


def flip_a_bit(copy: Copy) -> None:
    weight = copy.run.bench.model.host.get_parameter("block1.0.weight")
    bits = weight.data.view(torch.int32).view(-1)
    bits[3] ^= 1 << 9


def flip_a_moment(copy: Copy) -> None:
    moments, _ = copy.run.bench.optimizer.state()
    next(iter(moments.values())).view(-1)[0] += 1e-3


@pytest.mark.battery("T19", "T20", "T37")
@pytest.mark.parametrize(
    ("alter", "text"),
    [
        (alter_stage, "slots.block2.stage is TRAINING on rank 0, BLENDING on rank 1"),
        (alter_shape, "parameters.host.block1.0.weight.0.0 is 4 on rank 0, 1 on rank 1"),
        (alter_requires_grad, "parameters.host.block1.0.weight.2 is True on rank 0, False on rank 1"),
        (alter_alpha, "slots.block1.alpha is "),
        (alter_group_order, "optimizer.groups.0"),
        (alter_buffer, "buffers.host.extra is missing on rank 0"),
        (flip_a_bit, "values.model.host.block1.0.weight is "),
        (flip_a_moment, "values.optimizer."),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_differs_on_one_rank_is_found_before_the_next_batch_and_named(
    alter: Callable[[Copy], None], text: str, tmp_path: Path
) -> None:
    seen: dict[int, bool] = {}

    def work(copy: Copy) -> None:
        grown(copy.run)
        if copy.rank == 1:
            alter(copy)
        try:
            copy.run.train_epoch()
        finally:
            seen[copy.rank] = is_training(copy)

    for error in run_copies(tmp_path, 2, work):
        assert isinstance(error, RanksDisagreeError), error
        assert error.exit_code == 5
        assert text in str(error)
        assert "ranks differ at this interval, after 3 epochs" in str(error)
    assert seen == {0: False, 1: False}


@pytest.mark.battery("T37")
def test_of_three_ranks_the_one_with_a_flipped_bit_is_named(tmp_path: Path) -> None:
    def work(copy: Copy) -> None:
        copy.run.train_epoch()
        if copy.rank == 2:
            flip_a_bit(copy)
        copy.run.settle()

    for error in run_copies(tmp_path, 3, work):
        assert isinstance(error, RanksDisagreeError)
        assert str(error).endswith("rank 2 differs from all others")
        assert "at this checkpoint" in str(error)


@pytest.mark.slow
@pytest.mark.battery("T22")
def test_rank_0s_decision_wins_everywhere_and_the_others_are_counted(tmp_path: Path) -> None:
    def work(copy: Copy) -> tuple[str | None, str | None, int, list[str]]:
        wanted = germinate("block1") if copy.rank == 0 else germinate("block2", "depthwise")
        result = copy.run.apply(Decision(action=wanted, reason="own"))
        copy.run.train_epoch()
        notices = [str(event.text) for event in copy.sink.of("Notice")]  # type: ignore[attr-defined]
        return result.effective.slot, result.effective.blueprint, copy.ranks.num_disagreements, notices

    first, second = results(run_copies(tmp_path, 2, work))
    assert first == second
    assert first[:3] == ("block1", "conv_light", 1)
    (notice,) = first[3]
    assert "rank 0's GERMINATE block1 conv_light is taken, not rank 1 GERMINATE block2 depthwise" in notice


def test_ranks_that_agree_are_not_counted_and_keep_their_own_reasons(tmp_path: Path) -> None:
    def work(copy: Copy) -> tuple[int, list[object]]:
        copy.run.apply(Decision(action=germinate("block1"), reason=f"rank {copy.rank}"))
        (made,) = copy.sink.of("DecisionMade")
        return copy.ranks.num_disagreements, [made.reason]  # type: ignore[attr-defined]

    assert results(run_copies(tmp_path, 2, work)) == [(0, ["rank 0"]), (0, ["rank 1"])]


@pytest.mark.battery("T23")
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError("no room"), "memory: 'conv_light' in 'block1' could not be built"),
        (TypeError("a blueprint of one's own"), "TypeError: a blueprint of one's own"),
    ],
)
def test_if_one_rank_cannot_build_a_seed_nobody_plants_it_all_say_so_and_training_goes_on(
    error: Exception, told: str, tmp_path: Path
) -> None:
    def work(copy: Copy) -> tuple[str | None, bool, float]:
        model = copy.run.bench.model
        apply = model.apply_action

        def fail(*args: object, **settings: object) -> object:
            apply(*args, **settings)  # type: ignore[arg-type]
            raise error

        if copy.rank == 1:
            object.__setattr__(model, "apply_action", fail)
        result = copy.run.apply(decide(0))
        assert result.effective is WAIT
        outcome = copy.run.train_epoch()
        assert outcome is not None
        return result.refusal, model.slot("block1").seed is None, outcome.train_loss

    first, second = results(run_copies(tmp_path, 2, work))
    assert first == second
    assert str(first[0]).startswith(f"rank 1: {told}")
    assert first[1]


@pytest.mark.battery("T23")
def test_a_blueprint_that_one_rank_lacks_is_planted_nowhere_and_no_neighbour_in_its_place(
    tmp_path: Path,
) -> None:
    def work(copy: Copy) -> tuple[str | None, int]:
        bench = copy.run.bench
        # Rank 1 never comes to it, so that none waits for its turn.
        object.__delattr__(bench.model, "apply_action")
        if copy.rank == 1:
            ids = tuple(name for name in bench.space.blueprint_ids if name != "conv_light")
            bench.space = replace(bench.space, blueprint_ids=ids)
        result = copy.run.apply(decide(0))
        copy.run.train_epoch()
        return result.refusal, bench.model.added_params

    first, second = results(run_copies(tmp_path, 2, work))
    assert first == second
    assert first[1] == 0
    assert str(first[0]).startswith("rank 1: unknown blueprint")


def test_what_all_ranks_refuse_is_refused_in_the_words_of_one_process(tmp_path: Path) -> None:
    action = replace(germinate("block1"), op=LifecycleOp.ADVANCE)

    def work(copy: Copy) -> str | None:
        return copy.run.apply(Decision(action=action)).refusal

    first, second = results(run_copies(tmp_path, 2, work))
    assert first == second
    assert str(first).startswith("ADVANCE on 'block1': stage is DORMANT")


@pytest.mark.slow
@pytest.mark.battery("T25")
def test_a_panic_of_one_ranks_governor_rolls_all_ranks_back_to_the_same_place(tmp_path: Path) -> None:
    config = replace(config_of(), governor=GovernorConfig(max_rollbacks=2))

    def work(copy: Copy) -> tuple[list[tuple[int, str]], dict[str, torch.Tensor]]:
        governor = copy.run.bench.governor
        judge, panics = (
            governor.judge,
            [Verdict(kind=VerdictKind.DIVERGED, reason="lost", blamed_slot="block1")],
        )

        def panic(
            outcome: EpochOutcome, *, blamed_slot: str | None = None, lasting: str | None = None
        ) -> Verdict:
            healthy = judge(outcome, blamed_slot=blamed_slot, lasting=lasting)
            return panics.pop() if copy.run.epoch == 3 and panics else healthy

        if copy.rank == 1:
            object.__setattr__(governor, "judge", panic)
        drive(copy.run, 4)
        back = [event for event in copy.sink.events if isinstance(event, RolledBack)]
        return [(event.restored_epoch, event.reason) for event in back], saved_tensors(copy.run.state())

    first, second = results(run_copies(tmp_path, 2, work, config))
    assert first[0] == second[0]
    ((epoch, reason),) = first[0]
    assert epoch == 3
    assert reason == "rank 1: lost"
    assert largest_difference(first[1], second[1]) == 0.0


def test_a_failure_that_all_governors_find_is_told_as_one_process_tells_it(tmp_path: Path) -> None:
    def work(copy: Copy) -> tuple[str, str]:
        copy.run.bench.governor.chance_loss = copy.run.bench.governor._best = 1e-9
        copy.run.train_epoch()
        return copy.run.verdict.kind, copy.run.verdict.reason

    first, second = results(run_copies(tmp_path, 2, work))
    assert first == second
    assert first[0] == VerdictKind.DIVERGED
    assert not first[1].startswith("rank")


@pytest.mark.battery("T29")
def test_a_gradient_that_is_not_finite_on_one_rank_is_withheld_on_all_and_its_rank_is_named(
    tmp_path: Path,
) -> None:
    def work(copy: Copy) -> tuple[int, list[str], dict[str, torch.Tensor]]:
        if copy.rank == 1:
            host = copy.run.bench.model.host
            assert isinstance(host, nn.Module)
            weight = next(host.parameters())
            weight.register_hook(lambda gradient: gradient * float("nan"))  # type: ignore[no-untyped-call]
        copy.run.train_epoch(lambda: copy.run.progress.batch == 1)
        skipped = copy.run.progress.num_skipped
        copy.run.settle()
        notices = [str(event.text) for event in copy.sink.of("Notice")]  # type: ignore[attr-defined]
        return skipped, notices, saved_tensors(copy.run.state())

    first, second = results(run_copies(tmp_path, 2, work))
    assert first[:2] == second[:2]
    assert first[:2] == (1, ["updates of host withheld 1 times on all ranks, first for rank 1"])
    assert largest_difference(first[2], second[2]) == 0.0
