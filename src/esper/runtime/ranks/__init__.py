"""Ranks: processes that learn one policy together; each grows hosts of its own.

This front door and the files behind it import no torch, so that a process finds out who it is, and whether it
should run at all, before it pays for torch. What exchanges tensors is imported from its file: start with
`esper.runtime.ranks.rank_group`.
"""

from esper.runtime.ranks.config import DistributedConfig
from esper.runtime.ranks.culprit import RankFinding, find_culprit
from esper.runtime.ranks.heartbeat import Heartbeat, Pulse
from esper.runtime.ranks.leaving import leave
from esper.runtime.ranks.rank_env import RankEnvironment, find_restart_trap, read_rank_environment
from esper.runtime.ranks.verdicts import (
    RankVerdict,
    clear_verdicts,
    find_final,
    read_verdicts,
    write_verdict,
)

__all__ = [
    "DistributedConfig",
    "Heartbeat",
    "Pulse",
    "RankEnvironment",
    "RankFinding",
    "RankVerdict",
    "clear_verdicts",
    "find_culprit",
    "find_final",
    "find_restart_trap",
    "leave",
    "read_rank_environment",
    "read_verdicts",
    "write_verdict",
]
