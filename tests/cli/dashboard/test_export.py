"""One page without a server: all data inside, only its own script and style allowed, no file overwritten."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cli.calling import call
from cli.dashboard.sample_runs import make_run, make_training
from esper.cli.dashboard.app import load_assets
from esper.cli.dashboard.export import ENTRY_MODULE, build_page, collect, hash_of, join_modules
from esper.cli.dashboard.index import RunIndex, run_id_of
from esper.cli.dashboard.views import Views

HOSTILE = "</script><script>alert(1)</script>"


def modules() -> dict[str, str]:
    return {
        name: data.decode("utf-8")
        for name, data in load_assets().items()
        if name.endswith(".js") and "/" not in name
    }


def test_the_page_holds_every_view_of_every_run(tmp_path: Path) -> None:
    host, ppo = make_run(tmp_path, "host"), make_training(tmp_path, "ppo")
    answers = collect(Views(RunIndex(tmp_path)))
    base = f"/api/runs/{run_id_of(host)}"
    assert {
        "/api/runs",
        "/api/compare",
        base,
        f"{base}/growth?instance=0",
        f"{base}/events",
        f"{base}/decisions",
    } <= set(answers)
    assert f"/api/runs/{run_id_of(ppo)}/training" in answers
    decisions = answers[f"{base}/decisions"]
    assert isinstance(decisions, list)
    assert all(f"{base}/decision?n={row['n']}" in answers for row in decisions if isinstance(row, dict))


def test_a_page_allows_its_own_script_and_style_and_nothing_else(tmp_path: Path) -> None:
    make_run(tmp_path, "host", policy=HOSTILE)
    page = build_page(collect(Views(RunIndex(tmp_path)))).decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert hash_of(style) in policy[1]
    assert hash_of(script) in policy[1]
    assert page.count("<script") == 2, "a hostile name opens no script"
    assert "MIT" in script
    assert not re.search(r"(?:src|href)=\"/", page)


def test_the_data_comes_back_as_it_was(tmp_path: Path) -> None:
    make_run(tmp_path, "host", policy="x")
    views = Views(RunIndex(tmp_path))
    answers = {"a": HOSTILE, "b": [1, None, "\u2028"], **collect(views)}
    page = build_page(answers).decode()
    (data,) = re.findall(r'<script type="application/json" id="answers">(.*?)</script>', page, re.DOTALL)
    assert json.loads(data) == json.loads(json.dumps(answers))


def test_the_command_writes_a_new_file_and_names_it(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "host")
    target = tmp_path / "page.html"
    answer = call(["dash", str(tmp_path / "runs"), "--export", str(target)])
    assert (answer.code, answer.out) == (0, f"{target}\n")
    assert target.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize("kind", ["file", "link"])
def test_an_existing_file_is_never_overwritten(kind: str, tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "host")
    target = tmp_path / "page.html"
    if kind == "file":
        target.write_text("mine", encoding="utf-8")
    else:
        target.symlink_to(tmp_path / "elsewhere.html")
    answer = call(["dash", str(tmp_path / "runs"), "--export", str(target)])
    assert answer.code == 2
    assert "exists already" in answer.err
    assert not (tmp_path / "elsewhere.html").exists()
    assert kind == "link" or target.read_text(encoding="utf-8") == "mine"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "host")
    answer = call(["dash", str(tmp_path / "runs"), "--export", str(tmp_path / "no" / "page.html")])
    assert answer.code == 2
    assert "cannot be written" in answer.err


def test_modules_are_joined_behind_those_that_they_import() -> None:
    script = join_modules(
        {
            "main.js": 'import { b } from "./b.js";\nimport { a } from "./a.js";\nstart(a, b);\n',
            "a.js": "export const a = 1;\n",
            "b.js": 'import { a } from "./a.js";\nexport function b() { return a; }\n',
        },
        "main.js",
    )
    assert script.index("const a") < script.index("function b") < script.index("start(")
    assert "import" not in script
    assert "export" not in script


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('import a from "./a.js";\n', "cannot be joined"),
        ("export default 1;\n", "cannot be joined"),
        ('import { a } from "./a.js";\nconst a = 2;\n', "declared in"),
        ('import { main } from "./main.js";\n', "import each other"),
    ],
)
def test_modules_that_cannot_be_joined_are_named(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        join_modules({"main.js": text, "a.js": "export const a = 1;\n"}, "main.js")


def test_the_modules_of_the_page_can_be_joined() -> None:
    script = join_modules(modules(), ENTRY_MODULE)
    assert all(f"class {name}" in script for name in ("Shell", "RunPage", "ComparePage", "OverviewPage"))
