"""What ranks tell rank 0, as bytes: saved states, and what happened to their hosts. Never a pickle.

```
state of a rank  -> pack_record -> gather_bytes -> unpack_record -> join_rows -> the checkpoint of one process
report of a rank -> pack_report -> gather_bytes -> join_reports  -> the report of one process
```
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import safetensors.torch

from esper.leyline import JsonValue
from esper.simic import FinishedEpisode, QuarantinedRow, RoundReport
from esper.tolaria import StateRecord

_LENGTH_BYTES = 8


def pack_record(record: StateRecord) -> bytes:
    """Return a record as bytes: the length of its plain data, the plain data, its tensors."""
    plain = json.dumps(record.state).encode()
    tensors = safetensors.torch.save({name: x.contiguous() for name, x in record.tensors.items()})
    return len(plain).to_bytes(_LENGTH_BYTES, "big") + plain + tensors


def unpack_record(data: bytes) -> StateRecord:
    """Return the record of `pack_record`; its tensors are on the CPU."""
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
    return StateRecord(tensors=safetensors.torch.load(data[end:]), state=json.loads(data[_LENGTH_BYTES:end]))


def pack_report(report: RoundReport, first_env: int) -> bytes:
    """Return what a round brought on one rank, without what all ranks know already.

    Args:
        report: Of the rank.
        first_env: Number of its first environment.
    """
    episodes = [[*episode[:3], dict(episode.facts)] for episode in report.episodes]
    quarantined = [[row.name, first_env + row.row, row.step, row.reason] for row in report.quarantined]
    rows = {"episodes": episodes, "quarantined": quarantined, "told": list(report.told)}
    return json.dumps(rows).encode()


def join_reports(report: RoundReport, packed: Sequence[bytes]) -> RoundReport:
    """Return the report of a round with the episodes of all ranks, in the order of their environments.

    Args:
        report: Of this rank.
        packed: Of all ranks, in their order.
    """
    told = [json.loads(data) for data in packed]
    episodes = [
        FinishedEpisode(name, float(total), num_steps, facts)
        for part in told
        for name, total, num_steps, facts in part["episodes"]
    ]
    quarantined = [QuarantinedRow(*row) for part in told for row in part["quarantined"]]
    return replace(
        report,
        episodes=tuple(sorted(episodes, key=_environment)),
        quarantined=tuple(sorted(quarantined, key=lambda row: row.row)),
        told=tuple(step for part in told for step in part["told"]),
    )


def _environment(episode: FinishedEpisode) -> int:
    number: JsonValue = episode.facts.get("env_id", 0)
    return int(str(number))
