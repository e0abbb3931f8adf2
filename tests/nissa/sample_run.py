"""A small made-up run as events and records: one seed is kept, one is culled, one comes too late."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from esper.leyline import (
    DecisionMade,
    EpochCompleted,
    Event,
    RunFinished,
    RunStarted,
    SeedCulled,
    SeedFossilized,
    SeedGerminated,
    SlotMeasured,
    StageChanged,
)
from esper.nissa import Record, RunDirectoryBackend

SLOTS = ("block1", "block2", "block3")
EPOCHS = 40
HOST_PARAMS = 6_418


def moved(epoch: int, slot: str, old: str, new: str, seed_id: str | None, reason: str = "automatic") -> Event:
    """One stage change."""
    return StageChanged(epoch=epoch, slot=slot, seed_id=seed_id, old=old, new=new, reason=reason)


def decided(epoch: int, op: str, slot: str | None = None, refusal: str | None = None) -> Event:
    """One decision."""
    return DecisionMade(
        epoch=epoch,
        op=op,
        slot=slot,
        blueprint=None,
        reason="plateau of 3 epochs",
        confidence=0.8,
        refusal=refusal,
    )


def finished_epoch(epoch: int, *, seconds: float = 1.5, train_metric: bool = True) -> EpochCompleted:
    """One epoch on a saturating curve that bends upwards where seeds blend in."""
    grown = 0.05 / (1 + math.exp(-(epoch - 13))) + 0.01 * math.sin(epoch * 1.7)
    accuracy = 0.90 - 0.6 * math.exp(-epoch / 4) + grown
    loss = 0.30 + 1.9 * math.exp(-epoch / 4) - 1.5 * grown
    raw = {"accuracy": accuracy} | ({"train_accuracy": accuracy + 0.02} if train_metric else {})
    return EpochCompleted(
        epoch=epoch,
        train_loss=loss - 0.05,
        validation_loss=loss,
        metric=accuracy,
        raw_metrics=raw,
        learning_rate=0.01,
        host_gradient_norm=0.5,
        total_params=HOST_PARAMS + (1_204 if epoch > 8 else 0),
        flops={
            "train": 120_000_000 * epoch,
            "validation": 14_000_000 * epoch,
            "counterfactual": 9_000_000 * epoch,
        },
        seconds=seconds,
    )


def measured(epoch: int, slot: str, seed_id: str, stage: str, contribution: float) -> Event:
    """One measurement of a seed."""
    return SlotMeasured(
        epoch=epoch,
        slot=slot,
        seed_id=seed_id,
        stage=stage,
        alpha=1.0,
        contribution=contribution,
        contribution_error=0.0041,
        shadow_gain=None,
        credit=None,
        gradient_ratio=0.9,
    )


def _germinated(epoch: int, slot: str, blueprint: str, num_params: int) -> list[Event]:
    seed_id = f"{slot}#1"
    return [
        decided(epoch, "GERMINATE", slot),
        moved(epoch, slot, "DORMANT", "GERMINATED", seed_id, "germinated"),
        SeedGerminated(
            epoch=epoch,
            slot=slot,
            seed_id=seed_id,
            blueprint=blueprint,
            blend="add",
            num_params=num_params,
            flops_per_item=77_000,
        ),
        moved(epoch, slot, "GERMINATED", "TRAINING", seed_id),
    ]


def _kept(epoch: int) -> list[Event]:
    return [
        decided(epoch, "FOSSILIZE", "block2"),
        moved(epoch, "block2", "PROBATIONARY", "FOSSILIZED", "block2#1", "kept"),
        SeedFossilized(
            epoch=epoch,
            slot="block2",
            seed_id="block2#1",
            blueprint="conv_light",
            num_params=1_204,
            age_epochs=12,
            contribution=0.0213,
            contribution_error=0.0041,
            credit=0.018,
        ),
    ]


def _culled(
    epoch: int, slot: str, blueprint: str, old: str, reason: str, contribution: float | None
) -> list[Event]:
    seed_id = f"{slot}#1"
    return [
        moved(epoch, slot, old, "CULLED", seed_id, reason),
        SeedCulled(
            epoch=epoch,
            slot=slot,
            seed_id=seed_id,
            blueprint=blueprint,
            num_params=640,
            age_epochs=8,
            reason=reason,
            contribution=contribution,
        ),
    ]


def story() -> dict[int, list[Event]]:
    """What happened at each decision point beside the epochs themselves."""
    return {
        8: _germinated(8, "block2", "conv_light", 1_204),
        10: [moved(10, "block2", "TRAINING", "BLENDING", "block2#1", "advance")],
        13: [
            moved(13, "block2", "BLENDING", "PROBATIONARY", "block2#1"),
            *_germinated(13, "block1", "norm", 640),
            decided(13, "FOSSILIZE", "block2", refusal="gate G4: 0 of 2 measurements"),
        ],
        16: [moved(16, "block1", "TRAINING", "BLENDING", "block1#1", "advance")],
        19: [measured(19, "block2", "block2#1", "PROBATIONARY", 0.02)],
        20: _kept(20),
        21: [
            measured(21, "block1", "block1#1", "BLENDING", -0.011),
            decided(21, "CULL", "block1"),
            *_culled(21, "block1", "norm", "BLENDING", "policy", -0.0112),
        ],
        22: [moved(22, "block1", "CULLED", "EMBARGOED", "block1#1", "cooling down")],
        25: [moved(25, "block1", "EMBARGOED", "RESETTING", "block1#1", "embargo over")],
        26: [moved(26, "block1", "RESETTING", "DORMANT", None, "free again")],
        30: _germinated(30, "block3", "depthwise", 640),
        34: [moved(34, "block3", "TRAINING", "BLENDING", "block3#1", "advance")],
        40: _culled(40, "block3", "depthwise", "BLENDING", "horizon", None),
    }


def run_events(*, train_metric: bool = True) -> Iterator[Event]:
    """The whole run in order."""
    yield RunStarted(
        epoch=0,
        task="digits",
        policy="heuristic",
        seed=3,
        horizon_epochs=EPOCHS,
        host_params=HOST_PARAMS,
        slots=SLOTS,
    )
    happened = story()
    for epoch in range(1, EPOCHS + 1):
        yield decided(epoch - 1, "WAIT")
        yield finished_epoch(epoch, train_metric=train_metric)
        yield from happened.get(epoch, [])
    yield RunFinished(
        epoch=EPOCHS,
        reason="horizon",
        test_metrics={"accuracy": 0.938, "loss": 0.231},
        total_params=HOST_PARAMS + 1_204,
        flops=finished_epoch(EPOCHS).flops,
    )


def numbered(events: Iterable[Event], *, attempt: int = 0, rank: int = 0, first_seq: int = 0) -> list[Record]:
    """Records of events, one second apart."""
    return [
        Record(
            run_id="sample",
            attempt=attempt,
            rank=rank,
            seq=first_seq + i,
            wall_time=1000.0 + first_seq + i,
            event=e,
        )
        for i, e in enumerate(events)
    ]


def write_run(folder: Path, records: Iterable[Record], *, rank: int = 0) -> None:
    """Write records into a run directory."""
    backend = RunDirectoryBackend(folder, run_id="sample", rank=rank, clock=lambda: 999.0)
    for record in records:
        backend.write(record)
    backend.close()
