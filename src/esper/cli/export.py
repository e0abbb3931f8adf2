"""esper export RUN -o FILE.pt2|FILE.onnx|DIR [--allow-unfinished] [--json]: a run's network as a plain model.

The model needs no esper. FILE.pt2 loads with torch alone, FILE.onnx with any ONNX runtime; DIR holds
weights.safetensors, architecture.json and model.py, plain torch code with a `load()`. What was written is
loaded again and compared with the grown network; if it differs, it is deleted. Refused while a seed is in
flight, unless --allow-unfinished leaves such seeds out. Seeds of your own are rebuilt with --trust-code.

Example: esper export runs/digits-heuristic-0-20260101-120000 -o digits.pt2
Example: esper export runs/digits-heuristic-0-20260101-120000 -o digits
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from esper.cli.arguments import CommandParser
from esper.cli.output import write_json, write_text
from esper.leyline import ExitCode
from esper.runtime.export_run import export_run
from esper.runtime.resuming import TRUST_FLAG


def run(args: Sequence[str]) -> int:
    """Run the command.

    Raises:
        EsperError: If an argument is wrong, or the run cannot be exported.
    """
    parser = CommandParser("export", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="directory of the run")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE.pt2|FILE.onnx|DIR",
        help="file or folder to write",
    )
    parser.add_argument(
        "--allow-unfinished",
        action="store_true",
        dest="is_unfinished_allowed",
        help="leave out seeds that are neither kept nor removed yet",
    )
    parser.add_argument(
        TRUST_FLAG,
        action="store_true",
        dest="is_code_trusted",
        help="import the code of seeds of your own that the configuration of the run names",
    )
    parser.add_argument("--json", action="store_true", dest="is_json", help="print the summary as JSON")
    given = parser.parse_all(args)
    summary = export_run(
        given.run,
        given.output,
        allow_unfinished=given.is_unfinished_allowed,
        is_code_trusted=given.is_code_trusted,
    )
    if given.is_json:
        write_json(summary.to_json())
    else:
        write_text(summary.text)
    return int(ExitCode.OK)
