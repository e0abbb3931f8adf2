"""esper config show [--preset P] [--task T] [--config F] [--<field> VALUE ...]: the effective configuration.

Prints TOML, each value with its origin: default, preset, file or flag. The output is itself a configuration
file.

Example: esper config show --task fashion_mnist --host.optimizer.learning-rate 0.2
"""

from __future__ import annotations

from collections.abc import Sequence

from esper.cli.arguments import asks_for_help, split_verb
from esper.cli.config_flags import build_config_parser, parse_request, resolve_request, write_flag_help
from esper.cli.output import write_text
from esper.leyline import ExitCode
from esper.runtime.config_file import render_config


def run(args: Sequence[str]) -> int:
    """Run the command.

    Raises:
        EsperError: If an argument or a value is wrong.
    """
    parser = build_config_parser("config show", __doc__)
    if asks_for_help(args):
        write_text(parser.format_help())
        write_flag_help(parser.prog, parse_request(parser, ())[1])
        return int(ExitCode.OK)
    _, rest = split_verb("config", args, ("show",))
    _, request = parse_request(parser, rest)
    resolved = resolve_request(request)
    write_text(render_config(resolved.config, resolved.provenance))
    return int(ExitCode.OK)
