"""Validation and counterfactuals of a group of hosts in the stack; the stacked counterpart of `measuring`.

```
evaluate    all hosts over the validation split, with their own statistics
calibrate   hosts with something to measure, over training items; behind a slot, one more row per setting
pair        the same rows over validation items, each on the statistics of its own network
```
A setting costs the part behind its slot alone: its row joins there, with the host's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from esper.kasmina import StackContext, join_stacked, take_rows, to_arrangement
from esper.tolaria.fleet.fused.calls import SeedCall, SlotCalls
from esper.tolaria.fleet.fused.plan import TrainingPlan, read_modes
from esper.tolaria.measuring import Setting, SplitResult
from esper.tolaria.steps import IntervalMeasurement, plan_settings, record_differences

if TYPE_CHECKING:
    from torch import Tensor

    from esper.tolaria.fleet.fused.calls import SeedBank
    from esper.tolaria.fleet.fused.stack import Running
    from esper.tolaria.fleet.fused.training import GroupTraining


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRow:
    """One row of a measuring pass: a host as it is, or under a setting."""

    member: int
    """Row of the group."""
    base: int
    """Row of the pass that holds the same host as it is."""
    setting: Setting | None = None


def measure_group(training: GroupTraining) -> list[IntervalMeasurement]:
    """Measure every host of a group after its interval; seeds where they are due.

    Args:
        training: Trained, with every seed at its alpha of the interval's end.

    Returns:
        [R] what `HostRun.end_interval` takes.
    """
    with torch.no_grad():
        validation = _evaluate(training)
        settings = [plan_settings(run.bench.model) if run.is_measuring_due else [] for run in training.runs]
        if not any(settings):
            return [IntervalMeasurement(validation=result) for result in validation]
        differences = _Counterfactuals(training, settings).measure()
    measured = []
    for run, result, own, found in zip(training.runs, validation, settings, differences, strict=True):
        bench = run.bench
        if not own:
            measured.append(IntervalMeasurement(validation=result))
            continue
        num_calibration = len(bench.calibration) if training.norms.running else 0
        measured.append(
            IntervalMeasurement(
                validation=result,
                slots=record_differences(bench.model, bench.pool, own, found),
                bill=bench.evaluator.compute_bill(
                    bench.model, own, num_calibration, len(bench.gate_items[1])
                ),
            )
        )
    return measured


def _evaluate(training: GroupTraining) -> list[SplitResult]:
    stack, num_rows, bench = training.stack, training.num_rows, training.runs[0].bench
    plan = TrainingPlan(training.seeds, read_modes(training.seeds), stack, num_rows)
    weights = training.host.weights(is_frozen=True)
    context = StackContext(num_rows=num_rows, is_training=False, running=training.norms.running)
    inputs, targets = bench.validation
    sums = torch.zeros(2, num_rows, dtype=torch.float64, device=targets.device)
    size = training.chunk_items(num_rows)
    for start in range(0, len(targets), size):
        entering = to_arrangement(_repeat(inputs[start : start + size], num_rows), stack.arrangement_in)
        wanted = targets[start : start + size]
        with training.autocast.context():
            outputs = stack.run(
                entering,
                0,
                lambda _: weights,
                lambda _: context,
                lambda slot_id, h: plan.slots[slot_id].run(h, is_frozen=True),
            )
        rows = _repeat(wanted, num_rows)
        pair = torch.stack(
            (bench.objective.row_losses(outputs, rows), bench.objective.row_metrics(outputs, rows))
        )
        sums += pair.sum(dim=2, dtype=torch.float64)
    count = len(targets)
    return [
        SplitResult(loss=loss / count, metric=metric / count, num_items=count)
        for loss, metric in sums.t().tolist()  # sync: once an interval
    ]


@final
class _Counterfactuals:
    """Rows of a measuring pass, and the pass."""

    def __init__(self, training: GroupTraining, settings: Sequence[Sequence[Setting]]) -> None:
        self._training = training
        self._settings = settings
        stack, seeds = training.stack, training.seeds
        members = [member for member, own in enumerate(settings) if own]
        rows = [MeasuredRow(member=member, base=base) for base, member in enumerate(members)]
        self._num_bases = len(rows)
        device = training.host.values.device
        self._branches: dict[str, Tensor | None] = {}
        self._calls: dict[str, SlotCalls] = {}
        self._rows_at: dict[str, Tensor] = {}
        for slot_id in stack.segment_of:
            new = [
                MeasuredRow(member=member, base=base, setting=setting)
                for base, member in enumerate(members)
                for setting in settings[member]
                if setting.slot == slot_id
            ]
            self._branches[slot_id] = torch.tensor([row.base for row in new], device=device) if new else None
            rows += new
            self._calls[slot_id] = _plan_calls(rows, slot_id, seeds, training)
            self._rows_at[slot_id] = torch.tensor([row.member for row in rows], device=device)
        self._rows = rows
        self._members = torch.tensor(members, device=device)
        self._rows_of = [
            self._rows_at[stack.slot_before(index)] if index > min(stack.slot_after) else self._members
            for index in range(len(stack.segments))
        ]
        picked: dict[int, dict[str, Tensor]] = {}
        for chosen in self._rows_of:
            if len(chosen) not in picked:
                picked[len(chosen)] = training.host.weights(chosen, is_frozen=True)
        self._weights = picked

    def measure(self) -> list[list[Tensor]]:
        """Return per run, setting and item: gate metric as it is minus that under the setting."""
        training = self._training
        bench, task = training.runs[0].bench, training.runs[0].task
        running = self._calibrate() if training.norms.running else {}
        inputs, targets = bench.gate_items
        size = training.chunk_items(len(self._rows))
        parts = []
        for start in range(0, len(targets), size):
            outputs = self._pass(
                inputs[start : start + size],
                lambda num_rows: StackContext(num_rows=num_rows, is_training=False, running=running),
            )
            wanted = _repeat(targets[start : start + size], len(self._rows))
            if task.gates_use_loss:
                parts.append(-bench.objective.row_losses(outputs, wanted))
            else:
                parts.append(bench.objective.row_metrics(outputs, wanted))
        gates = torch.cat(parts, dim=1)
        found: dict[tuple[int, Setting], Tensor] = {
            (row.member, row.setting): gates[row.base] - gates[place]
            for place, row in enumerate(self._rows)
            if row.setting is not None
        }
        return [[found[member, setting] for setting in own] for member, own in enumerate(self._settings)]

    def _calibrate(self) -> Running:
        """Return the statistics of every row's own network, of one pass over training items."""
        training = self._training
        stack = training.stack
        running: dict[str, tuple[Tensor, Tensor]] = {}
        names = [name for name, _ in stack.named_segments]
        for path, (mean, variance) in training.norms.running.items():
            segment = next(index for index, name in enumerate(names) if path.startswith(f"{name}."))
            # Not from 0 and 1: what is not finite in a host must show, although the pass takes over wholly.
            rows = self._rows_of[segment]
            running[path] = (mean[rows], variance[rows])
        self._pass(
            training.runs[0].bench.calibration,
            lambda num_rows: StackContext(num_rows=num_rows, running=running, momentum=1.0),
        )
        return running

    def _pass(self, inputs: Tensor, context: Callable[[int], StackContext]) -> Tensor:
        training = self._training
        stack = training.stack

        def at_slot(slot_id: str, h: Tensor) -> Tensor:
            branches = self._branches[slot_id]
            if branches is not None:
                arrangement = stack.arrangement_at(slot_id)
                before = self._calls[slot_id].num_rows - len(branches)
                taken = take_rows(h, branches, arrangement, before)
                h = join_stacked((h, taken), None, arrangement, (before, len(branches)))
            return self._calls[slot_id].run(h, is_frozen=True)

        entering = to_arrangement(_repeat(inputs, self._num_bases), stack.arrangement_in)
        with training.autocast.context():
            return stack.run(
                entering,
                0,
                lambda index: self._weights[len(self._rows_of[index])],
                lambda index: context(len(self._rows_of[index])),
                at_slot,
            )


def _plan_calls(
    rows: Sequence[MeasuredRow], slot_id: str, seeds: Sequence[SeedBank], training: GroupTraining
) -> SlotCalls:
    """Return what happens to rows in a slot: seeds at their own alpha, or at that of the row's setting."""
    calls, alphas = [], []
    for source in seeds:
        if source.slot_id != slot_id:
            continue
        place_of = {member: row for row, member in enumerate(source.members)}
        held = [
            (place, place_of[row.member], row) for place, row in enumerate(rows) if row.member in place_of
        ]
        forced = [_choose_alpha(row, slot_id, source, own) for _, own, row in held]
        kept = [(place, own, alpha) for (place, own, _), alpha in zip(held, forced, strict=True) if alpha]
        if kept:
            calls.append(SeedCall(source, [place for place, _, _ in kept], [own for _, own, _ in kept]))
            alphas.append([alpha for _, _, alpha in kept])
    return SlotCalls(calls, len(rows), training.stack.arrangement_at(slot_id), alphas=alphas)


def _choose_alpha(row: MeasuredRow, slot_id: str, source: SeedBank, own: int) -> float:
    if row.setting is not None and row.setting.slot == slot_id:
        return row.setting.alpha
    slot = source.slots[own]
    return slot.state.alpha if slot.is_open else 0.0


def _repeat(items: Tensor, num_rows: int) -> Tensor:
    """Return [R, B, ...]: the same items for every row, without a copy."""
    return items.expand(num_rows, *items.shape)
