"""`coalitions.json` of a run: its newest network is rebuilt, and every subset of its fossils is measured.

Runs on the CPU, wherever the network was trained, and on the run's own validation items.
"""

from __future__ import annotations

from pathlib import Path

from esper.leyline import ConfigError, PolicyTrainingStarted
from esper.nissa import CoalitionRow, CoalitionTable, ShapleyRow, read_first_event, write_coalitions
from esper.runtime.saved_host import SavedHost, load_saved_host
from esper.tolaria import CoalitionReport, measure_coalitions

NUM_ORDERS = 64
"""Random orders by default, where there are too many fossils to measure every subset."""


def measure_run(
    run: Path,
    *,
    num_items: int | None = None,
    num_orders: int = NUM_ORDERS,
    seed: int = 0,
    is_code_trusted: bool = False,
) -> CoalitionTable:
    """Measure the fossils of a run's newest network and write `coalitions.json` into its directory.

    Args:
        run: The run's directory; it may still go on.
        num_items: Validation items, the first ones, >= 2; None = those that contributions are measured on.
        num_orders: Random orders, >= 2, where there are too many fossils to measure every subset.
        seed: From which these orders follow.
        is_code_trusted: Whether code of seeds that the run's configuration names may be imported.

    Raises:
        RunDirectoryError: If `run` is not a run, or cannot be written.
        CheckpointError: If no valid checkpoint is there.
        ConfigError: If the run trained a policy, a number is too small, or code is not trusted.
    """
    if isinstance(read_first_event(run), PolicyTrainingStarted):
        raise ConfigError(f"{run} trained a policy; coalitions are of the fossils of one host")
    saved = load_saved_host(run, is_code_trusted=is_code_trusted)
    report = measure_coalitions(
        saved.assembly.host_run.bench, num_items=num_items, num_orders=num_orders, seed=seed
    )
    table = _tell(saved, report)
    write_coalitions(run, table)
    return table


def _tell(saved: SavedHost, report: CoalitionReport) -> CoalitionTable:
    task = saved.assembly.task
    return CoalitionTable(
        metric_name="loss" if task.gates_use_loss else task.metric.name,
        checkpoint=saved.checkpoint,
        epoch=saved.assembly.host_run.epoch,
        num_orders=report.num_orders,
        seed=report.seed,
        num_items=report.num_items,
        num_calibration_items=report.num_calibration_items,
        flops={"calibration": report.bill.calibration, "counterfactual": report.bill.counterfactual},
        shares=tuple(
            ShapleyRow(
                slot=share.slot,
                seed_id=share.seed_id,
                blueprint=share.blueprint,
                shapley=share.shapley.mean,
                standard_error=share.shapley.standard_error,
                sampling_error=share.sampling_error,
                alone=share.alone,
                last=share.last,
            )
            for share in report.shares
        ),
        values=tuple(
            CoalitionRow(slots=value.slots, metric=value.metric, standard_error=value.standard_error)
            for value in report.values
        ),
    )
