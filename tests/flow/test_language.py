"""A language model grows on a text that the test writes: trained, stopped, resumed, replayed, exported."""

from __future__ import annotations

import json
import math
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from cli.calling import call
from data.tiny_texts import write_prose
from esper.data import TextConfig
from esper.kasmina import MAX_DIFFERENCE, count_flops
from esper.leyline import (
    Action,
    Decision,
    EpochCompleted,
    InterruptedRunError,
    LifecycleOp,
    LossKind,
    SeedStage,
    StageChanged,
)
from esper.nissa import effective_log, read_run
from esper.runtime.assemble import assemble
from esper.runtime.experiment import ExperimentConfig, ModelConfig, TaskConfig
from esper.runtime.export_run import export_run, load_folder
from esper.runtime.policy_run import train_policy
from esper.runtime.presets import austen, text
from esper.runtime.replay import replay_run
from esper.runtime.run import run_experiment
from esper.tolaria import MeasuringConfig
from runtime.learning import SMALL
from runtime.test_run import tiny
from runtime.test_run_stopping import after_batch, send


def _config(file: Path, policy: str = "heuristic", epochs: int = 8) -> ExperimentConfig:
    """Windows of 12 bytes, blocks of 16 channels, gates that let seeds through."""
    config, lenient = text(), tiny(epochs=epochs).host
    return replace(
        config,
        policy=policy,
        task=TaskConfig(name="text", text=TextConfig(file=str(file), context=12)),
        model=ModelConfig(kind="transformer", width=16, num_blocks=2, num_heads=2),
        host=replace(
            config.host,
            epochs=epochs,
            batch_size=16,
            interval_batches=6,
            gates=lenient.gates,
            lifecycle=lenient.lifecycle,
            measuring=MeasuringConfig(contribution_items=40, calibration_items=40, chunk_items=30),
        ),
        heuristic=replace(config.heuristic, first_germination_epoch=1, tempo_epochs=1),
        telemetry=replace(config.telemetry, progress="none", has_report=False),
    )


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text(write_prose(12_000), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(book: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    run_experiment(_config(book), run_dir=path, provenance={})
    return path


def test_a_heuristic_run_germinates_blends_and_learns(run: Path) -> None:
    events = [record.event for record in read_run(run).records]
    stages = {event.new for event in events if isinstance(event, StageChanged)}
    assert {SeedStage.TRAINING.value, SeedStage.BLENDING.value, SeedStage.FOSSILIZED.value} <= stages
    epochs = [event for event in events if isinstance(event, EpochCompleted)]
    assert len(epochs) == 8
    assert epochs[-1].validation_loss < epochs[0].validation_loss < math.log(256) + 0.1
    assert [event.num_skipped_batches for event in epochs] == [0] * 8


def test_perplexity_is_what_is_shown_and_minus_the_loss_what_is_used(run: Path) -> None:
    for record in read_run(run).records:
        if isinstance(event := record.event, EpochCompleted):
            assert event.metric == pytest.approx(-event.validation_loss)
            assert event.raw_metrics["perplexity"] == pytest.approx(math.exp(event.validation_loss))
            assert event.raw_metrics["train_perplexity"] == pytest.approx(math.exp(event.train_loss))
    summary = json.loads((run / "summary.json").read_text())
    assert summary["metric_name"] == "perplexity"
    assert summary["best_metric"] == min(
        event.raw_metrics["perplexity"]
        for event in (record.event for record in read_run(run).records)
        if isinstance(event, EpochCompleted)
    )
    shown = call(["runs", "show", str(run)])
    assert "perplexity" in shown.out
    assert "accuracy" not in shown.out


def test_the_bill_is_that_of_the_batches_of_an_interval(run: Path) -> None:
    first = next(r.event for r in read_run(run).records if isinstance(r.event, EpochCompleted))
    t, c, v = 12, 16, 256
    per_item = 2 * (2 * (t * 12 * c * c + 2 * t * t * c) + t * c * v)
    assert first.flops["host_train"] == 3 * per_item * 6 * 16


@pytest.mark.parametrize("name", ["model", "model.pt2"])
def test_the_grown_network_leaves_as_it_is(run: Path, tmp_path: Path, name: str) -> None:
    summary = export_run(run, tmp_path / name, allow_unfinished=False)
    assert summary.max_difference <= MAX_DIFFERENCE
    if name == "model":
        network = load_folder(tmp_path / name)
        logits = network(torch.randint(256, (3, 12)))
        assert logits.shape == (3, 12, 256)
        assert count_flops(network, (12,), torch.int64) > 0
        about = json.loads((tmp_path / name / "architecture.json").read_text())
        assert about["tokens"]["rule"].startswith("a token is a byte")
        assert about["input_shape"] == [12]
        assert len(about["classes"]) == 256
        assert "# [B, 12] int64 -> [B, 12, 256]" in (tmp_path / name / "model.py").read_text()
    else:
        module = torch.export.load(tmp_path / name).module()
        assert module(torch.zeros(5, 12, dtype=torch.int64)).shape == (5, 12, 256)


def test_a_run_is_repeated_from_its_log(run: Path) -> None:
    assert replay_run(run).difference is None


def test_a_run_stopped_inside_an_interval_goes_on_bit_for_bit(run: Path, book: Path, tmp_path: Path) -> None:
    with (
        after_batch(20, partial(send, signal.SIGTERM)),
        pytest.raises(InterruptedRunError, match="e0003-b00002"),
    ):
        run_experiment(_config(book), run_dir=tmp_path / "run", provenance={})
    run_experiment(_config(book), run_dir=tmp_path / "run", provenance={}, resume=True)
    assert effective_log(tmp_path / "run") == effective_log(run)


def test_scores_of_slots_and_blueprints_exist_for_tokens(book: Path) -> None:
    config = _config(book, "greedy", epochs=2)
    host = replace(config.host, measuring=replace(config.host.measuring, score_every=1, score_items=32))
    host_run = assemble(replace(config, host=host)).host_run
    host_run.train_epoch()
    reports = host_run.observe().slots
    assert [set(report.blueprint_gains or {}) for report in reports] == [
        {"mlp", "mlp_small", "lora", "lora_small", "causal_attention"}
    ] * 2
    assert all(math.isfinite(gain) for report in reports for gain in (report.blueprint_gains or {}).values())


def test_characters_and_tied_weights_train_and_leave(book: Path, tmp_path: Path) -> None:
    config = _config(book, epochs=3)
    config = replace(
        config,
        task=replace(config.task, text=replace(config.task.text, tokens="characters")),
        model=replace(config.model, is_tied=True, positions="sinusoidal"),
    )
    run_experiment(config, run_dir=tmp_path / "run", provenance={})
    summary = export_run(tmp_path / "run", tmp_path / "model", allow_unfinished=True)
    assert summary.max_difference <= MAX_DIFFERENCE
    about = json.loads((tmp_path / "model" / "architecture.json").read_text())
    assert about["classes"][0] == "<unknown>"
    assert about["num_outputs"] == len(about["classes"]) < 40


@pytest.mark.slow
@pytest.mark.parametrize("blueprint", ["norm", "mlp", "mlp_small", "lora", "lora_small", "causal_attention"])
def test_a_seed_germinates_without_a_trace_and_opens_without_a_jolt(book: Path, blueprint: str) -> None:
    run = assemble(_config(book, "never", epochs=20)).host_run
    bench = run.bench

    def act(op: LifecycleOp, **given: object) -> None:
        result = run.apply(Decision(action=Action(op=op, slot="block1", **given)))  # type: ignore[arg-type]
        assert not result.is_refused, result.refusal

    def loss() -> float:
        return bench.evaluator.evaluate(bench.model, *bench.validation).loss

    for _ in range(3):
        run.train_epoch()
    before = loss()
    act(LifecycleOp.GERMINATE, blueprint=blueprint, tempo_epochs=1)
    assert loss() == before
    for _ in range(3):
        run.train_epoch()
    act(LifecycleOp.ADVANCE)
    closed, start = loss(), run.clock.batch
    bench.model.update_alphas(start + 1)
    assert bench.model.slot("block1").state.alpha == pytest.approx(1 / 6)
    assert loss() != closed
    assert loss() - closed < 0.01 * closed


@pytest.mark.slow
def test_a_policy_is_trained_on_language_models(book: Path, tmp_path: Path) -> None:
    config = _config(book, "ppo", epochs=7)
    small = replace(
        config,
        envs=replace(config.envs, num_envs=2, num_hosts=2),
        network=SMALL,
        training=replace(config.training, num_updates=1),
    )
    result = train_policy(small, run_dir=tmp_path / "run", provenance={})
    assert result.num_env_steps == 14


@pytest.mark.slow
@pytest.mark.full_data
def test_a_short_life_on_austen_grows_and_its_export_is_equal(tmp_path: Path) -> None:
    preset = austen()
    assert assemble(replace(preset, policy="never")).task.loss is LossKind.LANGUAGE_MODEL
    host = replace(preset.host, epochs=9, interval_batches=60, gates=tiny().host.gates)
    heuristic = replace(preset.heuristic, first_germination_epoch=1, tempo_epochs=2)
    quiet = replace(preset.telemetry, progress="none", has_report=False)
    config = replace(preset, host=host, heuristic=heuristic, telemetry=quiet)
    run_experiment(config, run_dir=tmp_path / "run", provenance={})
    events = [record.event for record in read_run(tmp_path / "run").records]
    stages = {event.new for event in events if isinstance(event, StageChanged)}
    assert {SeedStage.BLENDING.value, SeedStage.PROBATIONARY.value} <= stages
    assert export_run(tmp_path / "run", tmp_path / "model", allow_unfinished=False).max_difference <= 1e-5
