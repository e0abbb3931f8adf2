"""Faults on order: read from the environment alone, refused when misspelt, happening once at their moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from esper.leyline import ConfigError, ExitCode
from esper.runtime.fault_plan import (
    KINDS,
    POINTS,
    Fault,
    FaultPlan,
    InjectedFaultError,
    cause,
    parse_faults,
)
from source_tree import SRC

ALLOWED = {"ESPER_ALLOW_FAULTS": "1"}


def plan_of(text: str, rank: int = 0, **environ: str) -> FaultPlan:
    return FaultPlan.from_environ({**ALLOWED, "FAULTS": text, **environ}, rank)


def test_an_order_is_read_as_it_is_written() -> None:
    text = "kill@rank=1,phase=update,step=7 ; nan@seed=s1,step=9;;io-error@operation=fsync,call=3,times=2"
    kill, nan, failure = parse_faults(text)
    assert kill == Fault(kind="kill", where={"phase": "update", "step": 7}, rank=1)
    assert nan == Fault(kind="nan", where={"seed": "s1", "step": 9})
    assert failure == Fault(kind="io-error", where={"operation": "fsync"}, call=3, times=2)
    assert FaultPlan((kill, nan, failure)).describe() == (
        "kill@phase=update,step=7,rank=1; nan@seed=s1,step=9; io-error@operation=fsync,call=3,times=2"
    )
    assert parse_faults("sleep@seconds=5") == (Fault(kind="sleep", seconds=5),)


@pytest.mark.parametrize("environ", [{}, {"ESPER_ALLOW_FAULTS": "0"}, {"ESPER_ALLOW_FAULTS": ""}])
def test_without_permission_an_order_is_not_even_read(environ: dict[str, str]) -> None:
    plan = FaultPlan.from_environ({"FAULTS": "no order at all @@", **environ})
    assert plan.is_empty
    plan.reach("phase", phase="update", step=7)


def test_permission_without_an_order_orders_nothing() -> None:
    assert FaultPlan.from_environ(ALLOWED).is_empty
    assert FaultPlan().is_empty
    assert not plan_of("exception").is_empty


def test_a_strange_permission_is_refused() -> None:
    with pytest.raises(ConfigError, match="ESPER_ALLOW_FAULTS='yes': must be 1"):
        FaultPlan.from_environ({"ESPER_ALLOW_FAULTS": "yes"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kil@rank=1", "unknown kind 'kil': did you mean 'kill'"),
        ("kill@rnk=1", "unknown key 'rnk': did you mean 'rank'"),
        ("kill@seconds=1", "unknown key 'seconds'"),
        ("kill@point=phase,batch=1", "unknown key 'batch'"),
        ("kill@point=phases", "unknown point 'phases': did you mean 'phase'"),
        ("nan@point=phase", "nan happens at the point 'gradient' only"),
        ("nan@phase=update", "unknown key 'phase'"),
        ("io-error@batch=1", "unknown key 'batch'"),
        ("kill@rank", "'rank': expected key=value"),
        ("kill@phase=", "phase has no value"),
        ("kill@rank=1,rank=1", "'rank' is given twice"),
        ("kill@rank=-1", r"rank='-1': must be a whole number in \[0, 1000000\]"),
        ("kill@call=0", r"call='0': must be a whole number in \[1,"),
        ("kill@step=1e3", "step='1e3'"),
        (f"kill@step={'9' * 5_000}", "step='9"),
        ("bitflip@bit=64", r"bit='64': must be a whole number in \[0, 63\]"),
    ],
)
def test_an_order_that_cannot_be_understood_is_refused_with_the_nearest_choice(
    text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        plan_of(text)
    assert caught.value.exit_code is ExitCode.USAGE
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_ordered_at_some_point(kind: str) -> None:
    (fault,) = parse_faults(kind)
    assert any(fault.fits(point, dict.fromkeys(POINTS[point], 1)) for point in POINTS)


def test_a_fault_is_of_its_rank_and_attempt_alone() -> None:
    text = "exception@rank=1,attempt=0"
    assert plan_of(text, rank=0).is_empty
    assert not plan_of(text, rank=1).is_empty
    assert plan_of(text, rank=1, TORCHELASTIC_RESTART_COUNT="1").is_empty
    assert not plan_of("exception@rank=1", rank=1, TORCHELASTIC_RESTART_COUNT="1").is_empty


def test_a_fault_happens_once_where_everything_fits() -> None:
    plan = plan_of("exception@phase=update,step=7")
    plan.reach("phase", phase="update", step=6)
    plan.reach("phase", phase="rollout", step=7)
    plan.reach("file", operation="fsync")
    with pytest.raises(InjectedFaultError, match="as ordered: exception@phase=update,step=7"):
        plan.reach("phase", phase="update", step=7)
    plan.reach("phase", phase="update", step=7)


def test_a_named_point_leaves_the_others_alone() -> None:
    plan = plan_of("exception@point=collective,step=7")
    plan.reach("phase", phase="update", step=7)
    with pytest.raises(InjectedFaultError):
        plan.reach("collective", operation="all_sum", phase="update", step=7)


def test_moments_are_counted_for_each_fault() -> None:
    plan = plan_of("io-error@operation=fsync,call=2,times=2")
    failed = []
    for number, operation in enumerate(("open", "fsync", "write", "fsync", "fsync", "fsync")):
        try:
            plan.reach("file", operation=operation)
        except OSError:
            failed.append(number)
    assert failed == [3, 4]


def test_faults_of_tensors_are_left_to_whoever_holds_them() -> None:
    plan = plan_of("nan@seed=s1; bitflip@seed=s2,bit=3")
    assert [fault.kind for fault in plan.take("gradient", seed="s1", step=0, batch=0)] == ["nan"]
    assert [fault.bit for fault in plan.take("gradient", seed="s2", step=0, batch=0)] == [3]
    cause(Fault(kind="nan"))


def test_a_sleep_ends_after_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float | None] = []

    def wait(_event: threading.Event, timeout: float | None = None) -> bool:
        waited.append(timeout)
        return False

    monkeypatch.setattr(threading.Event, "wait", wait)
    cause(Fault(kind="sleep", seconds=3))
    assert waited == [3]


def test_an_exception_can_come_between_any_two_steps_of_the_main_thread() -> None:
    def work_on() -> None:
        plan_of("async-exception").reach("boundary")
        for _ in range(10_000):
            pass

    with pytest.raises(InjectedFaultError):
        work_on()


@pytest.mark.parametrize(("kind", "number"), [("sigint", signal.SIGINT), ("sigterm", signal.SIGTERM)])
def test_a_signal_reaches_the_process_itself(kind: str, number: signal.Signals) -> None:
    received: list[int] = []
    previous: object = signal.signal(number, lambda got, _frame: received.append(got))
    try:
        plan_of(kind).reach("boundary")
    finally:
        signal.signal(number, previous)  # type: ignore[arg-type]
    assert received == [number]


PROGRAM = """
import faulthandler, os, resource, sys
faulthandler.disable()
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from esper.runtime.fault_plan import FaultPlan
FaultPlan.from_environ(os.environ).reach("boundary")
print("alive")
"""


def start(text: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **ALLOWED, "FAULTS": text},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize(
    ("kind", "number"),
    [("kill", signal.SIGKILL), ("abort", signal.SIGABRT), ("segfault", signal.SIGSEGV)],
)
def test_a_deadly_fault_ends_the_process_at_once(kind: str, number: signal.Signals) -> None:
    said, _ = (process := start(kind)).communicate(timeout=60)
    assert (process.returncode, said) == (-number, "")


def _is_in(state: str) -> Callable[[int], bool]:
    def look(pid: int) -> bool:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == state

    return look


@pytest.mark.slow
@pytest.mark.fault
def test_a_stopped_process_stands_still_until_it_is_told_to_go_on() -> None:
    process = start("stop")
    os.waitpid(process.pid, os.WUNTRACED)
    assert _is_in("T")(process.pid)
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "alive\n")


@pytest.mark.slow
@pytest.mark.fault
def test_while_the_interpreter_is_held_no_other_thread_runs() -> None:
    program = """
import threading, time
from esper.runtime.fault_plan import Fault, cause
beats, is_over = [], threading.Event()
def beat():
    while not is_over.is_set():
        beats.append(time.monotonic())
        is_over.wait(0.01)
thread = threading.Thread(target=beat)
thread.start()
begin = time.monotonic()
cause(Fault(kind="gil", seconds=1))
end = time.monotonic()
is_over.set()
thread.join()
print(end - begin >= 0.99, len([at for at in beats if begin + 0.1 < at < end - 0.1]))
"""
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert answer.stdout == "True 0\n", answer.stderr


def test_only_the_plan_itself_knows_the_variables() -> None:
    """What a file of a user could contain is read elsewhere; so none can order a fault."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(SRC.rglob("*.py"))}
    assert [name for name, text in texts.items() if "ESPER_ALLOW_FAULTS" in text] == ["fault_plan.py"]
    lines = [line for text in texts.values() for line in text.splitlines() if "FaultPlan.from_env" in line]
    assert [line for line in lines if "from_environ(os.environ" not in line] == []
