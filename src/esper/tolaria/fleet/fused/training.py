"""One interval of a group of hosts, batch by batch: the stacked counterpart of `tolaria.epoch`.

```
for each batch:
  1) clock       ramps and learning rates take their closed-form values, row by row
  2) hosts       all rows: forward, losses, one backward pass for hosts and the seeds that are blended in
  3) incubate    rows with an isolated seed: their tails once more, behind the seed at full alpha
  4) check       finite flags per row and seed; a faulty row is skipped alone, and put back as it was
  5) clip, step  per row
```
Rows never mix: a number of one row takes part in no number of another.

Step 4 has to ask the device, and an accelerator would wait for every answer. There the flags of a whole
interval are asked at its end, once; if a row was at fault, the interval starts again from the hosts, which
nothing has touched yet, and looks at every batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, final

import torch

from esper.data import Batch, StackedBatches
from esper.kasmina import StackContext, to_arrangement
from esper.tolaria.epoch import EpochProgress, SlotTotals
from esper.tolaria.fault_origin import LARGEST_SOUND, FaultOrigin, find_lasting
from esper.tolaria.fleet.fused.arena import UpdateArena
from esper.tolaria.fleet.fused.bank import ParameterBank
from esper.tolaria.fleet.fused.faults import RowGradient, explain_faults
from esper.tolaria.fleet.fused.plan import TrainingPlan, read_modes
from esper.tolaria.fleet.fused.rates import build_rates
from esper.tolaria.fleet.fused.seeds import SeedKinds, build_seed_banks, describe_host
from esper.tolaria.fleet.fused.stack import HostStack, NormRows
from esper.tolaria.fleet.fused.totals import BatchNumbers, IntervalTotals
from esper.tolaria.precision import Autocast
from esper.tolaria.reducer import HOST

if TYPE_CHECKING:
    from torch import Tensor

    from esper.tolaria.host_run import HostRun

_MIN_CHUNK = 64
"""Items of a stacked measuring pass at least: fewer are all overhead."""
_CACHED_BYTES = 2 * 2**20
"""Largest activation of a measuring pass that a CPU's cache holds."""


@final
class GroupTraining:
    """The weights of R hosts and their seeds, as one program for one interval."""

    def __init__(
        self,
        runs: Sequence[HostRun],
        stack: HostStack,
        kinds: SeedKinds | None = None,
        *,
        is_watched: bool | None = None,
    ) -> None:
        """Copy everything that trains into the stack.

        Args:
            runs: Of one architecture, each at the beginning of an interval.
            stack: Their segments.
            kinds: What is known of their seeds; None = nothing.
            is_watched: Whether every batch is looked at while it is there; None = where asking costs
                nothing, on the CPU.

        Raises:
            UnstackableError: If a seed cannot be stacked; nothing was changed.
        """
        self.runs = tuple(runs)
        self.stack = stack
        self._kinds = SeedKinds() if kinds is None else kinds
        self._fill()
        device = self.host.values.device
        self._is_watched = device.type == "cpu" if is_watched is None else is_watched
        self._objective = runs[0].bench.objective
        self.autocast = Autocast(device, runs[0].config.amp)

    def _fill(self) -> None:
        benches = [run.bench for run in self.runs]
        self.seeds = build_seed_banks(benches, self.stack, self._kinds)
        self._host_rows = [describe_host(bench) for bench in benches]
        self.host = ParameterBank(self._host_rows)
        self._arena = UpdateArena([self.host, *(source.bank for source in self.seeds)])
        members = [range(len(self.runs)), *(source.members for source in self.seeds)]
        self._members = [member for own in members for member in own]
        """[K] row of the group, by row of the arena."""
        self._host_of = torch.tensor(self._members, device=self.host.values.device)
        self.norms = NormRows([bench.model.host for bench in benches])
        self._faults: list[dict[str, FaultOrigin]] = [{} for _ in self.runs]

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.runs)

    def chunk_items(self, num_rows: int) -> int:
        """Return items of one measuring pass over so many rows."""
        bound = self.runs[0].config.measuring.chunk_items
        return max(1, min(bound, max(_MIN_CHUNK, _CACHED_BYTES // (num_rows * self.stack.item_bytes))))

    # ------------------------------------------------------------------ one interval

    def train(self, epochs: Sequence[int]) -> list[dict[str, FaultOrigin]]:
        """Train one interval; hosts, optimisers and progress are then as if each had trained by itself.

        Args:
            epochs: [R] what each run's `begin_interval` returned.

        Returns:
            [R] what is bad now and would be in every batch to come, by group.
        """
        starts = [run.clock.batch for run in self.runs]
        self._start(starts, self.runs[0].bench.batches.num_batches)
        totals = self._train_batches(epochs)
        if not self._is_watched and not totals.is_sound():  # sync: once an interval
            self._begin_again(starts)
            totals = self._train_batches(epochs)
        progress, seeds = totals.read()
        return self._finish(progress, seeds, starts)

    def _train_batches(self, epochs: Sequence[int]) -> IntervalTotals:
        totals = IntervalTotals(self._host_of, self._arena.roots, self.num_rows)
        batches = StackedBatches([run.bench.batches for run in self.runs], epochs)
        for index in range(self.runs[0].bench.batches.num_batches):
            self._follow_ramps(index)
            totals.add(self._train_batch(batches.batch(index), index))
        return totals

    def _begin_again(self, starts: Sequence[int]) -> None:
        """Put ramps and the stack back to where the interval began; from here on look at every batch."""
        for slot, _, ramp, alpha in self._ramping:
            slot.state.ramp = ramp
            slot.set_alpha(alpha)
        self._fill()
        self._is_watched = True
        self._start(starts, self.runs[0].bench.batches.num_batches)

    def _start(self, starts: Sequence[int], num_batches: int) -> None:
        rows = [row for bank in self._arena.banks for row in bank.rows]
        begun = [starts[member] for member in self._members]
        self._rates = build_rates(rows, begun, num_batches).to(self.host.values.device)
        self._ramping = [
            (slot, start, slot.state.ramp, slot.state.alpha)
            for run, start in zip(self.runs, starts, strict=True)
            for slot in run.bench.model.each_slot()
            if slot.state.ramp is not None
        ]
        self._replan()

    def _replan(self) -> None:
        self._plan = TrainingPlan(self.seeds, read_modes(self.seeds), self.stack, self.num_rows)
        hosts = torch.ones(self.num_rows, dtype=torch.bool, device=self.host.values.device)
        self._has_gradient = torch.cat([hosts, *self._plan.has_gradient])

    def _follow_ramps(self, index: int) -> None:
        if not self._ramping:
            return
        is_changed = False
        for slot, start, _, _ in self._ramping:
            before = slot.mode
            slot.follow_ramp(start + index)
            is_changed = is_changed or slot.mode is not before
        if is_changed:
            self._replan()
        self._plan.forget_alphas()

    def _finish(
        self, progress: Sequence[EpochProgress], seeds: Sequence[SlotTotals], starts: Sequence[int]
    ) -> list[dict[str, FaultOrigin]]:
        self._arena.write_back()
        self.norms.write_back(range(self.num_rows), [own.batch - own.num_skipped for own in progress])
        owners = [(source.slot_id, member) for source in self.seeds for member in source.members]
        for (slot_id, member), own in zip(owners, seeds, strict=True):
            progress[member].slots[slot_id] = own
        for run, sums, faults, start in zip(self.runs, progress, self._faults, starts, strict=True):
            sums.faults = faults
            run.progress = sums
            run.bench.optimizer.set_batch(start + sums.batch - 1)
            run.bench.model.update_alphas(start + sums.batch)
        is_sound = self._find_sound()
        return [
            {} if sound else find_lasting(run.bench.model, run.bench.optimizer)
            for run, sound in zip(self.runs, is_sound, strict=True)
        ]

    def _find_sound(self) -> list[bool]:
        sound = self._arena.is_sound(LARGEST_SOUND)
        statistics = self.norms.compute_norms()
        if statistics is not None:
            sound = sound & (statistics < LARGEST_SOUND).index_select(0, self._host_of)
        answer = [True] * self.num_rows
        for member, is_sound in zip(self._members, sound.tolist(), strict=True):  # sync: once an interval
            answer[member] = answer[member] and is_sound
        return answer

    # ------------------------------------------------------------------ one batch

    def _train_batch(self, batch: Batch, index: int) -> BatchNumbers:
        saved = self.norms.copy() if self._is_watched else []
        losses, metric_sums, gradients = self._learn(batch)
        norms = self._arena.compute_norms(gradients)
        is_finite, num_rows = norms.isfinite(), self.num_rows
        counted = is_finite[:num_rows]
        statistics = self.norms.compute_norms()
        if statistics is not None:
            losses = torch.where(statistics < LARGEST_SOUND, losses, torch.nan)
        stepped = counted & (losses.abs() < LARGEST_SOUND)
        # Where nobody looks, all is taken for sound: if it was not, the interval is trained again.
        is_fine = not self._is_watched or bool(stepped.all() & is_finite.all())
        due: Tensor | None = self._has_gradient
        if not is_fine:
            self._explain(batch, index, stepped.tolist(), gradients, self._arena.split(norms), saved)
            self.norms.put_back(saved, (~stepped).nonzero().flatten())
            due = is_finite & self._has_gradient & stepped.index_select(0, self._host_of)
        elif self._plan.teaches_all:
            due = None
        self._arena.update(gradients, norms, due, self._rates[index])
        return BatchNumbers(
            losses=losses,
            metric_sums=metric_sums,
            norms=norms,
            is_counted=counted,
            is_stepped=stepped,
            has_gradient=self._has_gradient,
            num_items=batch.targets.shape[1],
        )

    def _learn(self, batch: Batch) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return losses [R], metric sums [R] and the gradients of the hosts and of every seed bank."""
        plan, features = self._plan, {}
        weights = self.host.weights()
        context = StackContext(num_rows=self.num_rows, running=self.norms.running)
        taught = plan.taught_slots

        def at_slot(slot_id: str, h: Tensor) -> Tensor:
            if slot_id in taught:
                features[slot_id] = h.detach()
            return plan.slots[slot_id].run(h)

        inputs = to_arrangement(batch.inputs, self.stack.arrangement_in)
        with self.autocast.context():
            outputs = self.stack.run(inputs, 0, lambda _: weights, lambda _: context, at_slot)
        losses = self._objective.row_losses(outputs, batch.targets).mean(dim=1)
        values = [self.host.values, *(self.seeds[place].bank.values for place in plan.open_banks)]
        found = torch.autograd.grad(losses.sum(), values, allow_unused=True)
        gradients = [torch.zeros_like(source.bank.values) for source in self.seeds]
        for place, gradient in zip(plan.open_banks, found[1:], strict=True):
            if gradient is not None:
                gradients[place] = gradient
        if plan.lessons is not None:
            with self.autocast.context():
                lessons = plan.lessons.compute_gradients(features, self.host, batch.targets, self._objective)
            for place, gradient in zip(plan.lessons.banks, lessons, strict=True):
                gradients[place] = gradients[place] + gradient if place in plan.open_banks else gradient
        metrics = self._objective.row_metrics(outputs, batch.targets)
        assert found[0] is not None
        return losses.detach(), metrics.sum(dim=1), [found[0], *gradients]

    def _explain(
        self,
        batch: Batch,
        index: int,
        stepped: Sequence[bool],
        gradients: Sequence[Tensor],
        norms: Sequence[Tensor],
        saved: Sequence[Tensor],
    ) -> None:
        """Find out what was bad in the rows that are at fault, once per row and group."""
        for row, run in enumerate(self.runs):
            own = {HOST: RowGradient(self.host, row, gradients[0][row], float(norms[0][row]), True)}
            for place, source in enumerate(self.seeds, start=1):
                if row in source.members:
                    member = source.members.index(row)
                    own[source.slot_id] = RowGradient(
                        source.bank,
                        member,
                        gradients[place][member],
                        float(norms[place][member]),
                        bool(self._plan.has_gradient[place - 1][member]),
                    )
            is_withheld = not stepped[row]
            bad = {owner for owner, found in own.items() if owner != HOST and found.is_faulty}
            known = self._faults[row]
            if not (is_withheld and HOST not in known) and not bad - set(known):
                continue
            self._copy_out(row)
            explain_faults(
                run.bench,
                Batch(*(part[row] for part in batch)),
                own,
                known,
                partial(self._put_back, row, saved),
                index=index,
                is_withheld=is_withheld,
            )

    def _copy_out(self, row: int) -> None:
        self.host.write_back([row])
        for source in self.seeds:
            if row in source.members:
                source.bank.write_back([source.members.index(row)])
        self.norms.write_back([row], [0])

    def _put_back(self, row: int, saved: Sequence[Tensor]) -> None:
        self.norms.put_back(saved, torch.tensor([row], device=self.host.values.device))
        self.norms.write_back([row], [0])
