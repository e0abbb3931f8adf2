"""A watched host is the same host: a profile leaves decisions, metrics, weights and streams as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import pytest
import torch

from esper.data import Batch
from esper.kasmina import MorphogeneticModel
from esper.leyline import (
    DIAGNOSTIC_KINDS,
    ClassesMeasured,
    EpochCompleted,
    EpochOutcome,
    Event,
    GradientsMeasured,
    JsonValue,
    NullProbe,
    RedFlagRaised,
    SharpnessMeasured,
    WeightsMeasured,
)
from esper.nissa import PROFILE_NAMES, PROFILES, TelemetryConfig
from esper.runtime.assemble import assemble
from esper.runtime.diagnosing import Diagnosis, build_probe
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.families import HostFactory
from esper.runtime.presets import build_preset
from esper.tolaria import HostRun
from tolaria.small_run import (
    ListSink,
    StopAfter,
    as_text,
    assert_same,
    decide,
    drive,
    make_config,
    make_parts,
    make_run,
    tensors_of,
    through_json,
)

EventT = TypeVar("EventT", bound=Event)


class Norms:
    """Another probe: the gradient norm of the host's first parameter, batch by batch."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.num_epochs = 0
        self.num_chunks = 0

    def after_backward(self, model: MorphogeneticModel, batch: Batch, batch_index: int) -> None:
        del batch, batch_index
        gradient = next(iter(model.host_parameters().values())).grad
        assert gradient is not None
        self.seen.append(float(gradient.norm()))

    def after_validation(self, outputs: object, targets: object) -> None:
        self.num_chunks += 1

    def after_epoch(self, model: MorphogeneticModel, outcome: EpochOutcome) -> None:
        self.num_epochs += 1

    def state(self) -> dict[str, JsonValue]:
        return {"num_epochs": self.num_epochs}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        self.num_epochs = int(str(state.get("num_epochs", 0)))


def watched_run(
    name: str,
    *,
    inner: Norms | None = None,
    escalation: int = 0,
    incubation: str = "shadow",
    amp: str = "off",
) -> tuple[HostRun, ListSink]:
    """A small run under a profile, and its events."""
    sink = ListSink()
    probe = NullProbe() if name == "minimal" else Diagnosis(PROFILES[name], escalation, inner)
    parts = make_parts(sink=sink, probe=probe, dropout=0.2)
    run = make_run(make_config(incubation=incubation, amp=amp), parts)
    if isinstance(probe, Diagnosis):
        probe.bind(run)
    return run, sink


def plain(events: list[Event]) -> list[Event]:
    return [event for event in events if event.kind not in DIAGNOSTIC_KINDS]


def of_type(sink: ListSink, kind: type[EventT]) -> list[EventT]:
    return [event for event in sink.events if isinstance(event, kind)]


@pytest.mark.parametrize("incubation", ["shadow", "residual", "straight_through"])
@pytest.mark.parametrize("name", ["standard", "diagnostic", "research"])
def test_decisions_metrics_weights_and_streams_are_bit_equal_under_every_profile(
    name: str, incubation: str
) -> None:
    (bare, expected), (run, sink) = (watched_run(n, incubation=incubation) for n in ("minimal", name))
    stream = torch.get_rng_state()
    for host in (bare, run):
        drive(host, 9)
    assert torch.equal(torch.get_rng_state(), stream)
    assert as_text(plain(sink.events)) == as_text(expected.events)
    assert len(sink.events) > len(expected.events)
    assert_same(tensors_of(run), tensors_of(bare))
    saved, whole = run.state(), bare.state()
    assert_same(saved.tensors, whole.tensors)
    state = {key: value for key, value in saved.state.items() if key not in ("probe", "last_good")}
    assert state == {key: value for key, value in whole.state.items() if key != "last_good"}


def test_a_run_under_bf16_is_the_same_too_and_is_measured() -> None:
    (bare, expected), (run, sink) = (watched_run(name, amp="bf16") for name in ("minimal", "research"))
    for host in (bare, run):
        drive(host, 3)
    assert as_text(plain(sink.events)) == as_text(expected.events)
    assert of_type(sink, SharpnessMeasured)
    assert all(set(event.leaks.values()) <= {0.0} for event in of_type(sink, GradientsMeasured))


def test_a_whole_experiment_is_the_same_under_minimal_and_research() -> None:
    preset = build_preset("digits")
    logs, decided = [], []
    for name in ("minimal", "research"):
        sink = ListSink()
        config = replace(
            preset,
            num_threads=1,
            host=replace(preset.host, epochs=7),
            telemetry=TelemetryConfig(profile=name, progress="none"),
        )
        assembly = assemble(config, sink)
        while not assembly.host_run.is_finished:
            decided.append(assembly.policy.decide(assembly.host_run.observe()))
            assembly.host_run.apply(decided[-1])
            assembly.host_run.train_epoch()
        logs.append(as_text(plain(sink.events)))
    assert logs[0] == logs[1]
    assert decided[:7] == decided[7:]


@pytest.mark.parametrize("name", PROFILE_NAMES)
def test_a_profile_measures_what_its_row_says(name: str) -> None:
    run, sink = watched_run(name)
    drive(run, 5)
    profile = PROFILES[name]
    gradients = of_type(sink, GradientsMeasured)
    assert len(gradients) == (5 if profile.gradient_batches else 0)
    assert all(event.num_batches == min(3, profile.gradient_batches) for event in gradients)
    assert all(len(event.quantiles) == len(profile.quantiles) for event in gradients)
    assert len(of_type(sink, WeightsMeasured)) == 5 * profile.has_weights
    classes = of_type(sink, ClassesMeasured)
    assert len(classes) == 5 * profile.has_classes
    assert all(bool(event.confusion) == profile.has_confusion for event in classes)
    assert all(sum(event.num_items) == 64 for event in classes)
    sharp = of_type(sink, SharpnessMeasured)
    assert len(sharp) == (5 // profile.sharpness_every if profile.sharpness_every else 0)
    assert all(bool(event.effective_ranks) == profile.has_ranks for event in of_type(sink, WeightsMeasured))


def test_norms_are_those_of_the_gradients_that_training_left() -> None:
    inner = Norms()
    run, sink = watched_run("research", inner=inner)
    drive(run, 2)
    first = next(iter(run.bench.model.host_parameters())).removeprefix("host.").rpartition(".")[0]
    for place, event in enumerate(of_type(sink, GradientsMeasured)):
        seen = inner.seen[3 * place : 3 * place + 3]
        assert event.layers[first] >= sum(seen) / 3 * (1 - 1e-5)
    whole = of_type(sink, GradientsMeasured)[-1]
    epochs = of_type(sink, EpochCompleted)
    norm = sum(value**2 for value in whole.layers.values()) ** 0.5
    assert norm == pytest.approx(epochs[-1].host_gradient_norm, rel=0.2)
    assert inner.num_epochs == 2
    assert inner.num_chunks == 4


def test_accuracy_by_class_adds_up_to_the_accuracy_of_the_split() -> None:
    run, sink = watched_run("research")
    drive(run, 3)
    epochs = of_type(sink, EpochCompleted)
    for event, epoch in zip(of_type(sink, ClassesMeasured), epochs, strict=True):
        hits = sum(event.confusion[place][place] for place in range(len(event.confusion)))
        assert hits / sum(event.num_items) == pytest.approx(epoch.metric)


def test_drift_begins_at_birth_for_host_and_seeds() -> None:
    run, sink = watched_run("diagnostic")
    birth = {name: p.detach().clone() for name, p in run.bench.model.host_parameters().items()}
    drive(run, 2)
    last = of_type(sink, WeightsMeasured)[-1]
    assert {last.since_epoch[name] for name in last.norms if not name.startswith("seed:")} == {0}
    assert last.since_epoch["seed:block1"] == 0
    assert last.since_epoch["seed:block2"] == 1
    head = next(name for name in last.drift if ":" not in name)
    members = {n: p for n, p in run.bench.model.host_parameters().items() if n.startswith(f"host.{head}.")}
    apart = sum(float((p - birth[n]).detach().square().sum()) for n, p in members.items()) ** 0.5
    whole = sum(float(birth[n].square().sum()) for n in members) ** 0.5
    assert last.drift[head] == pytest.approx(apart / whole, rel=1e-4)


@pytest.mark.parametrize("num_batches", [1, 2, 3, 4, 8])
def test_a_run_that_was_saved_anywhere_tells_what_the_whole_one_tells(num_batches: int) -> None:
    whole, expected = watched_run("research", escalation=2)
    drive(whole, 4)
    first, sink = watched_run("research", escalation=2)
    stop = StopAfter(num_batches)
    while not first.is_finished:
        if first.progress.batch == 0:
            first.apply(decide(first.epoch))
        if first.train_epoch(stop) is None:
            break
    again, rest = watched_run("research", escalation=2)
    again.restore(through_json(first.state()))
    drive(again, 4)
    kept = [event for event in expected.events if event.kind != "WeightsMeasured"]
    told = [event for event in (*sink.events, *rest.events) if event.kind != "WeightsMeasured"]
    assert as_text(told) == as_text(kept)


def test_a_state_of_before_begins_anew_and_a_malformed_one_is_refused() -> None:
    run, sink = watched_run("diagnostic")
    drive(run, 2)
    record = run.state()
    state = {key: value for key, value in record.state.items() if key not in ("probe", "last_good")}
    run.restore(replace(record, state=state))
    drive(run, 3)
    assert of_type(sink, GradientsMeasured)[-1].epoch == 3
    diagnosis = run.bench.probe
    with pytest.raises(ValueError, match="parts"):
        diagnosis.restore({"rows": []})


def test_a_seed_that_touches_the_host_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    run, sink = watched_run("diagnostic")
    drive(run, 1)
    slot = run.bench.model.slot("block1")
    assert of_type(sink, GradientsMeasured)[-1].leaks == {"block1": 0.0}
    compute = slot.compute_residual
    weight = next(iter(run.bench.model.host_parameters().values()))
    monkeypatch.setattr(slot, "compute_residual", lambda features: compute(features) + weight.sum())
    run.train_epoch()
    assert of_type(sink, GradientsMeasured)[-1].leaks["block1"] > 0.0
    assert [flag.name for flag in of_type(sink, RedFlagRaised)][-1] == "isolation_leak"


def test_a_red_flag_raises_the_profile_and_it_goes_back() -> None:
    run, sink = watched_run("standard", escalation=2)
    history = run.bench.probe.state()["history"]
    assert isinstance(history, dict)
    calm = {key: value for key, value in run.bench.probe.state().items() if key != "history"}
    run.bench.probe.restore({**calm, "history": {**history, "losses": [(0.01).hex()] * 9}})
    drive(run, 4)
    names = [event.profile for event in of_type(sink, GradientsMeasured)]
    raised = [flag for flag in of_type(sink, RedFlagRaised) if flag.raised_to]
    assert raised[0].epoch == 1
    assert (raised[0].raised_to, raised[0].raised_epochs) == ("diagnostic", 2)
    assert names[:4] == ["standard", "diagnostic", "diagnostic", "standard"]
    assert [event.epoch for event in of_type(sink, WeightsMeasured)] == [2, 3]
    assert set(of_type(sink, WeightsMeasured)[0].since_epoch.values()) == {1, 2}  # a seed's birth, the look


def test_nobody_looks_where_nobody_is_told_or_the_profile_is_minimal() -> None:
    probe = NullProbe()
    assert build_probe(TelemetryConfig(profile="research"), probe, has_sink=False) is probe
    assert build_probe(TelemetryConfig(profile="minimal"), probe, has_sink=True) is probe
    assert isinstance(build_probe(TelemetryConfig(), probe, has_sink=True), Diagnosis)


def test_a_diagnosis_without_a_host_says_so() -> None:
    run, _ = watched_run("minimal")
    with pytest.raises(RuntimeError, match="bind"):
        Diagnosis(PROFILES["standard"], 0).after_backward(run.bench.model, run.bench.batches.row(0, 0, 0), 0)


def test_hosts_of_a_fleet_are_never_watched() -> None:
    config = replace(build_preset("digits"), telemetry=TelemetryConfig(profile="research"))
    assert isinstance(config, ExperimentConfig)
    run = HostFactory(config).build(3, ListSink())
    assert isinstance(run.bench.probe, NullProbe)
