"""esper replay RUN [--epochs N] [--json]: repeat a growth run from its action log, compare every number.

The host is built anew from the run's configuration and seed and carries out the decisions on record; no
policy is asked. Losses, metrics, what grew, and the result are compared exactly. Nothing is written. Exit
code 0 if all is identical, 1 if something differs: the first epoch and quantity are named, with both values.
Seeds of your own are rebuilt with --trust-code.
Other versions, processors or numbers of threads round otherwise, and their numbers drift apart.

Example: esper replay runs/digits-heuristic-0-20260101-120000
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from esper.cli.arguments import CommandParser
from esper.cli.output import report_note, write_json, write_text
from esper.leyline import ExitCode
from esper.runtime.replay import replay_run
from esper.runtime.resuming import TRUST_FLAG

DIFFERS = 1
"""Exit code of a run that came out otherwise, as that of `cmp` and `diff`."""


def run(args: Sequence[str]) -> int:
    """Run the command.

    Raises:
        EsperError: If an argument is wrong, or the run cannot be replayed.
    """
    parser = CommandParser("replay", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="directory of the run")
    parser.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        dest="num_epochs",
        help="repeat the first N epochs only; default: all on record",
    )
    parser.add_argument(
        TRUST_FLAG,
        action="store_true",
        dest="is_code_trusted",
        help="import the code of seeds of your own that the configuration of the run names",
    )
    parser.add_argument("--json", action="store_true", dest="is_json", help="print the report as JSON")
    given = parser.parse_all(args)
    report = replay_run(
        given.run, num_epochs=given.num_epochs, on_epoch=_tell, is_code_trusted=given.is_code_trusted
    )
    if given.is_json:
        write_json(report.to_json())
    else:
        write_text(report.text)
    for name, (there, here) in report.other_versions.items():
        report_note(f"the run was made with {name} {there}; here it is {here}")
    return int(ExitCode.OK if report.is_identical else DIFFERS)


def _tell(epoch: int, num_recorded: int) -> None:
    report_note(f"epoch {epoch} of {num_recorded}: as on record")
