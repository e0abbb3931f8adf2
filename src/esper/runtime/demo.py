"""The first five minutes: digits grow beside the same host that never grows, and leave as a plain model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from esper.leyline import JsonValue
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


def run_demo(run_dir: Path | None, *, say: Callable[[str], None]) -> DemoSummary:
    """Run the demonstration.

    Args:
        run_dir: Where the grown run is written; None chooses a new directory below `runs/`.
        say: Told what happens next, in one short sentence, before each part.

    Raises:
        EsperError: If the directory cannot be used.
    """
    config = digits()
    say("1 of 3: digits on a host that grows")
    grown = run_experiment(config, run_dir=run_dir, provenance={}, argv=("demo",))
    say("2 of 3: the same host without seeds, for comparison")
    never, _ = run_unwritten(replace(config, policy="never"))
    assert grown.run_dir is not None
    say("3 of 3: the grown network leaves as a plain model")
    exported = export_run(grown.run_dir, grown.run_dir / "model.pt2", allow_unfinished=False)
    return DemoSummary(grown=grown, never=never, export=exported)
