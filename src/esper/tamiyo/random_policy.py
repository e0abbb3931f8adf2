"""The random baseline: uniform over legal operations, then over slots, then over arguments.

It speaks the whole action language and never proposes an illegal action. What it has learned is nothing.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import final

from esper.leyline import (
    Action,
    ConfigError,
    Decision,
    ForeignCheckpointError,
    LifecycleOp,
    Observation,
    SlotReport,
    derive_seed,
)
from esper.tamiyo.masks import choosable_ops, growable_blueprints
from esper.tamiyo.memory import read_int, read_ints, read_keys


@final
class RandomPolicy:
    """Draws from its own generator, derived anew from the seed and the number of the host.

    Example:
        policy = RandomPolicy(7, germination_rate=0.1)
    """

    def __init__(self, seed: int, *, germination_rate: float | None = None) -> None:
        """Start before the first host.

        Args:
            seed: Any whole number; equal seeds give equal decisions on equal observations.
            germination_rate: Probability of GERMINATE wherever it is legal, in [0, 1], for a comparison at
                another policy's rate; None = uniform like every other operation.

        Raises:
            ConfigError: If the rate is outside [0, 1].
        """
        if germination_rate is not None and not 0.0 <= germination_rate <= 1.0:
            raise ConfigError(f"germination_rate={germination_rate}: must be in [0, 1], or None for uniform")
        self._seed = seed
        self._germination_rate = germination_rate
        self._num_hosts = 0
        self._rng = self._build_rng()

    def _build_rng(self) -> random.Random:
        return random.Random(derive_seed(self._seed, "random-policy", self._num_hosts))

    def reset(self) -> None:
        """Begin the next host with a stream of its own, however many draws the last one took."""
        self._num_hosts += 1
        self._rng = self._build_rng()

    def decide(self, observation: Observation) -> Decision:
        """Draw one legal action."""
        legal = _find_choices(observation)
        op = self._draw_op(tuple(legal))
        if op is LifecycleOp.WAIT:
            return Decision(reason=f"drew WAIT among {len(legal)} legal operations", confidence=0.0)
        report = self._rng.choice(legal[op])
        return Decision(
            action=self._draw_arguments(op, report, observation),
            reason=f"drew {op.value} among {len(legal)} legal operations and {report.slot} among "
            f"{len(legal[op])} slots",
            confidence=0.0,
        )

    def _draw_op(self, legal: tuple[LifecycleOp, ...]) -> LifecycleOp:
        if self._germination_rate is None or LifecycleOp.GERMINATE not in legal:
            return self._rng.choice(legal)
        if self._rng.random() < self._germination_rate:
            return LifecycleOp.GERMINATE
        return self._rng.choice([op for op in legal if op is not LifecycleOp.GERMINATE])

    def _draw_arguments(self, op: LifecycleOp, report: SlotReport, observation: Observation) -> Action:
        """Draw every argument that some operation uses, in a fixed order; an operation ignores the rest."""
        space, rng = observation.space, self._rng
        is_birth = op is LifecycleOp.GERMINATE
        return Action(
            op=op,
            slot=report.slot,
            blueprint=rng.choice(growable_blueprints(report, observation)) if is_birth else None,
            blend=rng.choice(space.blend_ids),
            curve=rng.choice(space.curve_ids),
            tempo_epochs=rng.choice(space.tempo_ids),
            alpha_target=rng.choice(space.alpha_target_ids),
        )

    def state(self) -> dict[str, object]:
        """Return the generator's state as plain data."""
        version, internal, gauss = self._rng.getstate()
        del gauss  # only normal draws leave one, and none is made here
        return {"num_hosts": self._num_hosts, "version": version, "internal": list(internal)}

    def restore(self, state: dict[str, object]) -> None:
        """Put back what `state` returned.

        Raises:
            ForeignCheckpointError: If a field is missing or malformed; nothing is changed then.
        """
        read_keys("random", state, ("num_hosts", "version", "internal"))
        num_hosts, version = read_int(state, "num_hosts"), read_int(state, "version")
        rng = self._build_rng()
        try:
            rng.setstate((version, read_ints(state, "internal"), None))
        except (ValueError, OverflowError) as error:
            raise ForeignCheckpointError(f"saved memory of policy 'random': {error}") from error
        self._num_hosts, self._rng = num_hosts, rng


def _find_choices(observation: Observation) -> Mapping[LifecycleOp, tuple[SlotReport, ...]]:
    """Return each operation that is legal somewhere with the slots where it is; WAIT always, first."""
    ops = {report.slot: choosable_ops(report, observation) for report in observation.slots}
    choices = {
        op: tuple(report for report in observation.slots if op in ops[report.slot])
        for op in observation.space.op_ids
    }
    return {op: slots for op, slots in choices.items() if slots or op is LifecycleOp.WAIT}
