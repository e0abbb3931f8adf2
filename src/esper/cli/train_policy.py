"""The half of `esper train` that trains a policy: `esper train ppo`. Shows what a training came to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from esper.cli.output import Table, report_note, write_json, write_tables
from esper.leyline import ExitCode
from esper.runtime.config_file import ResolvedExperiment
from esper.runtime.policy_run import TrainingResult, train_policy

_SHOWN = (
    ("return per episode", "rollout/ep_rew_mean"),
    ("gain over the host that never grows", "rollout/gain_mean"),
    ("fossils per host", "rollout/fossils_mean"),
    ("hosts with a fossil (share)", "rollout/fossilize_rate"),
    ("FLOPs over never growing", "rollout/flops_ratio_mean"),
    ("WAIT (share of decisions with a choice)", "rollout/op_share/WAIT"),
    ("entropy of the operation (share of its ceiling)", "train/entropy/op"),
    ("explained variance", "train/explained_variance"),
    ("explained variance of a clock", "rollout/time_explained_variance"),
    ("KL divergence of an update", "train/approx_kl"),
)
"""Row of the table, metric behind it."""


def run_training(
    resolved: ResolvedExperiment,
    args: Sequence[str],
    *,
    run_dir: Path | None,
    is_resumed: bool,
    is_json: bool,
) -> int:
    """Train a policy and show what came of it.

    Args:
        resolved: The configuration and where its values come from.
        args: The command line after `train`, for the record.
        run_dir: Where to write; for a resume the run.
        is_resumed: Go on where the run stopped.
        is_json: Print JSON instead of a table.

    Raises:
        EsperError: If the configuration is refused, or training fails.
    """
    result = train_policy(
        resolved.config,
        run_dir=run_dir,
        provenance=resolved.provenance,
        resume=is_resumed,
        argv=("train", *args),
    )
    if is_json:
        write_json(result.to_json())
    else:
        write_tables((render_training(result),))
    report_note(
        f"next: esper evaluate --policy {result.policy_dir} --task {result.task}; the table shows means over "
        "the last five rounds, on hosts that were trained on"
    )
    return int(ExitCode.OK)


def render_training(result: TrainingResult) -> Table:
    """Return the table of a finished training: means over its last rounds."""
    rows = [
        ("rounds", str(result.num_rounds)),
        ("environment steps", str(result.num_env_steps)),
        ("parameters of the policy", str(result.num_parameters)),
    ]
    rows += [(word, f"{result.metrics[name]:.4f}") for word, name in _SHOWN if name in result.metrics]
    return Table(
        title=f"policy trained on {result.task}, seed {result.seed}",
        columns=("what", "value"),
        rows=tuple(rows),
    )
