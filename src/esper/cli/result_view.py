"""What a run came to, as tables: its slots, its networks, its numbers. Pure: reads no file."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from esper.cli.output import Table
from esper.leyline import JsonValue
from esper.nissa import format_count, format_estimate, format_flops, format_metric
from esper.runtime.run import ExperimentResult

STAGE_COLOURS: Mapping[str, str] = MappingProxyType({"FOSSILIZED": "green", "CULLED": "magenta"})
_NONE = "-"


def render_slots(result: ExperimentResult) -> Table:
    """Return what lives in every slot at the end, and what it brings."""
    name = result.contribution_metric
    what = "without the seed minus with it" if name == "loss" else "with the seed minus without it"
    columns = ("slot", "blueprint", "stage", "contribution", "parameters", "FLOPs per item")
    return Table(
        title=f"Slots (contribution: validation {name} {what}, +- standard error)",
        columns=columns,
        rows=tuple(map(_slot_row, result.slots)),
        numbers=frozenset(columns[3:]),
        colours=STAGE_COLOURS,
    )


def render_networks(results: Mapping[str, ExperimentResult]) -> Table:
    """Return networks side by side.

    Args:
        results: Label -> a run of the same task, at least one.
    """
    name = next(iter(results.values())).metric_name
    columns = ("network", f"test {name}", "parameters", "training FLOPs")
    return Table(
        title="Networks",
        columns=columns,
        rows=tuple(
            (
                label,
                format_metric(result.metric_name, result.test_metric),
                format_count(result.total_params),
                format_flops(result.total_flops),
            )
            for label, result in results.items()
        ),
        numbers=frozenset(columns[1:]),
    )


def render_numbers(result: ExperimentResult) -> Table:
    """Return a run's numbers, one per line."""
    name = result.metric_name
    rows = (
        (f"test {name}", format_metric(name, result.test_metric)),
        ("test loss", format_metric("loss", result.test_loss)),
        (f"validation {name}", format_metric(name, result.validation_metric)),
        ("parameters", f"{format_count(result.total_params)} (host {format_count(result.host_params)})"),
        ("training compute", f"{format_flops(result.total_flops)}, measuring included"),
        ("epochs", format_count(result.epochs)),
        ("run directory", _NONE if result.run_dir is None else str(result.run_dir)),
    )
    return Table(
        title=f"Run: {result.task}, {result.policy}, seed {result.seed}", columns=("what", "value"), rows=rows
    )


def _slot_row(slot: Mapping[str, JsonValue]) -> tuple[str, ...]:
    head = (str(slot["slot"]), str(slot["blueprint"] or _NONE), str(slot["stage"]))
    if slot["blueprint"] is None:
        return (*head, _NONE, _NONE, _NONE)
    mean, error = slot["contribution"], slot["contribution_error"]
    return (
        *head,
        format_estimate(
            mean if isinstance(mean, float) else None, error if isinstance(error, float) else None
        ),
        format_count(int(str(slot["params"]))),
        format_flops(int(str(slot["flops_per_item"]))),
    )
