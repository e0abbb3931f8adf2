"""What a dashboard that somebody looks at costs the training beside it: runs alone and watched, in turn.

    python benchmarks/dashboard_attached.py OUT.jsonl [--rounds 8] [--epochs 60]

    alone     a host grows on digits under its heuristic and writes its run directory, as `esper train` does
    watched   the same with `esper dash` over that directory and one reader of its stream, both in processes
              of their own, which the system may put on the other core

A round is one run of each way, the first way changes from round to round, and both have its seed: they
do the same work. Times are of epochs, deciding and writing events included; the first epochs are left out.
`cpu` is of the training's own process: what is written for a dashboard is written without one, too. `wall`
counts what it waits for: with fewer idle cores than processes others take turns with it. Rows hold medians
over the epochs of a run.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import torch

from esper.nissa import EventHub, RunDirectoryBackend
from esper.runtime.assemble import assemble
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.presets import build_preset
from esper.runtime.run_attempt import LateSink
from esper.runtime.run_folder import RunFolder, RunOrigin

WAYS = ("alone", "watched")
WARM_EPOCHS = 8
FIRST_SEED = 40
WHERE = {"device": "cpu", "torch": torch.__version__, "threads": 1}


def build_config(seed: int, epochs: int) -> ExperimentConfig:
    config = build_preset("digits")
    return replace(config, seed=seed, num_threads=1, host=replace(config.host, epochs=WARM_EPOCHS + epochs))


def train(path: Path, seed: int, epochs: int) -> dict[str, float]:
    """Grow one host into a run directory; return the medians of its epochs, seconds."""
    torch.set_num_threads(1)
    config, sink = build_config(seed, epochs), LateSink()
    assembly = assemble(config, sink)
    wall, cpu = [], []
    origin = RunOrigin(task="digits", policy=config.policy, seed=seed)
    with RunFolder.create(path, config_text="", origin=origin) as folder:
        hub = EventHub([RunDirectoryBackend(path, run_id=folder.run_id)], folder.run_id)
        sink.target = hub
        run = assembly.host_run
        for _ in range(config.host.epochs or 0):
            begun, begun_cpu = time.perf_counter(), time.process_time()
            run.apply(assembly.policy.decide(run.observe()))
            run.train_epoch()
            hub.flush(durable=True)
            wall.append(time.perf_counter() - begun)
            cpu.append(time.process_time() - begun_cpu)
        hub.close()
    return {"wall": statistics.median(wall[WARM_EPOCHS:]), "cpu": statistics.median(cpu[WARM_EPOCHS:])}


def train_apart(path: Path, seed: int, epochs: int) -> dict[str, float]:
    """Train in a process of its own, which shares nothing with the one before it."""
    command = [sys.executable, __file__, "--train", str(path), str(seed), str(epochs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


@contextmanager
def watching(runs: Path, run: Path) -> Iterator[None]:
    """A dashboard over a folder, and somebody who reads what it says of one run."""
    command = [sys.executable, "-m", "esper", "dash", str(runs), "--port", "0", "--no-open"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    address = server.stdout.readline().strip()
    is_over = threading.Event()
    reader = threading.Thread(target=read_streams, args=(address, run, is_over))
    reader.start()
    try:
        yield
    finally:
        is_over.set()
        server.terminate()
        server.wait()
        reader.join()
        server.stdout.close()


def read_streams(address: str, run: Path, is_over: threading.Event) -> None:
    """Read the stream of a run from the moment when it is there, as an open page does."""
    parts = urlsplit(address)
    token = parse_qs(parts.query)["token"][0]
    while not is_over.is_set():
        run_id = find_id(parts.netloc, token, run.name)
        if run_id:
            ask(parts.netloc, token, f"/api/stream?run={run_id}")
        is_over.wait(0.5)


def find_id(netloc: str, token: str, name: str) -> str:
    """Return the id of a run; empty = it is not listed."""
    body = ask(netloc, token, "/api/runs").partition(b"\r\n\r\n")[2]
    runs = json.loads(body)["runs"] if body.startswith(b"{") else []
    return next((str(run["id"]) for run in runs if run["name"] == name), "")


def ask(netloc: str, token: str, place: str) -> bytes:
    """Return all that is answered until the other side closes."""
    host, _, port = netloc.rpartition(":")
    lines = (
        f"GET {place} HTTP/1.1",
        f"Host: {netloc}",
        f"Authorization: Bearer {token}",
        "Connection: close",
    )
    received = []
    try:
        with socket.create_connection((host.strip("[]"), int(port))) as connection:
            connection.sendall("\r\n".join((*lines, "", "")).encode())
            while data := connection.recv(2**16):
                received.append(data)
    except OSError:  # the server has ended
        return b""
    return b"".join(received)


def measure_round(number: int, epochs: int) -> list[dict[str, object]]:
    """Run both ways with one seed; return their rows."""
    ways = WAYS if number % 2 == 0 else tuple(reversed(WAYS))
    seed = FIRST_SEED + number
    rows: list[dict[str, object]] = []
    for way in ways:
        with tempfile.TemporaryDirectory() as folder:
            runs = Path(folder)
            if way == "alone":
                found = train_apart(runs / "run", seed, epochs)
            else:
                with watching(runs, runs / "run"):
                    found = train_apart(runs / "run", seed, epochs)
        rows.append({**WHERE, "cores": os.cpu_count(), "round": number, "seed": seed, "way": way, **found})
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("output", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--train", nargs=3, metavar=("RUN", "SEED", "EPOCHS"), help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.train:
        path, seed, epochs = given.train
        print(json.dumps(train(Path(path), int(seed), int(epochs))))
        return
    if given.output is None:
        parser.error("OUT.jsonl is missing")
    rows = []
    for number in range(given.rounds):
        found = measure_round(number, given.epochs)
        rows += found
        print(*(f"{row['way']} {1e3 * float(str(row['cpu'])):.2f} ms" for row in found), flush=True)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
