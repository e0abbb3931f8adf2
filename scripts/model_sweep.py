"""python scripts/model_sweep.py [--only FAMILY ...] [--steps N] [--page-only]: does every kind of model grow?

One small model of each of timm's families is given slots, grows one seed by hand, and leaves as a plain
model, which is compared with the grown one on images that neither has seen. One line per family goes to
docs/models.jsonl; a family that has one is not run again. docs/models.md is made of the lines.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import runpy
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.kasmina import ForwardPlan, build_seeded
from esper.leyline import EsperError
from esper.runtime.api import grow
from esper.runtime.controller import Controller
from esper.runtime.growable import Growable
from generated import replace_between, settle
from model_families import FAMILIES, Family
from source_tree import REPO

ROWS = REPO / "docs" / "models.jsonl"
PAGE = REPO / "docs" / "models.md"
BEGIN = "<!-- models: begin (make models) -->"
END = "<!-- models: end -->"
STEPS = 200
BATCH = 4
IMAGES = 16
CLASSES = 4
TOLERANCE = 1e-5
"""Largest difference of an output between the grown and the exported model, relative to the largest output
where that is above 1."""
SEEDS = ("conv_light", "mlp", "attention", "norm")
"""The first of these that fits the first slot is grown."""
_FAULTS = (
    EsperError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    KeyError,
    AssertionError,
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one family came to."""

    family: str
    model: str
    size: int
    params: int = 0
    slots: int = 0
    path: str = ""
    feature: str = ""
    """Order of axes and shape of one item."""
    blueprint: str = ""
    seed_params: int = 0
    steps: int = 0
    loss: tuple[float, float] | None = None
    """Mean of the first and of the last ten batches."""
    effect: float = 0.0
    """Largest change of an output when the seed is switched off, relative as the difference is."""
    difference: float | None = None
    """Between grown and exported model on fresh images, relative as `TOLERANCE` says."""
    seconds: float = 0.0
    failed_at: str = ""
    """"build", "grow", "seed", "train" or "export"; empty = passed."""
    reason: str = ""
    machine: str = ""


def run_family(family: Family, steps: int = STEPS) -> Row:
    """Return what a family comes to; whatever it raises is part of that."""
    facts: dict[str, object] = {"family": family.name, "model": family.model, "size": family.size}
    stage, start = ["build"], time.monotonic()
    try:
        _grow_one(family, steps, facts, stage)
    except _FAULTS as error:
        lines = str(error).splitlines() or [""]
        facts |= {"failed_at": stage[0], "reason": f"{type(error).__name__}: {lines[0]}"[:300]}
    facts["seconds"] = round(time.monotonic() - start, 1)
    return Row(**facts, machine=_machine())  # type: ignore[arg-type]


def _grow_one(family: Family, steps: int, facts: dict[str, object], stage: list[str]) -> None:
    model = build(family)
    images, labels = _draw(family, IMAGES, seed=0)
    facts["params"] = sum(parameter.numel() for parameter in model.parameters())
    stage[0] = "grow"
    grown = grow(model, sample=images[:2])
    slot_id = grown.slot_ids[0]
    point, spec = grown.points[0], grown.model.slot(slot_id).spec
    axes = "" if point.point.arrangement is None else point.point.arrangement.value
    facts |= {
        "slots": len(grown.slot_ids),
        "path": point.point.path,
        "feature": f"{axes} {'x'.join(map(str, point.shape[1:]))}".strip(),
    }
    stage[0] = "seed"
    blueprint = next(name for name in SEEDS if grown.model.registry.get(name).fits(spec))
    losses = _train(grown, slot_id, blueprint, (images, labels), steps, stage)
    seed = grown[slot_id].parameters()
    facts |= {
        "blueprint": blueprint,
        "seed_params": sum(parameter.numel() for parameter in seed),
        "steps": steps,
        "loss": (round(sum(losses[:10]) / 10, 4), round(sum(losses[-10:]) / 10, 4)),
    }
    stage[0] = "export"
    facts |= _compare(grown, slot_id, _draw(family, BATCH, seed=1)[0])


def build(family: Family) -> nn.Module:
    """Return the model of a family with weights that are always the same.

    Imports timm, beside a torch that its torchvision was not built for, too.
    """
    runpy.run_path(str(REPO / "examples" / "torchvision_operators.py"))
    import timm  # noqa: PLC0415 - heavy, and the page is made without it

    def create() -> nn.Module:
        made: nn.Module = timm.create_model(
            family.model, pretrained=False, num_classes=CLASSES, **family.arguments
        )
        return made

    return build_seeded(create, 0)


def _draw(family: Family, count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, family.size, family.size, generator=generator)
    return images, torch.arange(count) % CLASSES


def _train(
    grown: Growable,
    slot_id: str,
    blueprint: str,
    data: tuple[Tensor, Tensor],
    steps: int,
    stage: list[str],
) -> list[float]:
    """Let one seed incubate for two fifths of the steps, blend in for two, and stay; return the losses."""
    optimizer = torch.optim.AdamW(grown.parameters(), lr=1e-3)
    controller = Controller(grown, optimizer, policy="never")
    slot, part = grown[slot_id], 2 * steps // 5
    slot.germinate(blueprint)
    stage[0] = "train"
    losses = []
    grown.train()
    for step in range(steps):
        if step == part:
            slot.blend(steps=part)
        if step == 2 * part:
            slot.fossilize()
        rows = torch.arange(step * BATCH, (step + 1) * BATCH) % IMAGES
        optimizer.zero_grad()
        loss = F.cross_entropy(_first(grown(data[0][rows])), data[1][rows])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    controller.close()
    return losses


def _compare(grown: Growable, slot_id: str, images: Tensor) -> dict[str, object]:
    plain = grown.export()
    grown.eval()
    with torch.no_grad():
        here, there = _first(grown(images)), _first(plain(images))
        with grown.model.planned(ForwardPlan(overrides={slot_id: 0.0})):
            without = _first(grown(images))
    scale = max(1.0, float(here.abs().max()))
    difference = float((here - there).abs().max()) / scale
    effect = float((here - without).abs().max()) / scale
    if not difference <= TOLERANCE:
        raise AssertionError(f"the exported model differs by {difference:.2e}")
    if not effect > 0.0:
        raise AssertionError("the seed changes nothing, so that equality shows nothing")
    return {"difference": difference, "effect": effect}


def _first(outputs: object) -> Tensor:
    """Return the logits: some models give a second head's beside them while they are trained."""
    found = outputs[0] if isinstance(outputs, tuple | list) else outputs
    assert isinstance(found, Tensor)
    return found


def _machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"


# ---------------------------------------------------------------------- rows and page


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file, by family.

    Raises:
        ValueError: If a line is no row, or a family has two.
    """
    rows: dict[str, Row] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            fields: Mapping[str, object] = json.loads(line)
            row = Row(**fields)  # type: ignore[arg-type]
            row = row if row.loss is None else replace(row, loss=(row.loss[0], row.loss[1]))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}: not a row of the sweep: {error}") from error
        if row.family in rows:
            raise ValueError(f"{path}, line {number}: a second row of {row.family}")
        rows[row.family] = row
    return sorted(rows.values(), key=lambda row: row.family)


def build_page(page: str, rows: Sequence[Row]) -> str:
    """Return the page with its tables made anew."""
    passed = [row for row in rows if not row.failed_at]
    failed = [row for row in rows if row.failed_at]
    missing = sorted({family.name for family in FAMILIES} - {row.family for row in rows})
    lines = [
        f"{len(passed)} of {len(rows)} families pass."
        + (f" Not run yet: {', '.join(missing)}." if missing else ""),
        "",
        "| family | model | image | parameters | slot | feature | seed | adds | loss | differs | seconds |",
        "|---|---|---:|---:|---|---|---|---:|---:|---:|---:|",
        *map(_line, passed),
    ]
    if failed:
        lines += [
            "",
            "What does not work, and why:",
            "",
            "| family | model | at | reason |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {r.family} | `{r.model}` | {r.failed_at} | {r.reason.replace('|', '/')} |" for r in failed
        ]
    machines = sorted({row.machine for row in rows})
    lines += ["", "Rows of: " + "; ".join(machines) + "." if machines else "No rows yet."]
    return replace_between(page, BEGIN, END, "\n" + "\n".join(lines) + "\n")


def _line(row: Row) -> str:
    assert row.loss is not None
    assert row.difference is not None
    cells = [
        row.family,
        f"`{row.model}`",
        str(row.size),
        f"{row.params:,}",
        f"`{row.path}` (1 of {row.slots})",
        row.feature,
        row.blueprint,
        f"+{row.seed_params:,}",
        f"{row.loss[0]:.2f} > {row.loss[1]:.2f}",
        f"{row.difference:.0e}" if row.difference else "0",
        f"{row.seconds:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what has no row yet, and write the page; return 1 if a named family fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="run these families again, write no row")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--page-only", action="store_true")
    parser.add_argument("--check", action="store_true", help="compare the page with the rows only")
    given = parser.parse_args(argv)
    warnings.simplefilter("ignore")  # of other people's models; what matters here are errors
    torch.set_num_threads(1)
    if given.only:
        chosen = [run_family(family, given.steps) for family in FAMILIES if family.name in given.only]
        print(*(json.dumps(asdict(row)) for row in chosen), sep="\n")
        return int(any(row.failed_at for row in chosen))
    rows = read_rows(given.rows) if given.rows.exists() else []
    done = {row.family for row in rows}
    for family in () if given.page_only or given.check else FAMILIES:
        if family.name not in done:
            row = run_family(family, given.steps)
            print(f"{row.family}: {row.failed_at or 'passed'} {row.reason} ({row.seconds} s)", flush=True)
            with given.rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(row), sort_keys=True) + "\n")
            rows.append(row)
    rows.sort(key=lambda row: row.family)
    return settle(PAGE, build_page(PAGE.read_text(encoding="utf-8"), rows), is_check=given.check)


if __name__ == "__main__":
    raise SystemExit(main())
