"""The first five minutes: digits grow beside the same host that never grows, and leave as a plain model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from esper.leyline import JsonValue
from esper.nissa import format_count, format_flops, format_percent
from esper.runtime.export_run import ExportSummary, export_run
from esper.runtime.presets import digits
from esper.runtime.run import ExperimentResult, run_experiment, run_unwritten


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSummary:
    """The grown network, its twin that never grew, and the exported model."""

    grown: ExperimentResult
    never: ExperimentResult
    export: ExportSummary

    def to_json(self) -> dict[str, JsonValue]:
        """Return plain data with stable keys."""
        return {
            "grown": self.grown.to_json(),
            "never": self.never.to_json(),
            "export": self.export.to_json(),
        }

    @property
    def text(self) -> str:
        """The table that the command prints."""
        lines = ["", "slot      blueprint    stage         contribution         params  FLOPs an item"]
        lines += [_slot_line(slot) for slot in self.grown.slots]
        lines += [
            "",
            "                 test accuracy   parameters   training FLOPs",
            _network_line("grown", self.grown),
            _network_line("never grew", self.never),
            "",
            self.export.text,
            f"run directory: {self.grown.run_dir}",
        ]
        return "\n".join(lines)


def run_demo(run_dir: Path | None) -> DemoSummary:
    """Run the demonstration.

    Raises:
        EsperError: If the directory cannot be used.
    """
    config = digits()
    grown = run_experiment(config, run_dir=run_dir, provenance={}, argv=("demo",))
    never, _ = run_unwritten(replace(config, policy="never"))
    assert grown.run_dir is not None
    exported = export_run(grown.run_dir, grown.run_dir / "model.pt2", allow_unfinished=False)
    return DemoSummary(grown=grown, never=never, export=exported)


def _slot_line(slot: Mapping[str, JsonValue]) -> str:
    mean, error = slot["contribution"], slot["contribution_error"]
    worth = "-"
    if isinstance(mean, float) and isinstance(error, float):
        worth = f"{mean:+.4f} +- {error:.4f}"
    return (
        f"{slot['slot']!s:<10}{slot['blueprint'] or '-'!s:<13}{slot['stage']!s:<14}{worth:<21}"
        f"{format_count(int(str(slot['params']))):>6}{format_flops(int(str(slot['flops_per_item']))):>14}"
    )


def _network_line(name: str, result: ExperimentResult) -> str:
    return (
        f"{name:<17}{format_percent(result.test_metric):>13}{format_count(result.total_params):>13}"
        f"{format_flops(result.total_flops):>17}"
    )
