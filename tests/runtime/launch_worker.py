"""A rank that does what it is told: `python launch_worker.py SPEC ARGS...`.

SPEC is `RANK=ATTEMPT ATTEMPT ...;RANK=...`: what each rank does in each attempt, the last one for all that
follow; a rank that is not named does nothing. An attempt is a chain of words of `do`: `meet+save+kill`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

PATIENCE_S = 60.0
RANK, SIZE = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
ATTEMPT = int(os.environ["TORCHELASTIC_RESTART_COUNT"])


def do(word: str, run_dir: Path) -> None:
    """Do one thing.

    meet: wait until all ranks are here; leaves a file that holds its process number. save: leave a
    checkpoint, newer in every attempt. meta: look like a run. kill: die of SIGKILL. quit: send SIGQUIT to
    the launcher. crash: raise. exitN: end with code N. leaveN: the same with a verdict. wait: end with 143
    or 130 at a signal. twice: end at a second SIGINT. deaf: end at no signal.
    """
    if word == "meet":
        _meet(run_dir / "ranks")
    elif word == "save":
        (run_dir / "checkpoints" / f"e{ATTEMPT + 1:04d}-b00000").mkdir(parents=True)
    elif word == "meta":
        (run_dir / "meta.json").write_text("{}", encoding="utf-8")
    elif word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "quit":
        os.kill(os.getppid(), signal.SIGQUIT)
    elif word == "crash":
        raise ValueError("a crash that was asked for")
    elif word.startswith("exit"):
        sys.exit(int(word.removeprefix("exit")))
    elif word.startswith("leave"):
        _leave(int(word.removeprefix("leave")), run_dir / "ranks")
    else:
        _wait(word, run_dir / "ranks")


def _meet(folder: Path) -> None:
    (folder / f"ready-{ATTEMPT}-{RANK}").write_text(str(os.getpid()), encoding="utf-8")
    for _ in range(int(PATIENCE_S / 0.01)):
        if len(list(folder.glob(f"ready-{ATTEMPT}-*"))) == SIZE:
            return
        threading.Event().wait(0.01)
    raise AssertionError("the other ranks did not come")


def _leave(code: int, folder: Path) -> None:
    from esper.runtime.ranks import RankVerdict, write_verdict  # noqa: PLC0415 - few ranks need it

    verdict = RankVerdict(code=code, step=7, phase="rollout", reason="as asked", rank=RANK, attempt=ATTEMPT)
    write_verdict(folder, verdict)
    sys.exit(code)


def _wait(word: str, folder: Path) -> None:
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        (folder / f"got-{RANK}-{len(received)}").write_text(str(number), encoding="ascii")
        if word == "wait":
            sys.exit(130 if number == signal.SIGINT else 143)
        if word == "twice" and received == [signal.SIGINT, signal.SIGINT]:
            os._exit(130)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, note)
    (folder / f"waiting-{RANK}").touch()
    for _ in range(int(PATIENCE_S)):
        threading.Event().wait(1.0)


def main() -> None:
    """Do what this rank does in this attempt."""
    spec = dict(part.split("=") for part in sys.argv[1].split(";"))
    sys.stdout.write(f"rank {RANK} attempt {ATTEMPT} args {sys.argv[2:]}\n")
    sys.stderr.write(f"threads {os.environ['OMP_NUM_THREADS']} launched {os.environ['ESPER_LAUNCHED']}\n")
    run_dir = Path(
        next(arg.partition("=")[2] for arg in sys.argv[2:] if arg.startswith(("--run", "--resume")))
    )
    attempts = spec.get(str(RANK), "").split(" ")
    for word in filter(None, attempts[min(ATTEMPT, len(attempts) - 1)].split("+")):
        do(word, run_dir)


if __name__ == "__main__":
    main()
