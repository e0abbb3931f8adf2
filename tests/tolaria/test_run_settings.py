"""Compilation and precision are settings of one host run: close to the plain run, and nobody else's business.

Compiled and plain runs differ by rounding alone; what one run compiles takes nothing from another.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from esper.kasmina import MLPHost, MLPHostConfig
from esper.leyline import Action, EpochCompleted, LifecycleOp, SeedStage
from esper.tolaria import HostRun

from .small_run import (
    ListSink,
    as_text,
    drive,
    germinate,
    make_config,
    make_parts,
    make_run,
    make_task,
    tensors_of,
)

GROWTH: tuple[tuple[int, Action], ...] = (
    (0, germinate("hidden1", "mlp")),
    (2, Action(op=LifecycleOp.ADVANCE, slot="hidden1")),
    (4, Action(op=LifecycleOp.FOSSILIZE, slot="hidden1")),
)
"""Two epochs of incubation, a blend of one epoch, probation, kept."""
EPOCHS = 6
COMPILED_TOLERANCE = 1e-5
"""Largest difference of a weight after six epochs; measured: 6e-8."""
MIXED_TOLERANCE = 0.1
"""Relative difference of an epoch's validation loss; measured over five seeds: bf16 .014, fp16 .053 (where a
batch was skipped while the loss scale settled)."""

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*instantiated:DeprecationWarning"),
]
"""torch warns about itself when its compiler is imported, and when it traces a custom backward."""


@pytest.fixture(autouse=True, scope="module")
def compiler_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled code is kept in the tests' own folder, so that none is found from before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        yield


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    """What the compiler logs as a warning, such as that it gives up."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler, logger = Keep(logging.WARNING), logging.getLogger("torch._dynamo")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def _make_run(compiled: str, *, amp: str = "off", incubation: str = "shadow", seed: int = 5) -> HostRun:
    """A run of a host with one hidden layer of eight: compiling it takes seconds, not minutes."""
    config = MLPHostConfig(num_inputs=64, hidden=(8,), num_classes=4)
    parts = replace(make_parts(sink=ListSink()), build_host=lambda: MLPHost(config))
    settings = replace(make_config(amp=amp, incubation=incubation), compile=compiled)
    return HostRun(make_task(), settings, parts, run_seed=seed)


def _log(run: HostRun) -> str:
    sink = run._parts.sink
    assert isinstance(sink, ListSink)
    return as_text(sink.events)


def _losses(run: HostRun) -> list[float]:
    sink = run._parts.sink
    assert isinstance(sink, ListSink)
    return [event.validation_loss for event in sink.events if isinstance(event, EpochCompleted)]


def _assert_close(run: HostRun, plain: HostRun) -> None:
    expected, got = tensors_of(plain), tensors_of(run)
    assert list(got) == list(expected)
    for name, tensor in expected.items():
        assert float((got[name] - tensor).abs().max()) <= COMPILED_TOLERANCE, name


@pytest.mark.slow
@pytest.mark.parametrize("incubation", ["shadow", "residual", "straight_through"])
def test_a_compiled_run_equals_the_plain_one_to_rounding_from_germination_to_fossil(
    incubation: str, complaints: list[str]
) -> None:
    plain, compiled = (_make_run(mode, incubation=incubation) for mode in ("none", "default"))
    for run in (plain, compiled):
        drive(run, EPOCHS, GROWTH)
        assert run.bench.model.slot("hidden1").state.stage is SeedStage.FOSSILIZED
    _assert_close(compiled, plain)
    left, right = plain.finish(), compiled.finish()
    assert right.loss == pytest.approx(left.loss, abs=COMPILED_TOLERANCE)
    assert right.metric == left.metric
    assert complaints == []


@pytest.mark.slow
def test_runs_after_one_another_are_all_compiled_and_all_alike(complaints: list[str]) -> None:
    """Later ones find compiled code of the earlier ones, which must not change what they compute."""
    plain = _make_run("none")
    drive(plain, EPOCHS, GROWTH)
    for _ in range(3):
        run = _make_run("default")
        drive(run, EPOCHS, GROWTH)
        _assert_close(run, plain)
    assert complaints == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param((("none", "off"), ("default", "off")), id="compile"),
        pytest.param((("none", "off"), ("default", "bf16")), id="compile and precision"),
    ],
)
def test_interleaved_runs_of_other_compile_and_precision_keep_the_logs_that_they_have_alone(
    settings: tuple[tuple[str, str], tuple[str, str]],
) -> None:
    def build(index: int) -> HostRun:
        compiled, amp = settings[index]
        return _make_run(compiled, amp=amp, seed=index)

    alone = [build(index) for index in range(2)]
    for run in alone:
        drive(run, EPOCHS, GROWTH)
    together = [build(index) for index in range(2)]
    for epoch in range(1, EPOCHS + 1):
        for run in together:
            drive(run, epoch, GROWTH)
    for index in range(2):
        assert _log(together[index]) == _log(alone[index])


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_on_the_cpu_follows_float32_through_the_whole_lifecycle(amp: str) -> None:
    script = (
        (0, germinate("block2")),
        (2, Action(op=LifecycleOp.ADVANCE, slot="block2")),
        (4, Action(op=LifecycleOp.FOSSILIZE, slot="block2")),
    )
    losses: list[list[float]] = []
    runs = [make_run(make_config(amp=mode), make_parts(sink=ListSink())) for mode in ("off", amp)]
    for run in runs:
        drive(run, EPOCHS, script)
        assert run.bench.model.slot("block2").state.stage is SeedStage.FOSSILIZED
        losses.append(_losses(run))
    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=MIXED_TOLERANCE)
    mixed = runs[1].bench
    assert all(p.dtype is torch.float32 for p in mixed.model.parameters())
    assert mixed.scaler.is_enabled is (amp == "fp16")
    assert 1.0 <= mixed.scaler.scale_value <= (65536.0 if amp == "fp16" else 1.0)
