"""Random lifecycles of one slot against an oracle of plain Python; covers kasmina/lifecycle.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from esper.kasmina import Clock, Lifecycle, LifecycleConfig, SeedSlot, SeedState
from esper.leyline import (
    TRANSITIONS,
    Action,
    AlphaCurve,
    Event,
    IllegalTransitionError,
    LifecycleOp,
    SeedStage,
    StageChanged,
)
from kasmina.growing import BATCHES, make_birth, make_clock, make_gates, make_ready, make_spec

S = SeedStage
ALLOWED = frozenset((old, new) for old, targets in TRANSITIONS.items() for new in targets)
SUCCESS = {S.GERMINATED: S.TRAINING, S.TRAINING: S.BLENDING, S.BLENDING: S.PROBATIONARY}
LIVE = frozenset({S.GERMINATED, S.TRAINING, S.BLENDING, S.PROBATIONARY})
EMBARGO, RESET = 2, 1
GROWTH = ("germinate", "gather_evidence", "begin_epoch", "gather_evidence", "advance", "ramp")
COOLDOWN = ("pass_one_interval",) * (1 + EMBARGO + RESET)
WALK = (*GROWTH, "gather_evidence", "cull", *COOLDOWN, *GROWTH, "advance", "gather_evidence", "fossilize")
"""A first seed that is culled, a second that is kept; a case starts after any number of these moves."""
CURVES = st.sampled_from(AlphaCurve)
TARGETS = st.sampled_from((0.5, 0.7, 1.0))


class LifecycleMachine(RuleBasedStateMachine):
    """A slot, and beside it what it should be by the rules alone."""

    def __init__(self) -> None:
        super().__init__()
        self.slot = SeedSlot(make_spec())
        self.epoch = 0
        self.stage = S.DORMANT
        self.age_in_stage = 0
        self.births = 0
        self.pending = False
        self.evident = False
        self.measured = False
        self.tempo = 1
        self.is_automatic = True
        self.events: list[Event] = []
        self.target = 0.0
        self.ramp_left = 0
        self.fossil: dict[str, object] | None = None

    @initialize(is_automatic=st.booleans(), start=st.integers(0, len(WALK)), tempo=st.integers(1, 2))
    def begin(self, is_automatic: bool, start: int, tempo: int) -> None:
        """Walk some way through a life first: drawn moves alone would seldom get past incubation."""
        config = LifecycleConfig(
            embargo_epochs=EMBARGO, reset_epochs=RESET, is_blending_automatic=is_automatic
        )
        self.is_automatic = is_automatic
        self.lifecycle = Lifecycle(config, make_gates())
        for move in WALK[:start]:
            if move == "germinate":
                self.germinate(AlphaCurve.COSINE, tempo, 1.0)
            elif move == "ramp":
                for _ in range(tempo):
                    self.pass_one_interval()
            elif move == "cull":
                self.cull(0, AlphaCurve.LINEAR)
            else:
                getattr(self, move)()

    # ------------------------------------------------------------------ moves

    @rule(curve=CURVES, tempo=st.integers(1, 3), goal=TARGETS)
    def germinate(self, curve: AlphaCurve, tempo: int, goal: float) -> None:
        action = Action(
            op=LifecycleOp.GERMINATE, slot="block1", blueprint="conv_light", curve=curve,
            tempo_epochs=tempo, alpha_target=goal,
        )  # fmt: skip
        birth = make_birth(self.slot.spec)
        is_legal = self.stage is S.DORMANT
        if self._try(is_legal, lambda: self.lifecycle.germinate(self.slot, action, birth, self.clock)):
            self.births += 1
            self.target, self.tempo, self.evident, self.measured = goal, tempo, False, False
            self._enter(S.GERMINATED)
            assert self.slot.seed is birth.seed
            assert self.slot.state.seed_id == f"block1#{self.births}"

    @rule()
    def gather_evidence(self) -> None:
        if self.stage in LIVE:
            make_ready(self.slot)
            self.age_in_stage = self.slot.state.epochs_in_stage
            self.evident = True
            self.measured = self.stage is S.PROBATIONARY

    @rule()
    def advance(self) -> None:
        gates = {
            S.GERMINATED: self.evident,
            S.TRAINING: self.evident and self.age_in_stage >= 2,
            S.BLENDING: self._is_at_one(),
        }
        is_legal = gates.get(self.stage, False) and not self.pending
        if self._try(is_legal, lambda: self.lifecycle.advance(self.slot, self.clock)):
            self._succeed()

    @rule()
    def fossilize(self) -> None:
        is_legal = self.stage is S.PROBATIONARY and self.measured and self._is_at_one() and not self.pending
        if self._try(is_legal, lambda: self.lifecycle.fossilize(self.slot, self.clock)):
            self._enter(S.FOSSILIZED)
            self.fossil = self._frozen()

    @rule(tempo=st.integers(0, 2), curve=CURVES)
    def cull(self, tempo: int, curve: AlphaCurve) -> None:
        alpha = self.slot.state.alpha
        seed = self.slot.seed
        is_legal = self.stage in LIVE
        if not self._try(
            is_legal,
            lambda: self.lifecycle.cull(self.slot, self.clock, "test", tempo_epochs=tempo, curve=curve),
        ):
            return
        if tempo == 0 or alpha == 0.0:
            self._lose()
        else:
            self.pending, self.ramp_left = True, tempo
            assert self.slot.seed is seed

    @rule(goal=TARGETS, tempo=st.integers(1, 2), curve=CURVES)
    def retarget(self, goal: float, tempo: int, curve: AlphaCurve) -> None:
        action = Action(
            op=LifecycleOp.SET_ALPHA, slot="block1", alpha_target=goal, tempo_epochs=tempo, curve=curve
        )
        is_legal = self.stage in (S.BLENDING, S.PROBATIONARY) and not self.pending
        if self._try(is_legal, lambda: self.lifecycle.retarget(self.slot, action, self.clock)):
            self.target, self.ramp_left = goal, tempo

    @rule()
    def pass_one_interval(self) -> None:
        before = self.slot.state.alpha
        is_rising = self.slot.state.ramp is not None and self.slot.state.ramp.target >= before
        alphas = []
        for batch in range(self.clock.batch, self.clock.batch + BATCHES + 1):
            self.slot.follow_ramp(batch)
            alphas.append(self.slot.state.alpha)
        assert alphas == sorted(alphas, reverse=not is_rising)
        self.epoch += 1
        self.age_in_stage += 1
        if self.ramp_left > 0:
            self.ramp_left -= 1
            if self.ramp_left == 0:
                assert self.slot.state.alpha == (0.0 if self.pending else self.target)
        with self._only_listed_edges():
            self.events = self.lifecycle.tick(self.slot, self.clock)
        self._follow_tick()

    @rule()
    def begin_epoch(self) -> None:
        is_due = self.stage is S.GERMINATED
        if (
            self._try(not is_due or self.evident, lambda: self.lifecycle.begin_epoch(self.slot, self.clock))
            and is_due
        ):
            self._succeed()

    @rule()
    def save_and_restore(self) -> None:
        """A restored copy is the record itself; the module comes back with it."""
        record, seed = self.slot.state.to_dict(), self.slot.seed
        copied = SeedState.from_dict(record)
        self.lifecycle.restore(self.slot, copied, seed)
        assert self.slot.state.to_dict() == record
        assert self.slot.seed is seed

    @rule()
    def restore_without_the_right_module(self) -> None:
        state = SeedState.from_dict(self.slot.state.to_dict())
        wrong = None if self.stage.has_seed else make_birth(self.slot.spec).seed
        before, seed = self.slot.state.to_dict(), self.slot.seed
        with pytest.raises(ValueError, match="does not match its module"):
            self.lifecycle.restore(self.slot, state, wrong)
        assert self.slot.state.to_dict() == before
        assert self.slot.seed is seed

    # ------------------------------------------------------------------ invariants

    @invariant()
    def stage_is_what_the_oracle_says(self) -> None:
        state = self.slot.state
        assert state.stage is self.stage
        assert state.is_cull_pending == self.pending
        assert state.epochs_in_stage == self.age_in_stage
        assert state.num_germinations == self.births

    @invariant()
    def alpha_is_in_range_and_zero_before_blending(self) -> None:
        state = self.slot.state
        assert 0.0 <= state.alpha <= 1.0
        assert float(self.slot.alpha_mirror) == pytest.approx(state.alpha, abs=1e-7)
        if not self.stage.affects_output:
            assert state.alpha == 0.0
            assert state.ramp is None

    @invariant()
    def seed_lives_exactly_where_the_stage_says(self) -> None:
        has_parameters = bool(list(self.slot.parameters()))
        assert has_parameters == self.stage.has_seed == (self.slot.seed is not None)
        assert (self.slot.state.num_params > 0) == has_parameters

    @invariant()
    def fossil_never_changes(self) -> None:
        if self.fossil is not None:
            assert self._frozen() == self.fossil

    # ------------------------------------------------------------------ the oracle

    @property
    def clock(self) -> Clock:
        return make_clock(self.epoch)

    def _try(self, is_legal: bool, call: Callable[[], list[Event]]) -> bool:
        before, seed = self.slot.state.to_dict(), self.slot.seed
        if is_legal:
            with self._only_listed_edges():
                self.events = call()
            return True
        with pytest.raises(IllegalTransitionError, match="block1"):
            call()
        assert self.slot.state.to_dict() == before
        assert self.slot.seed is seed
        return False

    @contextmanager
    def _only_listed_edges(self) -> Iterator[None]:
        old = self.slot.state.stage
        self.events = []
        yield
        new = self.slot.state.stage
        moves = [event for event in self.events if isinstance(event, StageChanged)]
        assert new is old or (old, new) in ALLOWED
        assert [(move.old, move.new) for move in moves] == ([] if new is old else [(old.value, new.value)])

    def _enter(self, stage: SeedStage) -> None:
        self.stage, self.age_in_stage = stage, 0

    def _succeed(self) -> None:
        target = SUCCESS[self.stage]
        self._enter(target)
        if target is S.BLENDING:
            self.ramp_left = self.tempo

    def _lose(self) -> None:
        self._enter(S.CULLED)
        self.pending, self.evident, self.measured = False, False, False
        self.ramp_left, self.target = 0, 0.0

    def _follow_tick(self) -> None:
        if self.pending and self.ramp_left == 0:
            self._lose()
        elif self.stage is S.CULLED:
            self._enter(S.EMBARGOED)
        elif self.stage is S.EMBARGOED and self.age_in_stage >= EMBARGO:
            self._enter(S.RESETTING)
        elif self.stage is S.RESETTING and self.age_in_stage >= RESET:
            self._enter(S.DORMANT)
        elif self.stage is S.BLENDING and self.is_automatic and self._is_at_one() and not self.pending:
            self._succeed()

    def _is_at_one(self) -> bool:
        return self.ramp_left == 0 and self.target == 1.0 and self.stage in (S.BLENDING, S.PROBATIONARY)

    def _frozen(self) -> dict[str, object]:
        record = self.slot.state.to_dict()
        return {
            name: record[name] for name in ("stage", "seed_id", "blueprint", "alpha", "ramp", "num_params")
        }


LifecycleMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestLifecycle = pytest.mark.slow(LifecycleMachine.TestCase)
