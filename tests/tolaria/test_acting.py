"""Claims about germination without memory: refused, nothing of it remains, and the run is one that waited."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from esper.kasmina import BlueprintRegistry, SlotSpec, builtin_registry
from esper.leyline import (
    MEMORY_REFUSAL,
    WAIT,
    Action,
    ActionResult,
    Decision,
    DecisionMade,
    Layout,
    LifecycleOp,
    refuse_action,
)
from esper.tolaria import HostRun, NoReduce

from .small_run import (
    ListSink,
    as_text,
    assert_same,
    drive,
    germinate,
    make_config,
    make_parts,
    make_run,
    tensors_of,
)

WORDS = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes."
BIRTH = Decision(action=germinate("block2", "depthwise"), reason="scripted")


class FailAt(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets operations of torch pass and fails the one of a number, as the CPU allocator does."""

    def __init__(self, number: int | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.number = number
        self.count = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        del types
        self.count += 1
        if self.count - 1 == self.number:
            raise RuntimeError(WORDS)
        return func(*args, **(kwargs or {}))


def make_pair(registry: BlueprintRegistry | None = None) -> tuple[HostRun, ListSink, HostRun, ListSink]:
    """Return two equal runs after three epochs of growth, with a seed that blends and one that incubates."""
    pair: list[HostRun | ListSink] = []
    for _ in range(2):
        sink = ListSink()
        run = make_run(make_config(), make_parts(sink=sink, registry=registry, dropout=0.1))
        drive(run, 2, ((0, germinate("block1")),))
        sink.events.clear()
        pair += [run, sink]
    return cast("tuple[HostRun, ListSink, HostRun, ListSink]", tuple(pair))


def traces(run: HostRun) -> dict[str, object]:
    """Everything that a germination touches and that is not in the saved state."""
    bench = run.bench
    model, optimizer = bench.model, bench.optimizer
    return {
        "parameters": [(name, id(parameter)) for name, parameter in model.named_parameters()],
        "modules": [(name, id(module), module.training) for name, module in model.named_modules()],
        "hooks": [len(module._forward_hooks) for module in model.modules()],
        "groups": optimizer.group_names(),
        "owners": optimizer.seed_slots,
        "learned": optimizer.names(),
        "rates": [group["lr"] for group in optimizer._optimizer.param_groups],
        "sizes": [len(group["params"]) for group in optimizer._optimizer.param_groups],
        "filled": [id(parameter) for parameter in cast("NoReduce", bench.reducer)._filled],
        "space": bench.space,
    }


def require_as_if_it_had_waited(run: HostRun, sink: ListSink, waiting: HostRun, waited: ListSink) -> None:
    """Both go on alike from here: state, streams, one more epoch, and a birth that succeeds."""
    left, right = run.state(), waiting.state()
    assert left.state == right.state
    assert_same(left.tensors, right.tensors)
    script = ((2, germinate("block3", "conv_small")),)
    for other in (run, waiting):
        other.train_epoch()
        drive(other, other.epoch + 1, tuple((other.epoch, action) for _, action in script))
    assert_same(tensors_of(run), tensors_of(waiting))
    kept = [[e for e in log.events if not isinstance(e, DecisionMade)] for log in (sink, waited)]
    assert as_text(kept[0]) == as_text(kept[1])


def require_refused(result: ActionResult, sink: ListSink, words: str) -> None:
    assert result.effective == WAIT
    assert result.refusal is not None
    assert result.refusal.startswith(f"{MEMORY_REFUSAL}: 'depthwise' in 'block2'")
    assert words in result.refusal
    made = sink.events[-1]
    assert isinstance(made, DecisionMade)
    assert (made.op, made.slot, made.refusal) == ("GERMINATE", "block2", result.refusal)


def test_an_allocation_that_fails_anywhere_on_the_path_leaves_no_trace() -> None:
    """Operation 0 fails, then operation 1, and so on, until one birth gets through."""
    run, sink, waiting, waited = make_pair()
    standing, tensors, stream = traces(run), run.state().tensors, torch.get_rng_state()
    number = 0
    while True:
        with FailAt(number) as fault:
            result = run.apply(BIRTH)
        if fault.count <= number:
            break
        require_refused(result, sink, "can't allocate memory")
        assert len(sink.events) == number + 1
        assert traces(run) == standing
        assert_same(run.state().tensors, tensors)
        assert torch.equal(torch.get_rng_state(), stream)
        waiting.apply(Decision())
        number += 1
    assert number > 20
    assert not result.is_refused
    waiting.apply(BIRTH)
    require_as_if_it_had_waited(run, sink, waiting, waited)


def raising(error: BaseException, *, after: int = 0) -> Callable[..., object]:
    """Return a stand-in that raises at its call number `after`; the others do nothing."""
    calls = iter(range(1000))

    def stand_in(*args: object, **kwargs: object) -> None:
        del args, kwargs
        if next(calls) == after:
            raise error

    return stand_in


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError(WORDS),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("place", ["build", "move", "first group", "second group", "plan"])
def test_every_kind_of_failure_at_every_step_is_refused_and_forgotten(
    place: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = builtin_registry().extended()
    armed = False

    @registry.register("big", family="big", layouts=[Layout.MAP_2D], count_params=lambda spec: 0)
    def build(spec: SlotSpec) -> nn.Module:
        if place == "build" and armed:
            raise error
        return builtin_registry().get("conv_light").build(spec)

    run, sink, waiting, waited = make_pair(registry)
    armed = True
    standing = traces(run)
    with monkeypatch.context() as patch:
        if place == "move":
            patch.setattr(nn.Module, "to", raising(error))
        elif place in ("first group", "second group"):
            real = torch.optim.Optimizer.add_param_group
            calls = iter(range(10))

            def add(optimizer: torch.optim.Optimizer, group: dict[str, object]) -> None:
                if next(calls) == (place == "second group"):
                    raise error
                real(optimizer, group)

            patch.setattr(torch.optim.Optimizer, "add_param_group", add)
        elif place == "plan":
            real_plan = NoReduce.replan
            plans = iter(range(10))

            def replan(reducer: NoReduce, *args: object) -> int:
                if next(plans) == 0:
                    raise error
                return real_plan(reducer, *args)  # type: ignore[arg-type]

            patch.setattr(NoReduce, "replan", replan)
        result = run.apply(Decision(action=germinate("block2", "big")))
    waiting.apply(Decision())
    assert result.refusal is not None
    assert result.refusal.startswith(f"{MEMORY_REFUSAL}: 'big' in 'block2' could not be built")
    assert traces(run) == standing
    require_as_if_it_had_waited(run, sink, waiting, waited)


def test_an_error_of_another_kind_is_not_swallowed() -> None:
    registry = builtin_registry().extended()
    is_armed = False

    @registry.register("odd", family="odd", layouts=[Layout.MAP_2D], count_params=lambda spec: 0)
    def build(spec: SlotSpec) -> nn.Module:
        if is_armed:
            raise RuntimeError("shapes differ")
        return builtin_registry().get("conv_light").build(spec)

    run = make_run(parts=make_parts(registry=registry))
    is_armed = True
    with pytest.raises(RuntimeError, match="shapes differ"):
        run.apply(Decision(action=germinate("block2", "odd")))


def test_memory_that_runs_out_elsewhere_is_not_called_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    drive(run, 2, ((0, germinate("block1")),))
    cull = Decision(action=Action(op=LifecycleOp.CULL, slot="block1"))
    assert refuse_action(cull.action, run.observe()) is None
    monkeypatch.setattr(type(run.bench), "follow_topology", raising(MemoryError("no")))
    with pytest.raises(MemoryError):
        run.apply(cull)


def test_waiting_looks_at_nothing_and_leaves_everything_but_the_count_of_decisions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sink = ListSink()
    run = make_run(make_config(), make_parts(sink=sink, dropout=0.1))
    drive(run, 2, ((0, germinate("block1")),))
    before, standing, number = run.state(), traces(run), run.event_count
    for owner, name in ((type(run), "observe"), (type(run.bench), "follow_topology")):
        monkeypatch.setattr(owner, name, raising(AssertionError(f"{name} was asked")))
    result = run.apply(Decision(reason="scripted"))
    assert (result.effective, result.refusal, run.event_count) == (WAIT, None, number + 1)
    assert_same(run.state().tensors, before.tensors)
    assert traces(run) == standing
    made = sink.events[-1]
    assert isinstance(made, DecisionMade)
    assert (made.op, made.reason) == ("WAIT", "scripted")
