"""A user's own classes through the program itself, from a folder that holds nothing but them.

The program is started by a script that lies elsewhere, as the installed `esper` does: Python puts the folder
of the script on the search path and not the current one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from runtime.own_code import POLICIES, POLICY_MODULE, TERM_MODULE, TERMS

PROGRAM = "import sys\nfrom esper.cli.main import main\nsys.exit(main())\n"
PLANT = f"{POLICY_MODULE}:PlantOnce"
SHORT = ("--task", "synthetic", "--epochs", "6", "--telemetry.progress", "none")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The user's folder; the program lies outside of it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "esper").write_text(PROGRAM, encoding="utf-8")
    inner = tmp_path / "work"
    inner.mkdir()
    (inner / f"{POLICY_MODULE}.py").write_text(POLICIES, encoding="utf-8")
    (inner / f"{TERM_MODULE}.py").write_text(TERMS, encoding="utf-8")
    return inner


def esper(folder: Path, args: Sequence[str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run `esper ARGS` in a folder, Python with these options."""
    return subprocess.run(
        [sys.executable, *options, str(folder.parent / "bin" / "esper"), *args],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.mark.slow
def test_a_policy_beside_the_run_trains_resumes_and_is_exported_without_its_code(folder: Path) -> None:
    done = esper(folder, ["train", PLANT, *SHORT, "--run-dir", "out", "--json"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["policy"] == PLANT
    for confirmation in (["train", "--trust-code"], ["train", PLANT]):
        again = esper(folder, [*confirmation, "--resume", "out", "--json"])
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout) == json.loads(done.stdout)
    (folder / f"{POLICY_MODULE}.py").unlink()
    assert esper(folder, ["export", "out", "-o", "model"]).returncode == 0
    lost = esper(folder, ["train", "--resume", "out", "--trust-code"])
    assert lost.returncode == 2
    assert f"there is no module {POLICY_MODULE!r}" in lost.stderr
    assert "Traceback" not in lost.stderr


@pytest.mark.slow
def test_a_policy_named_by_a_file_runs_and_is_named_in_the_runs_folder(folder: Path) -> None:
    text = f'policy = "{PLANT}"\n[task]\nname = "synthetic"\n[host]\nepochs = 2\n'
    (folder / "a.toml").write_text(text, encoding="utf-8")
    done = esper(folder, ["train", "--config", "a.toml", "--telemetry.progress", "none"])
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "runs").iterdir()
    assert run.name.startswith(f"synthetic-{POLICY_MODULE}-PlantOnce-0-")
    assert tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))["policy"] == PLANT


@pytest.mark.slow
def test_a_policy_is_evaluated_beside_auto(folder: Path) -> None:
    args = ["evaluate", "--policy", PLANT, "auto", "--seeds", "20", *SHORT, "--json"]
    done = esper(folder, args)
    assert done.returncode == 0, done.stderr
    names = [policy["policy"] for policy in json.loads(done.stdout)["policies"]]
    assert names == ["never", PLANT, "heuristic"]


@pytest.mark.slow
def test_a_term_of_a_file_trains_a_policy_that_then_runs_by_its_folder(folder: Path) -> None:
    text = (
        f'policy = "ppo"\n[task]\nname = "synthetic"\n[reward]\n'
        f'extra_terms = ["{TERM_MODULE}:FirstSeed=0.5"]\n'
        "[envs]\nnum_envs = 2\nnum_hosts = 2\n[network]\nhidden_size = 16\ncore_size = 16\ntoken_size = 8\n"
        "family_size = 4\nattention_heads = 2\n[training]\nnum_updates = 1\n"
    )
    (folder / "a.toml").write_text(text, encoding="utf-8")
    done = esper(folder, ["train", "--config", "a.toml", "--epochs", "7", "--run-dir", "p"])
    assert done.returncode == 0, done.stderr
    state = next((folder / "p" / "checkpoints").glob("*/state.json")).read_text(encoding="utf-8")
    assert '"first_seed"' in state
    grown = esper(folder, ["train", "p/policy", *SHORT, "--run-dir", "out", "--json"])
    assert grown.returncode == 0, grown.stderr
    assert json.loads(grown.stdout)["policy"] == "p/policy"
    assert esper(folder, ["train", "--resume", "out", "--json"]).stdout == grown.stdout


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "own_policis:PlantOnce"], "did you mean 'own_policies'?"),
        (["train", f"{POLICY_MODULE}:Forgets"], "policy Forgets breaks its contract: "),
        (["evaluate", "--policy", f"{POLICY_MODULE}:Crashes"], "raises ZeroDivisionError: division by zero"),
        (["train", "ppo", "--reward.extra-terms", f"{TERM_MODULE}:Crashes=0.1"], "raises ZeroDivisionError"),
    ],
)
def test_code_that_does_not_fit_is_refused_before_anything_is_written(
    args: list[str], message: str, folder: Path
) -> None:
    before = sorted(path.name for path in folder.iterdir())
    answer = esper(folder, [*args, "--task", "synthetic"])
    assert (answer.returncode, answer.stdout) == (2, "")
    assert len(answer.stderr.splitlines()) == 1
    assert message in answer.stderr
    assert sorted({path.name for path in folder.iterdir()} - {"__pycache__"}) == before


@pytest.mark.slow
def test_the_safe_path_mode_of_python_leaves_the_folder_out(folder: Path) -> None:
    answer = esper(folder, ["train", PLANT, "--task", "synthetic"], "-P")
    assert answer.returncode == 2
    assert f"there is no module {POLICY_MODULE!r}" in answer.stderr
