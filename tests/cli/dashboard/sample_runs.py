"""Run directories as a run leaves them, made from events in no time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from starlette.testclient import TestClient

from esper.cli.dashboard.app import Dashboard, build_dashboard
from esper.cli.dashboard.index import Entry, RunIndex, run_id_of
from esper.cli.dashboard.views import Views
from esper.leyline import DecisionMade, Event, RewardGranted
from esper.nissa import JsonlBackend
from nissa.sample_run import numbered, run_events
from nissa.sample_training import training_events

ADDRESS = "http://localhost:8521"


def make_run(
    root: Path,
    name: str,
    events: Iterable[Event] | None = None,
    *,
    seed: int = 0,
    policy: str = "heuristic",
    state: str = "finished",
    config: str = "",
) -> Path:
    """Write one run directory; without events it is the made-up host run."""
    folder = root / name
    folder.mkdir(parents=True)
    describe(folder, name, seed=seed, policy=policy, state=state)
    (folder / "config.toml").write_text(f'seed = {seed}\npolicy = "{policy}"\n{config}', encoding="utf-8")
    backend = JsonlBackend(folder / "events-0.jsonl", run_id="sample", rank=0)
    for record in numbered(run_events() if events is None else events):
        backend.write(record)
    backend.close()
    return folder


def describe(folder: Path, name: str, *, seed: int = 0, policy: str = "heuristic", state: str) -> None:
    """Write what a run says of itself."""
    meta = {
        "run_id": name,
        "task": "digits",
        "policy": policy,
        "seed": seed,
        "started_at": "2026-01-01T00:00:00+00:00",
    }
    (folder / "meta.json").write_text(json.dumps({"format_version": 1, **meta}), encoding="utf-8")
    status = {"format_version": 1, "state": state, "exit_code": 0, "attempt": 0}
    (folder / "status.json").write_text(json.dumps(status), encoding="utf-8")


def make_training(root: Path, name: str) -> Path:
    """Write the directory of a training of a policy."""
    return make_run(root, name, training_events(20, 6), policy="ppo")


def decided_and_paid(instance: int = 0) -> list[Event]:
    """One decision with everything that is recorded about it, and its reward."""
    return [
        DecisionMade(
            epoch=3,
            instance=instance,
            op="GERMINATE",
            slot="block1",
            blueprint="norm",
            reason="learned",
            confidence=0.4,
            value=0.25,
            probabilities={"op": (0.6, 0.4)},
            observation={"epoch": 0.1, "block1/depth": 0.5},
            legal={"op": (True, True)},
        ),
        RewardGranted(
            epoch=4,
            instance=instance,
            total=0.5,
            parts={"metric_change": 0.75, "rent": -0.25},
            return_so_far=1.5,
        ),
    ]


def entry_of(views: Views, folder: Path) -> Entry:
    """Return the run of a folder."""
    entry = views.index.find(run_id_of(folder))
    assert entry is not None
    return entry


def open_views(root: Path) -> Views:
    """Return the views of the runs below a root."""
    return Views(RunIndex(root))


def sign_in(dashboard: Dashboard) -> TestClient:
    """Return a client that came in by the printed address."""
    client = TestClient(dashboard.app, base_url=ADDRESS)
    assert client.get(f"/?token={dashboard.access.token}").status_code == 200
    return client


def open_client(root: Path) -> TestClient:
    """Return a client of a new dashboard that came in by the printed address."""
    return sign_in(build_dashboard(RunIndex(root)))
