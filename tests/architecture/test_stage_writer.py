"""Only the lifecycle writes a stage: every other file reads it."""

from __future__ import annotations

import ast
from pathlib import Path

from source_tree import SRC, dotted, plant, read_sources

WRITER = "kasmina/lifecycle.py"


def _targets(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return list(node.targets)
    if isinstance(node, ast.AugAssign | ast.AnnAssign | ast.For | ast.NamedExpr):
        return [node.target]
    if isinstance(node, ast.Delete):
        return list(node.targets)
    if isinstance(node, ast.With):
        return [item.optional_vars for item in node.items if item.optional_vars is not None]
    return []


def _writes_attribute(node: ast.AST) -> bool:
    return any(
        isinstance(part, ast.Attribute) and part.attr == "stage" and isinstance(part.ctx, ast.Store | ast.Del)
        for target in _targets(node)
        for part in ast.walk(target)
    )


def _writes_by_call(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = dotted(node.func).split(".")[-1]
    if name in ("setattr", "__setattr__", "delattr", "__delattr__"):
        return any(isinstance(arg, ast.Constant) and arg.value == "stage" for arg in node.args)
    return name == "replace" and any(keyword.arg == "stage" for keyword in node.keywords)


def find_stage_writers(root: Path) -> list[str]:
    """Name every place outside the lifecycle that assigns, sets, replaces or deletes an attribute `stage`."""
    return [
        f"{file.name}:{getattr(node, 'lineno', 0)} writes a stage"
        for file in read_sources(root)
        if file.name != WRITER
        for node in ast.walk(file.tree)
        if _writes_attribute(node) or _writes_by_call(node)
    ]


def test_only_the_lifecycle_writes_a_stage() -> None:
    assert find_stage_writers(SRC) == []


def test_every_way_to_write_a_stage_is_found(tmp_path: Path) -> None:
    lines = (
        "state.stage = new",
        "a, state.stage = 1, new",
        "state.stage += 1",
        "setattr(state, 'stage', new)",
        "object.__setattr__(state, 'stage', new)",
        "state = dataclasses.replace(state, stage=new)",
        "del state.stage",
        "for state.stage in stages: pass",
    )
    plant(
        tmp_path,
        {
            "tolaria/host_run.py": "\n".join(lines) + "\n",
            "kasmina/lifecycle.py": "state.stage = new\n",
            "nissa/reader.py": "seen = state.stage\nreport = SlotReport(stage=seen)\nstage = seen\n",
        },
    )
    expected = [f"tolaria/host_run.py:{line} writes a stage" for line in range(1, len(lines) + 1)]
    assert sorted(find_stage_writers(tmp_path)) == expected
