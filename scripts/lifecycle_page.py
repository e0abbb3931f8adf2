"""python scripts/lifecycle_page.py [--check]: docs/lifecycle.md from the transition and operation tables."""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterator

from esper.leyline import OP_STAGES, TRANSITIONS, LifecycleOp, SeedStage
from generated import NOTE, settle
from source_tree import REPO, SRC, read_file

PAGE = REPO / "docs" / "lifecycle.md"
PREDICATES = (
    "has_seed",
    "is_live",
    "is_isolated",
    "is_trained",
    "affects_output",
    "is_cooldown",
    "is_terminal",
)
INTRO = """# The life of a seed

A slot is always in one of these stages. The tables below are printed from `esper.leyline.TRANSITIONS`
and `esper.leyline.OP_STAGES`, which the code itself obeys; files store the names. `kasmina/lifecycle.py`
is the only writer of a stage. A move that is not in the table is refused with the present stage and the
legal next ones, and nothing changes. The one exception is putting a saved state back, after a load or a
rollback.
"""


def build_page() -> str:
    """Return the page."""
    parts = [NOTE, INTRO, _moves(), _predicates(), _operations()]
    return "\n".join(parts)


def _meanings() -> dict[str, str]:
    """Stage name -> the sentence under the enum member."""
    package = SRC / "esper"
    tree = read_file(package / "leyline" / "stages.py", package).tree
    enum = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "SeedStage")
    return dict(_documented_members(enum))


def _documented_members(enum: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for item, after in zip(enum.body, enum.body[1:], strict=False):
        if (
            isinstance(item, ast.Assign)
            and isinstance(item.targets[0], ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            yield item.targets[0].id, " ".join(str(after.value.value).split())


def _names(stages: Collection[SeedStage], otherwise: str) -> str:
    """List stages in their fixed order."""
    return ", ".join(stage.value for stage in SeedStage if stage in stages) or otherwise


def _moves() -> str:
    meanings = _meanings()
    rows = [f"| {s.value} | {meanings[s.name]} | {_names(TRANSITIONS[s], 'none')} |" for s in SeedStage]
    return "\n".join(
        ["## Stages and moves", "", "| stage | meaning | may become |", "|---|---|---|", *rows, ""]
    )


def _predicates() -> str:
    head = " | ".join(f"`{name}`" for name in PREDICATES)
    rows = [
        f"| {stage.value} | "
        + " | ".join("yes" if getattr(stage, name) else "" for name in PREDICATES)
        + " |"
        for stage in SeedStage
    ]
    return "\n".join(
        [
            "## What a stage means to the code",
            "",
            f"| stage | {head} |",
            "|---" * (len(PREDICATES) + 1) + "|",
            *rows,
            "",
        ]
    )


def _operations() -> str:
    rows = [f"| {op.value} | {_names(OP_STAGES[op], 'any')} |" for op in LifecycleOp]
    text = (
        "A policy asks for one operation per decision. Whether it is legal at that moment also depends on\n"
        "ages, gates and budgets (`esper.leyline.refuse_action`); an illegal request is answered with the\n"
        "reason and counts as WAIT."
    )
    head = ["## What a policy may ask for, and where", "", text, "", "| operation | legal in |", "|---|---|"]
    return "\n".join([*head, *rows, ""])


if __name__ == "__main__":
    raise SystemExit(settle(PAGE, build_page(), is_check="--check" in sys.argv[1:]))
