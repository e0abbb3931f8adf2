"""esper launch --nproc-per-node N [--max-restarts K] [--timeout-s S] -- train ppo ...: train in N processes.

Each process runs the command after `--`, which trains a policy on hosts of its own, or with --parallel host
one host on its part of every batch. If one of them dies, all are started again
from the newest checkpoint; after three attempts in a row without a newer one the exit code is 93. They are
not started again after an error that would come again (exit codes 2, 3, 5, 6) or after a signal (130, 143).
The first process keeps the terminal, the others write into RUN/ranks/rank-R.log.

Example: esper launch --nproc-per-node 2 -- train ppo --task digits --run-dir runs/two
Example: esper launch --nproc-per-node 2 -- train heuristic --task cifar10 --parallel host
Example: esper launch --nproc-per-node 2 -- train --resume runs/two
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from esper.cli.arguments import CommandParser, asks_for_help
from esper.cli.output import report_note, write_text
from esper.leyline import ConfigError, ExitCode, UnknownNameError

LAUNCHABLE = ("train",)
"""Commands that know of other processes."""
_SEPARATOR = "--"
_EXAMPLE = "esper launch --nproc-per-node 2 -- train ppo --task digits"


def run(args: Sequence[str]) -> int:
    """Run the command.

    Raises:
        EsperError: If an argument or value is wrong, those of the command to start included, or nothing can
            be started.
    """
    own, inner = _split(args)
    parser = _build_parser()
    if asks_for_help(own):
        write_text(parser.format_help())
        return int(ExitCode.OK)
    given = parser.parse_all(own)
    _refuse_other_commands(inner)
    return _launch(given, inner)


def _build_parser() -> CommandParser:
    parser = CommandParser("launch", __doc__)
    parser.add_argument(
        "--nproc-per-node",
        type=int,
        required=True,
        metavar="N",
        dest="num_ranks",
        help="processes on this machine, with a GPU each where there are GPUs",
    )
    parser.add_argument(
        "--max-restarts", type=int, metavar="K", help="most restarts after a failure; 0 = none; default: 3"
    )
    parser.add_argument(
        "--timeout-s",
        type=float,
        metavar="S",
        help="seconds that processes get after a signal to save and leave, before they are killed; "
        "default: 90",
    )
    return parser


def _split(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return what stands before and after the first `--`."""
    tokens = list(args)
    if _SEPARATOR not in tokens:
        return tokens, []
    place = tokens.index(_SEPARATOR)
    return tokens[:place], tokens[place + 1 :]


def _refuse_other_commands(inner: Sequence[str]) -> None:
    if not inner:
        raise ConfigError(f"esper launch: give the command to start after `--`, as in: {_EXAMPLE}")
    if inner[0] not in LAUNCHABLE:
        raise UnknownNameError("command to launch", inner[0], LAUNCHABLE)
    if asks_for_help(inner):
        raise ConfigError(f"esper launch: for its help run `esper {inner[0]} --help`")


def _launch(given: argparse.Namespace, inner: Sequence[str]) -> int:
    from esper.cli.train import resolve_command  # noqa: PLC0415 - help and refusals above need no torch
    from esper.runtime.experiment import TRAINABLE_NAMES  # noqa: PLC0415
    from esper.runtime.launch_rules import ALERT_FLAG  # noqa: PLC0415
    from esper.runtime.launching import LaunchPlan, launch  # noqa: PLC0415
    from esper.runtime.run_folder import RunOrigin, default_run_path  # noqa: PLC0415
    from esper.runtime.run_records import RUNS_ROOT  # noqa: PLC0415

    command = resolve_command(inner[1:])
    config = command.resolved.config
    if config.policy not in TRAINABLE_NAMES and config.parallel == "none":
        raise ConfigError(
            f"esper launch: several processes train a policy ({', '.join(TRAINABLE_NAMES)}), or one host "
            f"with --parallel host, not {config.policy!r} alone; as in: {_EXAMPLE}"
        )
    if command.given.is_printed or command.given.is_dry_run:
        raise ConfigError("esper launch: --print-config and --dry-run train nothing; run them without launch")
    if config.telemetry.on_alert:  # a restart is a resume, which runs no command from a run directory
        inner = [*inner, f"{ALERT_FLAG}={config.telemetry.on_alert}"]
    origin = RunOrigin(task=config.task.name, policy=config.policy, seed=config.seed)
    plan = LaunchPlan(
        args=tuple(inner),
        run_dir=command.run_dir or default_run_path(RUNS_ROOT, origin, datetime.now()),
        num_ranks=given.num_ranks,
        is_resumed=command.is_resumed,
    )
    if given.max_restarts is not None:
        plan = replace(plan, max_restarts=given.max_restarts)
    if given.timeout_s is not None:
        plan = replace(plan, stop_timeout_s=given.timeout_s)
    return int(launch(plan, say=report_note))
