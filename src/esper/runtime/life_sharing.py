"""Never-grown lives of hosts, trained once by all ranks together instead of once by each.

```
hosts of this rank's next episodes -> gather -> deal the union -> train one's share -> gather -> keep
```
A life depends on its host alone, so it is the same whoever trains it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from torch import Tensor

from esper.leyline import Collective, ForeignCheckpointError, JsonValue
from esper.runtime.rank_records import pack_record, unpack_record
from esper.simic import NeverRun, NeverRuns
from esper.tolaria import StateRecord


def share_lives(never_runs: NeverRuns, instances: Sequence[int], collective: Collective) -> None:
    """Train and keep the never-grown lives that any rank lacks; every rank must call it.

    Args:
        never_runs: Of this rank; afterwards it holds all of them, as far as it has room.
        instances: Hosts that this rank is about to meet.
        collective: Of all ranks.

    Raises:
        GovernorGaveUpError: If a host does not survive even alone.
    """
    lacking = json.dumps(sorted(set(never_runs.find_missing(instances)))).encode()
    wanted = sorted({number for data in collective.gather_bytes(lacking) for number in json.loads(data)})
    if not wanted:
        return
    blocks = sorted({never_runs.find_block(number) for number in wanted})
    mine = {
        number: never_runs.get(number)
        for block in blocks[collective.rank :: collective.world_size]
        for number in block
    }
    for data in collective.gather_bytes(pack_lives(mine)):
        for number, life in unpack_lives(data).items():
            never_runs.keep(number, life)


def pack_lives(lives: Mapping[int, NeverRun]) -> bytes:
    """Return lives as bytes."""
    tensors, state = dict[str, Tensor](), dict[str, JsonValue]()
    for number, life in lives.items():
        for epoch, record in life.states.items():
            tensors |= {f"{number}/{epoch}/{name}": x for name, x in record.tensors.items()}
        states: dict[str, JsonValue] = {str(epoch): record.state for epoch, record in life.states.items()}
        state[str(number)] = {"metrics": list(life.metrics), "states": states}
    return pack_record(StateRecord(tensors=tensors, state=state))


def unpack_lives(data: bytes) -> dict[int, NeverRun]:
    """Return the lives of `pack_lives`.

    Raises:
        ForeignCheckpointError: If something else was packed.
    """
    record = unpack_record(data)
    lives = {}
    for number, entry in record.state.items():
        match entry:
            case {"metrics": list(metrics), "states": dict(states)}:
                lives[int(number)] = NeverRun(
                    metrics=tuple(float(str(metric)) for metric in metrics),
                    states={
                        int(epoch): _pick_state(record, f"{number}/{epoch}/", state)
                        for epoch, state in states.items()
                    },
                )
            case _:
                raise ForeignCheckpointError(f"never-grown life {number}: malformed")
    return lives


def _pick_state(record: StateRecord, prefix: str, state: JsonValue) -> StateRecord:
    assert isinstance(state, dict)
    tensors = {k.removeprefix(prefix): x for k, x in record.tensors.items() if k.startswith(prefix)}
    return StateRecord(tensors=tensors, state=state)
