"""Claims about one host's life: isolation, determinism, resumption, rollback, refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import pytest
import torch

from esper.data import Batch
from esper.kasmina import MorphogeneticModel
from esper.leyline import (
    Action,
    AlphaCurve,
    BlendForm,
    Decision,
    DecisionMade,
    EpochOutcome,
    GovernorGaveUpError,
    JsonValue,
    LifecycleOp,
    RolledBack,
    SeedCulled,
    SeedStage,
    VerdictKind,
    derive_seed,
)
from esper.tolaria import EpochProgress, GovernorConfig, HostRun
from esper.tolaria.rng import OwnRng

from .small_run import (
    BATCHES_PER_EPOCH,
    EPISODE,
    HORIZON,
    ListSink,
    StopAfter,
    as_text,
    assert_same,
    decide,
    drive,
    germinate,
    host_tensors_of,
    make_config,
    make_digits_run,
    make_parts,
    make_run,
    tensors_of,
    through_json,
)


class Poison:
    """Puts NaN into every parameter of the host in chosen epochs; an epoch is counted once it has ended."""

    def __init__(self, *epochs: int) -> None:
        self.epochs = epochs
        self.epoch = 0

    def after_backward(self, model: MorphogeneticModel, batch: Batch, batch_index: int) -> None:
        """Poison the weights at the last batch."""
        del batch
        if batch_index == 0:
            self.epoch += 1
        if batch_index == BATCHES_PER_EPOCH - 1 and self.epoch in self.epochs:
            with torch.no_grad():
                for parameter in model.host.parameters():
                    parameter.fill_(float("nan"))

    def after_epoch(self, model: MorphogeneticModel, outcome: EpochOutcome) -> None:
        """Do nothing."""

    def after_validation(self, outputs: object, targets: object) -> None:
        """Do nothing."""

    def state(self) -> dict[str, JsonValue]:
        """Remember nothing."""
        return {}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Do nothing."""


@pytest.mark.parametrize("incubation", ["shadow", "residual"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_an_incubating_seed_leaves_the_host_bit_identical(incubation: str, dropout: float) -> None:
    config = make_config(incubation=incubation)
    alone = make_run(config, make_parts(dropout=dropout))
    growing = make_run(config, make_parts(dropout=dropout))
    growing.apply(Decision(action=germinate("block1")))
    for _ in range(2):
        alone.train_epoch()
        growing.train_epoch()
        assert growing.bench.model.slot("block1").state.stage is SeedStage.TRAINING
        assert_same(host_tensors_of(alone), host_tensors_of(growing))
        growing.apply(Decision(action=germinate("block2", "depthwise")))
    seed = growing.bench.model.slot("block1").seed
    assert seed is not None
    assert any(parameter.grad is not None for parameter in seed.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("incubation", ["shadow", "residual"])
def test_an_incubating_seed_leaves_a_digits_host_bit_identical(incubation: str) -> None:
    alone, growing = (make_digits_run(incubation=incubation, epochs=12) for _ in range(2))
    assert not growing.apply(Decision(action=germinate("block2"))).is_refused
    alone.train_epoch()
    growing.train_epoch()
    assert_same(host_tensors_of(alone), host_tensors_of(growing))


def test_every_trainable_parameter_is_optimised_exactly_once_through_an_episode() -> None:
    run = make_run()
    while not run.is_finished:
        assert not run.apply(decide(run.epoch)).is_refused
        _check_optimizer(run)
        run.train_epoch()
        _check_optimizer(run)
    stages = {slot.slot_id: slot.state.stage for slot in run.bench.model.each_slot()}
    assert stages["block1"] is SeedStage.FOSSILIZED
    assert stages["block2"] is SeedStage.DORMANT
    assert stages["block3"] is SeedStage.TRAINING
    run.finish()
    _check_optimizer(run)


def _check_optimizer(run: HostRun) -> None:
    model = run.bench.model
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    run.bench.optimizer.check_consistency(trainable)
    optimised = run.bench.optimizer.parameters()
    assert set(optimised) == set(trainable)
    assert all(optimised[name] is trainable[name] for name in trainable)


def test_the_same_seed_gives_the_same_event_log_and_another_seed_another() -> None:
    logs = []
    for seed in (5, 5, 6):
        sink = ListSink()
        run = make_run(parts=make_parts(sink=sink), seed=seed)
        drive(run, 4)
        logs.append(as_text(sink.events))
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]


@pytest.mark.battery("T02")
@pytest.mark.parametrize(
    ("epoch", "batch"),
    [
        pytest.param(0, 1, id="first epoch"),
        pytest.param(1, 2, id="training"),
        pytest.param(2, 1, id="blending"),
        pytest.param(3, 2, id="probation and blending"),
        pytest.param(4, 1, id="after fossilise"),
        pytest.param(5, 2, id="cull under way"),
        pytest.param(6, 1, id="after cull"),
        pytest.param(7, 3, id="last batch"),
    ],
)
def test_a_run_restored_in_mid_epoch_goes_on_bit_for_bit(epoch: int, batch: int) -> None:
    whole, first, second = ListSink(), ListSink(), ListSink()
    uninterrupted = make_run(parts=make_parts(sink=whole, dropout=0.2))
    drive(uninterrupted, 8)

    stopped = make_run(parts=make_parts(sink=first, dropout=0.2))
    drive(stopped, epoch)
    stopped.apply(decide(epoch))
    assert stopped.train_epoch(StopAfter(batch)) is None
    assert stopped.progress.batch == batch
    record = through_json(stopped.state())

    resumed = make_run(parts=make_parts(sink=second, dropout=0.2))
    resumed.restore(record)
    assert resumed.clock == stopped.clock
    assert resumed.observe() == stopped.observe()
    drive(resumed, 8)

    assert_same(tensors_of(uninterrupted), tensors_of(resumed))
    assert first.events + second.events == whole.events
    assert resumed.observe() == uninterrupted.observe()
    last, other = uninterrupted.state(), resumed.state()
    assert_same(last.tensors, other.tensors)
    assert last.state == other.state
    assert uninterrupted.finish() == resumed.finish()


def test_stopping_at_every_batch_changes_nothing() -> None:
    plain, halting = make_run(), make_run()
    plain.apply(decide(0))
    halting.apply(decide(0))
    outcome = plain.train_epoch()
    stops = 0
    while (other := halting.train_epoch(StopAfter(1) if stops < BATCHES_PER_EPOCH else None)) is None:
        stops += 1
    assert stops == BATCHES_PER_EPOCH
    assert outcome is not None
    assert replace(outcome, seconds=0.0) == replace(other, seconds=0.0)
    assert_same(tensors_of(plain), tensors_of(halting))


def test_acting_inside_an_epoch_raises() -> None:
    run = make_run()
    run.train_epoch(StopAfter(1))
    with pytest.raises(RuntimeError, match="inside epoch 0 at batch 1"):
        run.apply(decide(0))


def test_a_refused_action_counts_as_wait_and_changes_nothing() -> None:
    sink = ListSink()
    refused, waiting = make_run(parts=make_parts(sink=sink)), make_run()
    result = refused.apply(Decision(action=Action(op=LifecycleOp.FOSSILIZE, slot="block1"), reason="early"))
    waiting.apply(Decision())
    assert result.is_refused
    assert result.effective == Action()
    assert result.refusal is not None
    assert "stage is DORMANT" in result.refusal
    (made,) = sink.events
    assert isinstance(made, DecisionMade)
    assert made.refusal == result.refusal
    assert refused.state().state == waiting.state().state
    refused.train_epoch()
    waiting.train_epoch()
    assert_same(tensors_of(refused), tensors_of(waiting))


def test_a_decision_event_holds_the_whole_action() -> None:
    sink = ListSink()
    run = make_run(parts=make_parts(sink=sink))
    action = replace(
        germinate("block1"), blend=BlendForm.GATE, curve=AlphaCurve.COSINE, tempo_epochs=5, alpha_target=0.7
    )
    run.apply(Decision(action=action))
    made = sink.events[0]
    assert isinstance(made, DecisionMade)
    assert made.refusal is None
    assert (made.op, made.slot, made.blueprint) == ("GERMINATE", "block1", action.blueprint)
    assert (made.blend, made.curve, made.tempo_epochs, made.alpha_target) == ("gate", "cosine", 5, 0.7)


def test_an_unknown_blueprint_and_slot_are_refused_with_the_nearest_name() -> None:
    run = make_run()
    assert "conv_light" in str(run.apply(Decision(action=germinate("block1", "conv_lite"))).refusal)
    assert "block1" in str(run.apply(Decision(action=germinate("blok1"))).refusal)


@pytest.mark.battery("T31")
def test_a_poisoned_host_goes_back_exactly_and_the_blamed_seed_is_culled() -> None:
    sink = ListSink()
    run = make_run(replace(make_config(), snapshot_every=1), make_parts(sink=sink, probe=Poison(4)))
    drive(run, 3)
    before = host_tensors_of(run)
    assert run.bench.model.slot("block1").state.stage is SeedStage.PROBATIONARY
    epoch, spent = run.epoch, run.bench.ledger.total
    run.train_epoch()
    assert run.verdict.kind == VerdictKind.NON_FINITE
    assert run.verdict.blamed_slot == "block1"
    assert run.epoch == epoch
    assert run.progress.batch == 0
    assert run.bench.ledger.total > spent
    assert_same(before, host_tensors_of(run))
    assert run.bench.model.slot("block1").state.stage is SeedStage.CULLED
    assert run.bench.model.slot("block2").state.stage is SeedStage.TRAINING
    (back,) = [event for event in sink.events if isinstance(event, RolledBack)]
    assert (back.restored_epoch, back.blamed_slot, back.rollback_count) == (3, "block1", 1)
    (culled,) = [event for event in sink.events if isinstance(event, SeedCulled)]
    assert (culled.slot, culled.reason) == ("block1", "rollback")
    _check_optimizer(run)
    run.train_epoch()
    assert not run.verdict.is_failure
    assert run.epoch == epoch + 1


def test_a_rollback_without_a_blamed_seed_culls_nothing() -> None:
    sink = ListSink()
    run = make_run(parts=make_parts(sink=sink, probe=Poison(1)))
    before = tensors_of(run)
    run.train_epoch()
    assert run.verdict.blamed_slot is None
    assert_same(before, tensors_of(run))
    assert not sink.of("SeedCulled")


@pytest.mark.battery("T34")
def test_a_host_that_keeps_failing_is_given_up_after_the_allowed_rollbacks() -> None:
    config = replace(make_config(), governor=GovernorConfig(max_rollbacks=2))
    run = make_run(config, make_parts(probe=Poison(*range(20))))
    run.train_epoch()
    run.train_epoch()
    with pytest.raises(GovernorGaveUpError, match="after 2 rollbacks"):
        run.train_epoch()


@pytest.mark.battery("T02")
def test_a_rollback_survives_a_save_and_a_resume() -> None:
    config = replace(make_config(), snapshot_every=1)
    run = make_run(config, make_parts(probe=Poison(4)))
    drive(run, 3)
    run.train_epoch()
    resumed = make_run(config)
    resumed.restore(through_json(run.state()))
    run.train_epoch()
    resumed.train_epoch()
    assert_same(tensors_of(run), tensors_of(resumed))
    assert run.state().state == resumed.state().state


@pytest.mark.battery("T31")
def test_terminate_mode_goes_back_says_so_and_ends_the_episode() -> None:
    sink = ListSink()
    config = replace(make_config(), on_failure="terminate", snapshot_every=1)
    run = make_run(config, make_parts(sink=sink, probe=Poison(4)))
    drive(run, 3)
    before = host_tensors_of(run)
    outcome = run.train_epoch()
    assert outcome is not None
    assert outcome.epoch == 4
    assert run.verdict.kind == VerdictKind.NON_FINITE
    (back,) = [event for event in sink.events if isinstance(event, RolledBack)]
    assert back.is_terminal
    assert (back.restored_epoch, back.blamed_slot, back.rollback_count) == (3, "block1", 1)
    assert run.is_terminated
    assert run.is_finished
    assert run.progress == EpochProgress()
    assert run.observe().signals.epoch == run.epoch == 3
    assert_same(before, host_tensors_of(run))
    _check_optimizer(run)
    with pytest.raises(RuntimeError, match="finished"):
        run.train_epoch()


def test_a_terminated_run_is_saved_and_resumed_as_terminated() -> None:
    config = replace(make_config(), on_failure="terminate")
    run, resumed = make_run(config, make_parts(probe=Poison(1))), make_run(config)
    run.train_epoch()
    resumed.restore(through_json(run.state()))
    assert resumed.is_finished
    assert resumed.observe() == run.observe()
    assert resumed.state().state == run.state().state
    assert resumed.finish() == run.finish()


def test_a_rollback_that_restores_does_not_end_the_episode() -> None:
    sink = ListSink()
    run = make_run(parts=make_parts(sink=sink, probe=Poison(1)))
    run.train_epoch()
    (back,) = [event for event in sink.events if isinstance(event, RolledBack)]
    assert not back.is_terminal
    assert not run.is_finished


def test_every_retry_after_a_rollback_draws_other_random_numbers() -> None:
    run = make_run(parts=make_parts(dropout=0.3, probe=Poison(1, 2, 3)))
    streams = [run.bench.rng.state()["cpu"]]
    for _ in range(3):
        run.train_epoch()
        assert run.verdict.is_failure
        streams.append(run.bench.rng.state()["cpu"])
    assert len({tuple(stream.tolist()) for stream in streams}) == 4
    by_path = OwnRng(derive_seed(run.run_seed, "torch", run.instance, 0, 3), torch.device("cpu"))
    assert torch.equal(streams[3], by_path.state()["cpu"])
    run.train_epoch()
    assert not run.verdict.is_failure


def test_a_stop_is_asked_for_once_at_every_batch_boundary() -> None:
    for count, is_stopped in ((BATCHES_PER_EPOCH, True), (BATCHES_PER_EPOCH + 1, False)):
        stop = StopAfter(count)
        assert (make_run().train_epoch(stop) is None) is is_stopped
        assert stop.num_asked == BATCHES_PER_EPOCH


class BadSeed(Poison):
    """Makes the gradients of chosen seeds infinite in the epoch whose last batch poisons the host."""

    def __init__(self, prefix: str, epoch: int) -> None:
        super().__init__(epoch)
        self.prefix = prefix

    def after_backward(self, model: MorphogeneticModel, batch: Batch, batch_index: int) -> None:
        """Spoil the seed's gradients, then the host's weights."""
        super().after_backward(model, batch, batch_index)
        if self.epoch not in self.epochs or batch_index == 0:  # at batch 0 of a blend alpha is 0
            return
        for name, parameter in model.named_parameters():
            if name.startswith(self.prefix) and parameter.grad is not None:
                parameter.grad.fill_(float("inf"))


BLENDING_PAIR: tuple[tuple[int, Action], ...] = (
    (0, germinate("block1", tempo=5)),
    (1, germinate("block2", "depthwise", 5)),
    (2, Action(op=LifecycleOp.ADVANCE, slot="block1")),
    (3, Action(op=LifecycleOp.ADVANCE, slot="block2")),
)


@pytest.mark.parametrize(("spoiled", "blamed"), [("nothing", "block2"), ("slots.block1", "block1")])
def test_the_seed_with_faulty_gradients_is_blamed_before_the_last_one_to_blend(
    spoiled: str, blamed: str
) -> None:
    run = make_run(parts=make_parts(probe=BadSeed(spoiled, 4)))
    drive(run, 3, BLENDING_PAIR)
    run.apply(decide(3, BLENDING_PAIR))
    run.train_epoch()
    assert run.verdict.blamed_slot == blamed
    assert run.bench.model.slot(blamed).seed is None


@pytest.mark.parametrize(("earlier_skips", "blamed"), [(0, "block2"), (14, "block1")])
def test_the_seed_that_went_on_overflowing_in_fp16_is_blamed_first(earlier_skips: int, blamed: str) -> None:
    run = make_run(make_config(amp="fp16"), make_parts(probe=BadSeed("slots", 4)))
    drive(run, 3, BLENDING_PAIR)
    run.apply(decide(3, BLENDING_PAIR))
    assert run.train_epoch(StopAfter(1)) is None
    scaler = run.bench.scaler
    scaler.load(scaler.state() | {"seed_skips": {"block1": earlier_skips}})
    run.train_epoch()
    assert run.verdict.blamed_slot == blamed


def test_a_seed_planted_past_the_run_is_known_to_the_optimiser_before_it_trains() -> None:
    run = make_run()
    run.bench.model.apply_action(germinate("block1"), run.clock, build_seed=3)
    run.train_epoch()
    assert run.bench.model.slot("block1").state.stage is SeedStage.TRAINING
    _check_optimizer(run)


def test_a_germinated_seed_is_known_to_the_optimiser_after_a_resume() -> None:
    run, resumed = make_run(), make_run()
    run.apply(Decision(action=germinate("block1")))
    record = through_json(run.state())
    resumed.restore(record)
    assert resumed.bench.model.slot("block1").state.stage is SeedStage.GERMINATED
    _check_optimizer(resumed)
    resumed.train_epoch()
    run.train_epoch()
    assert_same(tensors_of(run), tensors_of(resumed))


def test_the_horizon_culls_live_seeds_and_reads_the_test_split_on_what_is_left() -> None:
    sink = ListSink()
    run = make_run(parts=make_parts(sink=sink))
    drive(run, 3)
    result = run.finish()
    reasons = {event.slot: event.reason for event in sink.events if isinstance(event, SeedCulled)}
    assert reasons == {"block1": "horizon", "block2": "horizon"}
    assert result.num_items == 64
    assert run.bench.model.num_params == run.bench.model.host_params
    model, bench = run.bench.model, run.bench
    assert bench.evaluator.evaluate(model, *bench.test) == result


def test_a_finished_run_says_so() -> None:
    run = make_run(make_config(epochs=1))
    run.train_epoch()
    assert run.is_finished
    assert run.describe() == {
        "task": "small",
        "instance": 0,
        "epoch": 1,
        "total_params": run.bench.model.num_params,
    }
    with pytest.raises(RuntimeError, match="finished"):
        run.train_epoch()


def test_interleaved_runs_of_different_settings_keep_the_logs_that_they_have_alone() -> None:
    def build(index: int, sink: ListSink) -> HostRun:
        config = make_config(amp=("off", "bf16")[index], incubation=("shadow", "residual")[index])
        return make_run(config, make_parts(sink=sink, dropout=(0.3, 0.1)[index]), seed=index)

    alone = [ListSink(), ListSink()]
    for index in range(2):
        drive(build(index, alone[index]), 5)
    together = [ListSink(), ListSink()]
    runs = [build(index, together[index]) for index in range(2)]
    for epoch in range(5):
        for run in runs:
            run.apply(decide(epoch))
        while runs[0].epoch == epoch:
            for run in runs:
                if run.epoch == epoch:
                    run.train_epoch(StopAfter(1) if run.progress.batch < BATCHES_PER_EPOCH else None)
            torch.rand(3)
        drive(runs[1], epoch + 1)
    for index in range(2):
        assert as_text(together[index].events) == as_text(alone[index].events)


def test_the_script_reaches_every_stage_that_the_cuts_name() -> None:
    assert max(epoch for epoch, _ in EPISODE) < HORIZON
    sink = ListSink()
    drive(make_run(parts=make_parts(sink=sink)), HORIZON)
    seen = {cast("str", getattr(event, "new", "")) for event in sink.of("StageChanged")}
    assert {stage.value for stage in SeedStage} <= seen
