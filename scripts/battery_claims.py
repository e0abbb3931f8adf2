"""The fault battery as a list: what is done to a run, and what must hold then.

Data only. Tests name a claim by its id in the marker `battery`; `battery_table` sets what they recorded
beside the claims.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One fault and its promise.

    Example:
        Claim(id="T07", tier="P", text="200 single flipped bits in checkpoint files: ...")
    """

    id: str
    tier: str
    """P: run with `make battery`; N: the long form is run with `make soak`; G: needs GPUs."""
    text: str
    gap: str = ""
    """Why there may be no row; empty where nothing stands in the way."""


_ROWS = """\
T01 PN SIGKILL at random moments of saving: a loadable checkpoint is there, no acknowledged one is lost
T02 P  stopped at ten kinds of moments and resumed: every bit equals that of an undisturbed run
T03 P  the k-th file operation of a save fails, for every k: an old or the new checkpoint is whole
T04 P  the process dies at the k-th file operation, for every k: as T03 at the next start
T05 P  the disk is full: no partial checkpoint, the bytes needed are named, saving works again with space
T06 P  files of a checkpoint are cut short: refused by name, an older one is taken, else exit 3
T07 P  one bit flipped in any file of a checkpoint: found before a tensor is used
T08 P  a malicious pickle in four places: never run, exit 2 without a traceback
T09 P  hostile tensor files: refused before what they announce is read or allocated
T10 PN any bytes in the place of a checkpoint: refused as ours refuse, no hang, no other error
T11 P  other topology, unknown blueprint, newer format, other precision: the first difference is named
T12 P  resumed with another number of environments or ranks: refused, or what was asked for
T13 P  two processes on one run directory: the second is refused, a stale lock is taken over
T14 P  a checkpoint of every format there was: loads, or is refused with what to do
T15 PN saving in the background on a slow disk: one save in flight, at most two copies in memory
T16 P  a rank is killed inside an exchange: the others end with code 4 and name it and its step
T17 P  a rank is killed under the launcher: restarted, and equal to a training without the kill
T18 P  a rank hangs, is stopped, or holds the interpreter: it is named, not one that waits for it
T19 P  the topology of one rank was altered: found at the next check, code 5, the difference printed
T20 P  differences between ranks that leave all sizes equal: each is found
T21 P  a rank enters one exchange too many, too few, or another one: operation and ranks are named
T22 P  a rank decides otherwise than rank 0: rank 0's decision holds, the difference is counted
T23 P  a rank cannot carry out what was announced: nobody does, training goes on
T24 P  gradients of several ranks: those of one process on the same batch, exactly in ordered sums
T25 P  a stop that one rank alone would choose: all ranks stop at the same step
T26 P  ranks with unequal amounts of data: the same number of steps, no hang
T27 P  a failure that repeats after every restart: given up with code 93
T28 G  T16, T18, T19 and T24 with NCCL
T29 P  a number that is not finite in any place: the update is withheld, the place is named
T30 P  NaN inside a seed that has no influence: output and gradients of the host keep every bit
T31 P  repeated NaN, divergence, collapse: the last good state is back exactly
T32 P  NaN in the weights when a good state is to be kept: it is refused as good
T33 P  rollback across the birth or the end of a seed: topology exact, nothing left in the optimiser
T34 P  faults that never end: given up with code 6
T35 P  observations of any numbers: the encoding stays finite and within its bounds
T36 P  a learner that moves too far is stopped at the expected pass; a target that can never act is refused
T37 N  one bit flipped in one rank's gradient: found by comparing values, the rank named
T38 P  random walks through all operations: every invariant of growth holds
T39 PN thousands of seeds come and go: nothing is left behind in memory, hooks or optimiser
T40 PN hours with viewers that never read: memory and files stay bounded
T41 P  many data sets in one process: the cache on the device keeps its bound and is freed
T42 P  the clock on the wall jumps: no timeout fires, no duration is negative, order stays
T43 P  any configuration: refused in one line that names the key, nothing written, or taken
T44 P  damaged data files: exit 3 naming file and place
T45 P  a worker process dies, hangs or raises: named; all end, or its hosts are given up and the rest live on
T46 P  signals at random steps: one checkpoint, code 130 or 143; a second SIGINT ends at once
T47 P  the event log under kills, full disks, sinks that fail or block: what was acknowledged is there
T48 P  events with NaN, broken text and megabytes: valid JSON, bounded
T49 P  hostile requests and names at the dashboard: refused, shown as text
T50 P  blueprints that lie or come from where they should not: refused before training
"""
"""One claim a line: id, tiers, what is done and what then holds."""
_GAPS: Mapping[str, str] = MappingProxyType(
    {
        "T28": "needs two GPUs or more",
    }
)

CLAIMS: Mapping[str, Claim] = MappingProxyType(
    {
        id_: Claim(id=id_, tier=tier, text=text.strip(), gap=_GAPS.get(id_, ""))
        for id_, tier, text in (line.split(maxsplit=2) for line in _ROWS.splitlines())
    }
)
"""Id -> claim, in order."""
