"""esper COMMAND [ARGUMENTS]: finds the command's module, runs it, and turns errors into exit codes.

Imports no torch and no configuration: help, version and lists of runs are instant.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from esper.cli.output import report_error, write_text
from esper.leyline import EsperError, ExitCode, InterruptedRunError, UnknownNameError

COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "demo": ("esper.cli.demo", "grow a small network on digits, start to end"),
        "train": ("esper.cli.train", "train a host that grows, or (ppo) a policy; resume an interrupted run"),
        "launch": ("esper.cli.launch", "train a policy in several processes; restart after a failure"),
        "evaluate": ("esper.cli.evaluate", "compare policies on fresh hosts, on the test split"),
        "runs": ("esper.cli.runs", "list runs, show one"),
        "dash": ("esper.cli.dash", "show runs as a page in a browser, while they go on"),
        "replay": ("esper.cli.replay", "repeat a run from its action log and compare every number"),
        "export": ("esper.cli.export", "write a run's network as a plain model without esper"),
        "data": ("esper.cli.data", "list the data sets, check their files"),
        "config": ("esper.cli.config", "show the effective configuration and where each value comes from"),
        "doctor": ("esper.cli.doctor", "check versions, devices, data sets and disk"),
    }
)
"""Command -> module with `run(args) -> exit code`, and one line of help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: Arguments after the program's name; None = those of the process.

    Returns:
        The exit code; see `esper.leyline.ExitCode`.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(args)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argument parsers leave this way
        return stop.code if isinstance(stop.code, int) else int(ExitCode.USAGE if stop.code else ExitCode.OK)
    except InterruptedRunError as error:
        report_error(str(error))
        return int(error.signal_exit_code)
    except EsperError as error:
        report_error(str(error))
        return int(error.exit_code)
    except KeyboardInterrupt:
        report_error("interrupted")
        return int(ExitCode.SIGINT)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.OK)


def _dispatch(args: list[str]) -> int:
    if not args:
        sys.stderr.write(render_help())
        return int(ExitCode.USAGE)
    verb, rest = args[0], args[1:]
    if verb in ("-h", "--help", "help"):
        write_text(render_help())
        return int(ExitCode.OK)
    if verb == "--version":
        write_text(f"esper-lite {importlib.metadata.version('esper-lite')}")
        return int(ExitCode.OK)
    if verb not in COMMANDS:
        raise UnknownNameError("command", verb, (*COMMANDS, "--help", "--version"))
    return int(importlib.import_module(COMMANDS[verb][0]).run(rest))


def render_help() -> str:
    """Return the help of `esper` itself."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        (
            "usage: esper COMMAND [ARGUMENTS]",
            "",
            "Train neural networks that grow while they train.",
            "",
            *lines,
            "",
            "Example: esper train heuristic --task digits --epochs 20",
            "`esper COMMAND --help` shows a command's arguments, `esper --version` the version.",
            "Data goes to stdout, everything else to stderr.",
            "",
        )
    )
