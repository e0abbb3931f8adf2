"""`esper.open_run`: a run directory as a plain object, for notebooks and programs, and its report as files.

Reads files only: it works while the run goes on, and on runs of another machine. Loads no torch, and
matplotlib only where something is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

from esper.leyline import ConfigError, DecisionMade, Event, JsonValue
from esper.nissa import (
    REPORT_FORMATS,
    BlueprintScore,
    CoalitionTable,
    Document,
    MetricCurves,
    ReportFormat,
    RunLog,
    RunSummary,
    SeedFate,
    StageSpan,
    TrainingCurves,
    TrainingSummary,
    build_comparison,
    build_run_document,
    build_training_document,
    compare_tasks,
    compute_curves,
    compute_fates,
    compute_run_row,
    compute_scoreboard,
    compute_strips,
    compute_summary,
    compute_training_summary,
    curves_to_plain,
    draw_images,
    effective_events,
    is_training,
    read_coalitions,
    read_run,
    render_fragment,
    summary_to_plain,
    to_plain_tree,
    training_to_plain,
    write_document,
)
from esper.runtime.run_records import META_NAME, RunInfo, read_run_info

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT_FOLDER = "report"
"""Where the report of a run goes by default, inside its directory."""


def open_run(path: Path | str) -> RunReport:
    """Read a run directory and return it as an object; call it again to see how a run went on.

    Args:
        path: The run's directory.

    Raises:
        ConfigError: If `path` is no path.
        RunDirectoryError: If it holds no events, or is damaged.
        DataError: If an event file or `coalitions.json` cannot be read.

    Example:
        >>> import esper
        >>> run = esper.open_run("runs/digits")
        >>> run.summary.task, run.summary.num_fossilized
        ('digits', 1)
        >>> [(seed.blueprint, seed.outcome) for seed in run.seeds]
        [('conv_light', 'fossilized'), ('norm', 'culled'), ('depthwise', 'culled')]
        >>> run.slots["block2"][-1].stage
        'FOSSILIZED'
        >>> run.decisions[8].op, run.curves.epochs[-1]
        ('GERMINATE', 40)
        >>> figure = run.plot()  # a matplotlib figure; the last line of a notebook cell shows it
    """
    if not isinstance(path, str | Path):
        raise ConfigError(f"path is a {type(path).__name__}: expected a run directory, e.g. 'runs/digits'")
    folder = Path(path)
    log = read_run(folder)
    return RunReport(
        path=folder,
        log=log,
        info=read_run_info(folder) if (folder / META_NAME).is_file() else None,
        coalitions=read_coalitions(folder),
    )


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RunReport:
    """A run as it was when it was opened: of a host, or of the training of a policy.

    In a notebook it shows itself. What a run of the other kind would have is empty.
    """

    path: Path
    log: RunLog
    info: RunInfo | None
    """None = the folder holds events and nothing else of a run."""
    coalitions: CoalitionTable | None
    """What subsets of its fossils are worth; None = not measured."""

    def __repr__(self) -> str:
        """Return one line: what it is, where, and how far it has come."""
        if self.kind == "training":
            told = self.training
            return (
                f"RunReport({str(self.path)!r}: training, {told.num_rounds} of {told.planned_rounds} rounds)"
            )
        summary = self.summary
        return (
            f"RunReport({str(self.path)!r}: {summary.task} by {summary.policy}, {summary.num_epochs} of "
            f"{summary.horizon_epochs} epochs, {summary.num_fossilized} fossils)"
        )

    @property
    def kind(self) -> Literal["host", "training"]:
        """Whether it grew a host, or trained a policy."""
        return "training" if is_training(self.log.records) else "host"

    @property
    def events(self) -> tuple[Event, ...]:
        """Every event that still holds; what a rollback undid is left out."""
        return effective_events(self.log.records)

    @property
    def summary(self) -> RunSummary:
        """What a host run came to."""
        return compute_summary(self.log.records)

    @property
    def curves(self) -> MetricCurves:
        """One number per finished epoch."""
        return compute_curves(self.events)

    @property
    def slots(self) -> Mapping[str, tuple[StageSpan, ...]]:
        """Slot -> its stages in order."""
        return compute_strips(self.events)

    @property
    def seeds(self) -> tuple[SeedFate, ...]:
        """Every seed that germinated, from there to its end."""
        return compute_fates(self.events)

    @property
    def blueprints(self) -> tuple[BlueprintScore, ...]:
        """How every blueprint did, the most often kept first."""
        return compute_scoreboard(self.seeds)

    @property
    def decisions(self) -> tuple[DecisionMade, ...]:
        """What the policy chose at every decision point, and what became of it."""
        return tuple(event for event in self.events if isinstance(event, DecisionMade))

    @property
    def training(self) -> TrainingSummary:
        """What the training of a policy came to."""
        return compute_training_summary(self.log.records)

    @property
    def rounds(self) -> TrainingCurves:
        """One number per round of a training."""
        return self.training.curves

    @property
    def document(self) -> Document:
        """The report as sections of text, tables and figures."""
        if self.kind == "training":
            return build_training_document(self.log)
        return build_run_document(self.log, self.coalitions)

    def to_dict(self) -> dict[str, JsonValue]:
        """Return everything as JSON data with stable keys; numbers that are not finite become None."""
        plain = to_plain_tree(self._collect()).value
        assert isinstance(plain, Mapping)
        return dict(plain)

    def _collect(self) -> dict[str, JsonValue]:
        head: dict[str, JsonValue] = {
            "path": str(self.path),
            "kind": self.kind,
            "run": None if self.info is None else self.info.to_json(),
        }
        if self.kind == "training":
            return {
                **head,
                "training": training_to_plain(self.training),
                "rounds": list(curves_to_plain(self.rounds)),
            }
        return {
            **head,
            "summary": summary_to_plain(self.summary),
            "curves": self.curves.to_json(),
            "slots": {slot: [span.to_json() for span in spans] for slot, spans in self.slots.items()},
            "seeds": [seed.to_json() for seed in self.seeds],
            "blueprints": [row.to_json() for row in self.blueprints],
            "decisions": [_decision_to_json(event) for event in self.decisions],
            "coalitions": None if self.coalitions is None else self.coalitions.to_json(),
        }

    def plot(self, name: str | None = None) -> Figure:
        """Return one of the report's figures.

        Args:
            name: "timeline", "costs" or "contributions" of a host run, "rounds" of a training; None = the
                first one.

        Raises:
            ConfigError: If the run has no such figure (yet).
        """
        figures = {figure.name: figure for figure in self.document.figures}
        chosen = next(iter(figures), None) if name is None else name
        if chosen is None or chosen not in figures:
            raise ConfigError(
                f"{self.path} has no figure {chosen!r}; it has {', '.join(figures) or 'none yet'}"
            )
        return figures[chosen].draw()

    def write(
        self,
        folder: Path | None = None,
        *,
        formats: Sequence[ReportFormat] = REPORT_FORMATS,
        figures: Literal["svg", "png"] = "svg",
    ) -> tuple[Path, ...]:
        """Write the report and return its files, the page first.

        Args:
            folder: Where to; None = `report` inside the run's directory.
            formats: "md", "html", or both.
            figures: Format of the figures.

        Raises:
            RunDirectoryError: If the folder cannot be written.
        """
        target = self.path / REPORT_FOLDER if folder is None else folder
        return write_document(self.document, target, formats=formats, figures=figures, made_by=made_by())

    def _repr_html_(self) -> str:
        """Return what a notebook shows: facts and figures."""
        document = self.document
        return render_fragment(document, draw_images(document))


def open_comparison(paths: Sequence[Path]) -> tuple[dict[str, JsonValue], Document]:
    """Read several host runs and return them side by side, as JSON data and as a document.

    Args:
        paths: Directories, at least two, none twice.

    Raises:
        ConfigError: If one trained a policy, or is named twice.
        RunDirectoryError: If one holds no events.
        DataError: If an event file cannot be read.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("a run is named twice; name each run once")
    names = _name_apart(paths)
    rows = []
    for path, name in zip(paths, names, strict=True):
        log = read_run(path)
        if is_training(log.records):
            raise ConfigError(
                f"{path} trained a policy; only runs of hosts are compared, policies by `esper evaluate`"
            )
        rows.append(compute_run_row(name, log.records))
    comparisons = compare_tasks(rows)
    data: dict[str, JsonValue] = {"tasks": [comparison.to_json() for comparison in comparisons]}
    return data, build_comparison(comparisons)


def made_by() -> str:
    """Return the last line of a page."""
    return f"Made by esper-lite {version('esper-lite')}"


def _name_apart(paths: Sequence[Path]) -> list[str]:
    """Name runs by their folder, or by their whole path where two folders have the same name."""
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _decision_to_json(event: DecisionMade) -> dict[str, JsonValue]:
    return {
        "epoch": event.epoch,
        "op": event.op,
        "slot": event.slot,
        "blueprint": event.blueprint,
        "reason": event.reason,
        "confidence": event.confidence,
        "refusal": event.refusal,
        "value": event.value,
    }
