"""Random lives of a whole run beside a model of plain Python; after every step ten things hold.

The model knows per slot the stage, alpha, age and target, by the rules alone. Rules that are not legal are
tried as well: they must be refused and change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from battery_rows import BatteryRecord
from esper.kasmina import GateConfig, LifecycleConfig, MorphogeneticModel
from esper.leyline import (
    TRANSITIONS,
    Action,
    AlphaCurve,
    Decision,
    EpochCompleted,
    Event,
    JsonValue,
    LifecycleOp,
    SeedCulled,
    SeedStage,
    StageChanged,
    canonical_hash,
    legal_ops,
)
from esper.tolaria import EpochProgress, HostRun, HostRunConfig, StateRecord
from esper.tolaria.snapshot import capture_state, is_finite
from tolaria.small_run import ListSink, host_tensors_of, make_config, make_parts, make_run, through_json

S = SeedStage
SLOTS = ("block1", "block2", "block3")
BLUEPRINTS = ("conv_light", "depthwise", "norm", "noop")
ON_THE_WAY = (S.CULLED, S.EMBARGOED, S.RESETTING)
EDGES = frozenset((old, new) for old, targets in TRANSITIONS.items() for new in targets)
TOPOLOGY = (
    "blueprint",
    "blend",
    "alpha_target",
    "tempo_epochs",
    "curve",
    "seed_age_epochs",
    "is_cull_pending",
)
WALK = (LifecycleOp.GERMINATE, None, None, LifecycleOp.ADVANCE, None, None, LifecycleOp.FOSSILIZE, None)
"""Operations and, as None, intervals of a seed that is kept."""
ISOLATED = (S.GERMINATED, S.TRAINING)


@dataclass(slots=True)
class Seen:
    """What the model knows about one slot."""

    stage: SeedStage = S.DORMANT
    age: int = 0
    alpha: float = 0.0
    seed_id: str | None = None


class Saboteur:
    """Puts NaN into a weight of the host at the last batch of an interval, when armed."""

    def __init__(self) -> None:
        self.is_armed = False

    def after_backward(self, model: MorphogeneticModel, batch: object, batch_index: int) -> None:
        """Do it."""
        del batch
        if self.is_armed and batch_index == 2:
            self.is_armed = False
            with torch.no_grad():
                next(model.host.parameters()).view(-1)[0] = math.nan

    def after_epoch(self, model: MorphogeneticModel, outcome: object) -> None:
        """Do nothing."""

    def after_validation(self, outputs: object, targets: object) -> None:
        """Do nothing."""

    def state(self) -> dict[str, JsonValue]:
        """Remember nothing."""
        return {}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Do nothing."""


def build_config() -> HostRunConfig:
    """Gates that open at once; every epoch can be a snapshot; enough rollbacks for a long walk."""
    base = make_config(epochs=500)
    gates = replace(base.gates, min_probation_epochs=1)
    assert isinstance(gates, GateConfig)
    life = LifecycleConfig(embargo_epochs=1, reset_epochs=1, min_cull_age_epochs=0)
    governor = replace(base.governor, max_rollbacks=1000)
    return replace(base, gates=gates, lifecycle=life, governor=governor, snapshot_every=2, batch_size=32)


class RunMachine(RuleBasedStateMachine):
    """A run, and beside it what it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.config = build_config()
        self.sink, self.saboteur = ListSink(), Saboteur()
        self.run_ = self.build()
        self.seen = {slot: Seen() for slot in SLOTS}
        self.good = {slot: Seen() for slot in SLOTS}
        self.saved: tuple[StateRecord, dict[str, Seen], int] | None = None
        self.fossils: dict[str, str | None] = {}
        self.place = 0
        """Events before this one have been replayed into the model."""

    def build(self) -> HostRun:
        parts = make_parts(sink=self.sink, probe=self.saboteur)
        return make_run(self.config, parts)

    @property
    def model(self) -> MorphogeneticModel:
        return self.run_.bench.model

    # ------------------------------------------------------------------ rules

    @initialize(start=st.sampled_from((7, 8, 5, 4, 3, 0)), slot=st.sampled_from(SLOTS))
    def begin(self, start: int, slot: str) -> None:
        """Walk some way into a life: drawn rules alone seldom get past incubation."""
        for op in WALK[:start]:
            if op is None:
                self.train_step()
            else:
                blueprint = "conv_light" if op is LifecycleOp.GERMINATE else None
                self.act(Action(op=op, slot=slot, blueprint=blueprint, tempo_epochs=1))

    @rule(pick=st.integers(0, 999), blueprint=st.sampled_from(BLUEPRINTS))
    def act_legally(self, pick: int, blueprint: str) -> None:
        """One of the operations that are legal now, if there is one, and an interval after it."""
        seen = self.run_.observe()
        legal = [(r.slot, op) for r in seen.slots for op in legal_ops(r, seen) if op is not LifecycleOp.WAIT]
        if legal:
            slot, op = legal[pick % len(legal)]
            own = blueprint if op is LifecycleOp.GERMINATE else None
            self.act(Action(op=op, slot=slot, blueprint=own, tempo_epochs=1 + pick % 2))
        self.train_step()

    @rule(slot=st.sampled_from(SLOTS), blueprint=st.sampled_from(BLUEPRINTS), tempo=st.integers(1, 2))
    def germinate(self, slot: str, blueprint: str, tempo: int) -> None:
        self.act(Action(op=LifecycleOp.GERMINATE, slot=slot, blueprint=blueprint, tempo_epochs=tempo))

    @rule(slot=st.sampled_from(SLOTS))
    def advance(self, slot: str) -> None:
        self.act(Action(op=LifecycleOp.ADVANCE, slot=slot))

    @rule(slot=st.sampled_from(SLOTS), goal=st.sampled_from((0.5, 0.7, 1.0)), tempo=st.integers(1, 2))
    def set_alpha_target(self, slot: str, goal: float, tempo: int) -> None:
        curve = AlphaCurve.COSINE
        self.act(
            Action(op=LifecycleOp.SET_ALPHA, slot=slot, alpha_target=goal, tempo_epochs=tempo, curve=curve)
        )

    @rule(slot=st.sampled_from(SLOTS))
    def fossilize(self, slot: str) -> None:
        self.act(Action(op=LifecycleOp.FOSSILIZE, slot=slot))

    @rule(slot=st.sampled_from(SLOTS), tempo=st.integers(1, 2))
    def cull(self, slot: str, tempo: int) -> None:
        self.act(Action(op=LifecycleOp.CULL, slot=slot, tempo_epochs=tempo))

    @rule()
    def train_step(self) -> None:
        """One interval: the batches and the tick of every slot."""
        self.run_.train_epoch()
        assert not self.run_.verdict.is_failure
        self.follow_events()
        self.read_alphas()
        if self.run_.epoch % self.config.snapshot_every == 0:
            self.good = {slot: replace(seen) for slot, seen in self.seen.items()}

    @rule(chance=st.integers(0, 2))
    def inject_nan_and_roll_back(self, chance: int) -> None:
        """A host that breaks goes back to the last good state; the blamed seed goes."""
        if chance:  # else too many walks would never get anywhere
            return
        self.saboteur.is_armed = True
        count = self.run_.bench.governor.rollback_count
        good = self.run_.last_good
        self.run_.train_epoch()
        assert self.run_.verdict.is_failure
        assert self.run_.bench.governor.rollback_count == count + 1
        assert self.run_.epoch == good.state["epoch"]
        self.seen = {slot: replace(seen) for slot, seen in self.good.items()}
        self.follow_from_rollback()
        self.fossils = {slot: seen.seed_id for slot, seen in self.seen.items() if seen.stage is S.FOSSILIZED}
        self.read_alphas()
        self.good = {slot: replace(seen) for slot, seen in self.seen.items()}

    @rule()
    def save(self) -> None:
        record = through_json(self.run_.state())
        self.saved = (
            record,
            {slot: replace(seen) for slot, seen in self.seen.items()},
            len(self.sink.events),
        )

    @precondition(lambda self: self.saved is not None)
    @rule()
    def load(self) -> None:
        assert self.saved is not None
        record, seen, _ = self.saved
        self.run_.restore(record)
        self.come_back(record, seen)

    @precondition(lambda self: self.saved is not None)
    @rule()
    def kill_and_resume(self) -> None:
        """A new process has nothing but the file."""
        assert self.saved is not None
        record, seen, _ = self.saved
        self.run_ = self.build()
        self.run_.restore(record)
        self.come_back(record, seen)

    def come_back(self, record: StateRecord, seen: dict[str, Seen]) -> None:
        """Invariant 7: load after save is the identity."""
        again = through_json(self.run_.state())
        assert again.state == record.state
        assert again.tensors.keys() == record.tensors.keys()
        assert all(torch.equal(again.tensors[name], record.tensors[name]) for name in record.tensors)
        self.seen = {slot: replace(one) for slot, one in seen.items()}
        self.good = {slot: self.read_record(slot) for slot in SLOTS}
        self.fossils = {slot: one.seed_id for slot, one in seen.items() if one.stage is S.FOSSILIZED}
        self.place = len(self.sink.events)

    # ------------------------------------------------------------------ the model

    def act(self, action: Action) -> None:
        """Invariant 10: what is not legal is refused with a reason and changes nothing."""
        slot = str(action.slot)
        report = next(r for r in self.run_.observe().slots if r.slot == slot)
        is_offered = action.op in legal_ops(report, self.run_.observe())
        before = capture_state(self.run_, with_last_good=False)
        result = self.run_.apply(Decision(action=action))
        assert is_offered or result.is_refused
        if result.is_refused:
            assert result.refusal
            after = capture_state(self.run_, with_last_good=False)
            assert {**after.state, "event_count": 0} == {**before.state, "event_count": 0}
            assert all(torch.equal(after.tensors[name], before.tensors[name]) for name in before.tensors)
            assert not any(isinstance(event, StageChanged) for event in self.sink.events[self.place :])
        self.follow_events()
        self.read_alphas()

    def follow_events(self) -> None:
        """Invariants 1 and 9: replay the log into the model; each move is a listed edge from there."""
        for event in self.sink.events[self.place :]:
            self.follow(event)
        self.place = len(self.sink.events)

    def follow_from_rollback(self) -> None:
        """Of a failed interval only what follows the rollback counts."""
        new = self.sink.events[self.place :]
        kinds = [event.kind for event in new]
        for event in new[kinds.index("RolledBack") :]:
            self.follow(event)
        self.place = len(self.sink.events)

    def follow(self, event: Event) -> None:
        if isinstance(
            event, EpochCompleted
        ):  # what moved before it grows older with the rest, what follows not
            for one in self.seen.values():
                one.age += 1
        if not isinstance(event, StageChanged):
            return
        seen = self.seen[event.slot]
        assert event.old == seen.stage.value
        assert (S(event.old), S(event.new)) in EDGES
        assert seen.stage is not S.FOSSILIZED
        seed_id = event.seed_id if S(event.new).has_seed else None
        self.seen[event.slot] = Seen(stage=S(event.new), seed_id=seed_id, alpha=seen.alpha)
        if S(event.new) is S.FOSSILIZED:
            self.fossils[event.slot] = event.seed_id

    def read_alphas(self) -> None:
        """Take alphas as they are: every batch of a ramp is looked at by the walk of a single slot."""
        for slot_id, seen in self.seen.items():
            seen.alpha = self.model.slot(slot_id).state.alpha

    def read_record(self, slot_id: str) -> Seen:
        """Return what the last good state says about a slot."""
        slots = self.run_.last_good.state["slots"]
        assert isinstance(slots, dict)
        record = slots[slot_id]
        assert isinstance(record, dict)
        seed_id = record["seed_id"]
        return Seen(
            stage=S(str(record["stage"])),
            age=int(str(record["epochs_in_stage"])),
            alpha=float(str(record["alpha"])),
            seed_id=None if seed_id is None else str(seed_id),
        )

    # ------------------------------------------------------------------ invariants

    @invariant()
    def stages_and_ages_are_those_of_the_model(self) -> None:
        for slot_id, seen in self.seen.items():
            state = self.model.slot(slot_id).state
            assert (state.stage, state.epochs_in_stage) == (seen.stage, seen.age), slot_id
            assert state.has_optimizer_entries or not state.stage.is_trained or state.num_params == 0

    @invariant()
    def alpha_is_in_range_zero_before_blending_and_one_in_fossils(self) -> None:
        for slot in self.model.each_slot():
            state = slot.state
            assert 0.0 <= state.alpha <= 1.0
            assert state.stage.affects_output or state.alpha == 0.0
            assert state.stage is not S.FOSSILIZED or (state.alpha == 1.0 and state.ramp is None)
            assert float(slot.alpha_mirror) == pytest.approx(state.alpha, abs=1e-7)

    @invariant()
    def isolated_seeds_change_no_bit_of_the_host(self) -> None:
        """Invariant 3: the same pass, gradients included, without the isolated seeds in their slots."""
        isolated = [slot for slot in self.model.each_slot() if slot.state.stage in ISOLATED]
        if not isolated:
            return
        with_seeds = self.pass_through()
        seeds = [slot.seed for slot in isolated]
        for slot in isolated:
            slot.seed = None
        without = self.pass_through()
        for slot, seed in zip(isolated, seeds, strict=True):
            slot.seed = seed
        assert all(torch.equal(a, b) for a, b in zip(with_seeds, without, strict=True))

    def pass_through(self) -> list[torch.Tensor]:
        host = list(self.model.host.parameters())
        self.model.eval()
        outputs = self.model(self.run_.bench.validation[0][:4])
        gradients = torch.autograd.grad(outputs.square().sum(), host)
        return [outputs.detach(), *gradients]

    @invariant()
    def fossils_stay(self) -> None:
        for slot_id, seed_id in self.fossils.items():
            state = self.model.slot(slot_id).state
            assert (state.stage, state.seed_id) == (S.FOSSILIZED, seed_id)

    @invariant()
    def what_was_culled_is_gone_and_each_parameter_is_optimised_once(self) -> None:
        """Invariants 4 and 5."""
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.run_.bench.optimizer.check_consistency(list(trained))
        held = self.run_.bench.optimizer._optimizer
        grouped = [id(p) for group in held.param_groups for p in group["params"]]
        assert sorted(grouped) == sorted(map(id, trained.values()))
        assert {id(p) for p in held.state} <= set(grouped)
        for slot in self.model.each_slot():
            if slot.state.stage in (S.DORMANT, *ON_THE_WAY):
                assert slot.seed is None
                assert not any(f"slots.{slot.slot_id}." in name for name in trained)
        hooks = [len(module._forward_hooks) for module in self.model.host.modules()]
        assert sum(hooks) == len(SLOTS)

    @invariant()
    def the_topology_is_that_of_the_model(self) -> None:
        """Invariant 6: the network's hash is that of a dict with the model's stages, ages and alphas."""
        slots: dict[str, JsonValue] = {}
        for slot in self.model.each_slot():
            record, seen = slot.state.to_dict(), self.seen[slot.slot_id]
            own = {"stage": seen.stage.value, "seed_id": seen.seed_id, "epochs_in_stage": seen.age}
            slots[slot.slot_id] = {name: record[name] for name in TOPOLOGY} | own | {"alpha": seen.alpha}
        parameters: list[JsonValue] = [
            [name, list(p.shape), str(p.dtype), p.requires_grad]
            for name, p in sorted(self.model.named_parameters())
        ]
        assert self.model.topology_hash() == canonical_hash({"slots": slots, "parameters": parameters})

    @invariant()
    def everything_is_finite(self) -> None:
        assert is_finite(capture_state(self.run_, with_last_good=False))
        assert is_finite(self.run_.last_good)
        assert self.run_.progress == EpochProgress()


def walk(num_examples: int, num_steps: int) -> None:
    """Take that many random walks."""
    case = RunMachine.TestCase
    case.settings = settings(max_examples=num_examples, stateful_step_count=num_steps)
    case().runTest()


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.battery("T38")
def test_ten_things_hold_on_random_walks_of_a_run(battery: BatteryRecord) -> None:
    walk(16, 30)
    battery.record(n=16, note="30 steps each")


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
@pytest.mark.battery("T38")
def test_ten_things_hold_on_two_hundred_random_walks_of_sixty_steps(battery: BatteryRecord) -> None:
    walk(200, 60)
    battery.record(n=200, note="60 steps each")


def test_a_culled_seed_is_told_to_the_log() -> None:
    sink = ListSink()
    run = make_run(build_config(), make_parts(sink=sink))
    run.apply(Decision(action=Action(op=LifecycleOp.GERMINATE, slot="block1", blueprint="norm")))
    before = host_tensors_of(run)
    run.apply(Decision(action=Action(op=LifecycleOp.CULL, slot="block1")))
    assert [event.slot for event in sink.events if isinstance(event, SeedCulled)] == ["block1"]
    assert all(torch.equal(x, before[name]) for name, x in host_tensors_of(run).items())
