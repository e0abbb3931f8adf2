"""esper train [heuristic|greedy|random|schedule|never|ppo] [--task T] [--epochs N] ...: grow hosts.

The policy decides what grows where; everything is written into a run directory. It may also be auto,
pretrained, the folder of a trained policy, schedule:FILE or your own package.module:Class. With `ppo` a
policy is trained instead, on many hosts, in --rounds R of --envs E hosts each. --resume goes on where a run
stopped, with the configuration in its directory. A stop signal or --max-hours H saves and leaves, SIGUSR1
saves and goes on.

Example: esper train heuristic --task digits --epochs 20 --seed 0
Example: esper train ppo --task digits --envs 8 --rounds 20
Example: esper train --resume runs/digits-heuristic-0-20260101-120000
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, final

from esper.cli.arguments import CommandParser, asks_for_help
from esper.cli.config_flags import (
    ConfigRequest,
    apply_flags,
    build_config_parser,
    parse_request,
    read_user_table,
    resolve_request,
    value_of_flag,
    write_flag_help,
)
from esper.cli.output import report_note, write_json, write_tables, write_text
from esper.cli.result_view import render_numbers, render_slots
from esper.cli.train_policy import run_training
from esper.leyline import ConfigError, ExitCode, RunDirectoryError
from esper.nissa import check_command, check_trackers
from esper.runtime.config_file import ResolvedExperiment, merge_table, render_config
from esper.runtime.experiment import TRAINABLE_NAMES, ExperimentConfig
from esper.runtime.host_parallel.host_training import HostTraining
from esper.runtime.policy_run import TrainingRequest
from esper.runtime.rank_training import name_folder, train_as_rank
from esper.runtime.ranks import read_rank_environment
from esper.runtime.resuming import TRUST_FLAG, refuse_unconfirmed_code
from esper.runtime.run import ExperimentResult, run_experiment
from esper.runtime.run_records import (
    CONFIG_NAME,
    RESUMABLE_STATES,
    RUNS_ROOT,
    list_runs,
    read_meta,
    read_run_info,
)

_NEWEST = ""


@final
class TrainCommand(NamedTuple):
    """A command line of `esper train`, understood and found to be sound."""

    given: argparse.Namespace
    """The command's own arguments."""
    resolved: ResolvedExperiment
    run_dir: Path | None
    """As given; None = a new one below `runs/`. For a resume: the run."""
    is_resumed: bool


def run(args: Sequence[str]) -> int:
    """Run the command.

    Raises:
        EsperError: If an argument or value is wrong, or the run fails.
    """
    if asks_for_help(args):
        _write_help(args)
        return int(ExitCode.OK)
    command = resolve_command(args)
    given, resolved, run_dir, is_resumed = command
    if given.is_printed:
        write_text(render_config(resolved.config, resolved.provenance))
        return int(ExitCode.OK)
    if resolved.config.policy in TRAINABLE_NAMES:
        if given.is_dry_run:
            raise ConfigError("--dry-run tries the paths of one host; for a policy use --rounds 1 --epochs 8")
        return run_training(resolved, args, run_dir=run_dir, is_resumed=is_resumed, is_json=given.is_json)
    if is_resumed and run_dir is not None and read_run_info(run_dir).state == "finished":
        report_note(f"{run_dir} has finished already; nothing is left to train")
    result = _train_host(command, args)
    if result is None:  # rank 0 shows what came of it
        return int(ExitCode.OK)
    if given.is_json:
        write_json(result.to_json())
    else:
        write_tables((render_slots(result), render_numbers(result)))
    _say_what_next(result, is_dry_run=given.is_dry_run)
    return int(ExitCode.OK)


def _train_host(command: TrainCommand, args: Sequence[str]) -> ExperimentResult | None:
    """Grow one host, alone or as one of several processes; None on all of these but the first."""
    given, resolved, run_dir, is_resumed = command
    config, argv = resolved.config, ("train", *args)
    environment = read_rank_environment(os.environ)
    if environment is not None and environment.world_size > 1 and config.parallel != "host":
        raise ConfigError(
            f"esper train: {environment.world_size} processes were started, and each would train a host of "
            "its own; add --parallel host to train one together, or start without a launcher"
        )
    if environment is None or config.parallel != "host":
        return run_experiment(
            config,
            run_dir=run_dir,
            provenance=resolved.provenance,
            resume=is_resumed,
            is_dry_run=given.is_dry_run,
            argv=argv,
        )
    if given.is_dry_run:
        raise ConfigError("--dry-run tries the paths of one process; start it without a launcher")
    request = TrainingRequest(
        config=config,
        run_dir=name_folder(run_dir),
        provenance=resolved.provenance,
        is_resumed=is_resumed,
        argv=argv,
    )
    return train_as_rank(request, environment, log=report_note, train=HostTraining(config))


def resolve_command(args: Sequence[str]) -> TrainCommand:
    """Return what a command line asks for; nothing is written and no data is opened.

    Args:
        args: After `esper train`.

    Raises:
        EsperError: If an argument or value is wrong, or the run to go on with cannot be read.
    """
    policy, rest = _split_policy(args)
    given, request = parse_request(_build_parser(), rest)
    request = _add_policy(request, policy)
    is_resumed = given.resume is not None
    run_dir = _find_resumed(given) if is_resumed else given.run_dir
    if is_resumed:
        resolved = _resolve_resumed(run_dir, request)
        refuse_unconfirmed_code(run_dir, resolved, is_trusted=given.is_code_trusted)
    else:
        resolved = resolve_request(request)
    check_command(resolved.config.telemetry.on_alert)
    check_trackers(resolved.config.telemetry.trackers)
    return TrainCommand(given, resolved, run_dir, is_resumed)


def _write_help(args: Sequence[str]) -> None:
    parser = _build_parser()
    write_text(parser.format_help())
    known = [token for token in _split_policy(args)[1] if token not in ("-h", "--help")]
    write_flag_help(parser.prog, parse_request(parser, known)[1])


def _say_what_next(result: ExperimentResult, *, is_dry_run: bool) -> None:
    if is_dry_run:
        report_note(
            f"dry run: in {result.epochs} epochs one seed was forced to be kept and one to be culled; every "
            "step works; nothing was written, and the numbers mean nothing"
        )
    else:
        report_note(f"next: esper runs show {result.run_dir}, or esper export {result.run_dir} -o model")


def _build_parser() -> CommandParser:
    parser = build_config_parser("train", __doc__)
    parser.add_argument("--run-dir", type=Path, metavar="D", help="a new directory; default: one below runs/")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=_NEWEST,
        metavar="PATH",
        help="go on with this run; without PATH: the newest below runs/ that was stopped",
    )
    parser.add_argument(
        TRUST_FLAG,
        action="store_true",
        dest="is_code_trusted",
        help="import the classes of your own that the configuration of the resumed run names; without it "
        "they must be named on the command line again",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        dest="is_dry_run",
        help="train a few epochs (8, or --epochs) in which one seed is forced to be kept and one to be "
        "culled, to see that every step works; write nothing",
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        dest="is_printed",
        help="print the effective configuration only",
    )
    parser.add_argument("--json", action="store_true", dest="is_json", help="print the summary as JSON")
    return parser


def _split_policy(args: Sequence[str]) -> tuple[str | None, list[str]]:
    """Take the policy off the front; without one the configuration decides."""
    if args and not args[0].startswith("-"):
        return args[0], list(args[1:])
    return None, list(args)


def _add_policy(request: ConfigRequest, policy: str | None) -> ConfigRequest:
    if policy is None:
        return request
    other = value_of_flag(request.flags, "--policy")
    if other not in (None, policy):
        raise ConfigError(f"esper train {policy}: --policy {other} says otherwise; give one of the two")
    return replace(request, flags=("--policy", policy, *request.flags))


def _find_resumed(given: argparse.Namespace) -> Path:
    if given.preset is not None or given.config is not None:
        raise ConfigError("--resume takes the configuration of the run; leave out --preset and --config")
    if given.resume != _NEWEST:
        return Path(given.resume)
    if given.run_dir is not None:
        return Path(given.run_dir)
    stopped = [info for info in list_runs(RUNS_ROOT) if info.state in RESUMABLE_STATES]
    if not stopped:
        raise RunDirectoryError(f"no run in {RUNS_ROOT} was stopped; name one: --resume PATH")
    return stopped[-1].path


def _resolve_resumed(run_dir: Path, request: ConfigRequest) -> ResolvedExperiment:
    read_meta(run_dir)
    path = run_dir / CONFIG_NAME
    return apply_flags(merge_table(read_user_table(path, request), ExperimentConfig(), str(path)), request)
