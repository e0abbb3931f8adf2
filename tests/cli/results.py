"""A finished run as the runtime returns it, for tests of what commands print."""

from __future__ import annotations

from pathlib import Path

from esper.leyline import JsonValue
from esper.runtime.run import ExperimentResult


def make_result(policy: str = "heuristic", run_dir: Path | None = Path("runs/x")) -> ExperimentResult:
    """Return a run with one seed kept, one slot empty, and one seed that was never measured."""
    seed: dict[str, JsonValue] = {"stage": "FOSSILIZED", "params": 1183, "flops_per_item": 5472}
    empty: dict[str, JsonValue] = {
        "blueprint": None,
        "contribution": None,
        "contribution_error": None,
        "params": 0,
    }
    return ExperimentResult(
        run_dir=run_dir,
        task="digits",
        policy=policy,
        seed=3,
        epochs=12,
        metric_name="accuracy",
        contribution_metric="loss",
        validation_metric=0.9333,
        test_metric=0.9306,
        test_loss=0.2037,
        host_params=1009,
        total_params=2192,
        flops={"host_train": 1_500_000_000, "validation": 80_000_000},
        total_flops=1_500_000_000,
        slots=(
            {
                "slot": "block1",
                "blueprint": "conv",
                "contribution": 0.0134,
                "contribution_error": 0.0049,
                **seed,
            },
            {"slot": "block2", "stage": "CULLED", "flops_per_item": 0, **empty},
            {
                "slot": "block3",
                "blueprint": "norm",
                "contribution": None,
                "contribution_error": None,
                **seed,
            },
        ),
    )
