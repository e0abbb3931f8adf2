"""The half of `esper train` that trains a policy: `esper train ppo`, alone or as one of several processes.

Shows what a training came to.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from esper.cli.output import Table, report_note, write_json, write_tables
from esper.leyline import ExitCode
from esper.runtime.config_file import ResolvedExperiment
from esper.runtime.policy_run import TrainingRequest, train_among_ranks, train_policy
from esper.runtime.rank_training import name_folder, train_as_rank
from esper.runtime.ranks import read_rank_environment
from esper.runtime.training_record import TrainingResult

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
    environment = read_rank_environment(os.environ)
    if environment is None:
        result = train_policy(
            resolved.config,
            run_dir=run_dir,
            provenance=resolved.provenance,
            resume=is_resumed,
            argv=("train", *args),
        )
    else:
        request = TrainingRequest(
            config=resolved.config,
            run_dir=name_folder(run_dir),
            provenance=resolved.provenance,
            is_resumed=is_resumed,
            argv=("train", *args),
        )
        shared = train_as_rank(request, environment, log=report_note, train=train_among_ranks)
        if shared is None:  # rank 0 shows what came of it
            return int(ExitCode.OK)
        result = shared
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
