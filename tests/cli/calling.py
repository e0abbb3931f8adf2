"""Calls the command line in process and keeps what it printed."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

from esper.cli.main import main


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one command line returned and printed."""

    code: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        return self.err.splitlines()


def call(args: Sequence[str]) -> Answer:
    """Run `esper ARGS` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(args)
    return Answer(code=code, out=out.getvalue(), err=err.getvalue())
