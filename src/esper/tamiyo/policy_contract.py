"""The contract that every policy keeps, ours or a user's, as a check that anyone can run.

```
protocol   it has decide, reset, state and restore
answer     decide gives a Decision: an Action, a reason, a confidence in [0, 1]
legal      the action would be accepted now, or is WAIT
pure       decide changes nothing in what it looks at
memory     state is plain JSON data without NaN, and restore puts it back
same       put back to where it stood, it decides the same and remembers the same
```
The last two are what makes a resumed run exact: a policy is put back to each of its decisions after it has
seen the whole life of a host, so that whatever it remembers outside its state shows. What a policy raises is
not caught, so that its own traceback leads to the line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from esper.leyline import (
    Action,
    AlphaCurve,
    BlendForm,
    ConfigError,
    Decision,
    Evidence,
    LifecycleOp,
    Observation,
    TamiyoPolicy,
    refuse_action,
)
from esper.tamiyo.practice_host import PRACTICE_HOSTS, PracticeHost, PracticeHostKind

_METHODS = ("decide", "reset", "state", "restore")
_ACTION_TYPES: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    ("op", LifecycleOp),
    ("slot", (str, type(None))),
    ("blueprint", (str, type(None))),
    ("blend", BlendForm),
    ("curve", AlphaCurve),
    ("tempo_epochs", int),
    ("alpha_target", (int, float)),
)
_DECISION_TYPES: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    ("action", Action),
    ("reason", str),
    ("confidence", (int, float)),
    ("evidence", (Evidence, type(None))),
)


def check_policy(policy: object) -> tuple[str, ...]:
    """Run the whole contract; return what was broken, each with a host that shows it; nothing if it is kept.

    Args:
        policy: Any policy; it has seen other hosts afterwards, so build a new one for a run that counts.

    Example:
        >>> check_policy(build_policy("never", seed=0))
        ()
    """
    missing = [name for name in _METHODS if not callable(getattr(policy, name, None))]
    if missing or not isinstance(policy, TamiyoPolicy):
        return (f"protocol: it has no method {', '.join(missing)}; a policy has {', '.join(_METHODS)}",)
    found: dict[str, str] = {}
    for kind in PRACTICE_HOSTS:
        failure = _Trial(policy, kind).run()
        if failure is not None:
            found.setdefault(failure, kind.name)
    return tuple(f"{name}: {failure}" for failure, name in found.items())


def require_policy(policy: object) -> TamiyoPolicy:
    """Return a policy that keeps the contract.

    Args:
        policy: As for `check_policy`.

    Raises:
        ConfigError: If it does not; every failure is named.

    Example:
        >>> type(require_policy(build_policy("never", seed=0))).__name__
        'NeverGrow'
    """
    failures = check_policy(policy)
    if failures or not isinstance(policy, TamiyoPolicy):
        raise ConfigError(f"policy {type(policy).__name__} breaks its contract: " + "; ".join(failures))
    return policy


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One decision of the life that is replayed."""

    epoch: int
    observation: Observation
    before: str
    """Memory as JSON."""
    action: Action
    after: str


@final
class _Trial:
    """One policy over the life of one practice host."""

    def __init__(self, policy: TamiyoPolicy, kind: PracticeHostKind) -> None:
        self._policy = policy
        self._host = PracticeHost(kind)
        self._steps: list[_Step] = []

    def run(self) -> str | None:
        """Return the first thing that is broken, if any."""
        self._policy.reset()
        return self._live() or self._replay() or self._begin_anew()

    def _live(self) -> str | None:
        """Let the policy grow the host to its horizon."""
        before, failure = self._save()
        while failure is None and not self._host.is_finished:
            epoch, observation = self._host.epoch, self._host.observe()
            decision: object = self._policy.decide(observation)
            failure = judge_decision(decision, observation)
            if failure is None and observation != self._host.observe():
                failure = "pure: decide changes the observation"
            if failure is not None or not isinstance(decision, Decision):
                return f"{failure}, after interval {epoch}"
            after, failure = self._save()
            self._steps.append(
                _Step(
                    epoch=epoch,
                    observation=observation,
                    before=before,
                    action=decision.action,
                    after=after,
                )
            )
            self._host.apply(decision.action)
            before = after
        return failure

    def _replay(self) -> str | None:
        """Put the policy back to each of its decisions, the last one first, and ask again."""
        for step in reversed(self._steps):
            if failure := self._put_back(step.before):
                return failure
            again = self._policy.decide(step.observation)
            where = f"after interval {step.epoch}, put back by restore"
            if again.action != step.action:
                return (
                    f"same: {where}, it decides {_show(again.action)} where it had decided "
                    f"{_show(step.action)}; everything that it remembers or draws from belongs into its state"
                )
            after, failure = self._save()
            if failure is not None or after != step.after:
                return failure or f"same: {where}, deciding leaves another memory than it had left"
        return None

    def _begin_anew(self) -> str | None:
        """Reset twice from the same memory."""
        last = self._steps[-1].after
        memories = []
        for _ in range(2):
            if failure := self._put_back(last):
                return failure
            self._policy.reset()
            memory, failure = self._save()
            if failure is not None:
                return failure
            memories.append(memory)
        return None if memories[0] == memories[1] else "same: two resets from one memory leave two memories"

    def _put_back(self, memory: str) -> str | None:
        self._policy.restore(json.loads(memory))
        restored, failure = self._save()
        if failure is None and restored != memory:
            failure = f"memory: restore was given {memory:.120}, state then returns {restored:.120}"
        return failure

    def _save(self) -> tuple[str, str | None]:
        """Return the memory as JSON, and what keeps it from being saved."""
        state: object = self._policy.state()
        if not isinstance(state, dict):
            return "", f"memory: state gives a {type(state).__name__}, expected a dict"
        problem = _find_unsaveable(state, "state()")
        if problem is not None:
            return "", f"memory: {problem}"
        return json.dumps(state, sort_keys=True), None


def judge_decision(decision: object, observation: Observation) -> str | None:
    """Return what is wrong with an answer to an observation, or None.

    Args:
        decision: What `decide` returned.
        observation: What it was given.
    """
    if not isinstance(decision, Decision):
        return f"answer: decide returns a {type(decision).__name__}, expected a Decision"
    action = decision.action
    problem = _find_wrong_type(decision, _DECISION_TYPES) or _find_wrong_type(action, _ACTION_TYPES)
    if problem is not None:
        return f"answer: {problem}"
    if not 0.0 <= decision.confidence <= 1.0:
        return f"answer: confidence is {decision.confidence!r}, must be in [0, 1]"
    refusal = refuse_action(action, observation)
    if refusal is not None:
        return f"legal: {refusal}; ask legal_ops and legal_blueprints before deciding"
    return None


def _find_wrong_type(record: object, types: tuple[tuple[str, type | tuple[type, ...]], ...]) -> str | None:
    for name, expected in types:
        value: object = getattr(record, name)
        if not isinstance(value, expected):
            known = expected if isinstance(expected, tuple) else (expected,)
            words = " or ".join(item.__name__ for item in known)
            return f"{name} of the {type(record).__name__} is {value!r:.80}, expected {words}"
    return None


def _find_unsaveable(value: object, where: str) -> str | None:
    """Name the first part that a checkpoint could not hold."""
    if value is None or isinstance(value, bool | str | int):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{where} is {value}; only finite numbers can be saved"
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"{where} has the key {key!r}; keys must be text"
            if problem := _find_unsaveable(item, f"{where}[{key!r}]"):
                return problem
        return None
    if isinstance(value, list | tuple):
        items = enumerate(value)
        problems = (_find_unsaveable(item, f"{where}[{place}]") for place, item in items)
        return next((problem for problem in problems if problem), None)
    return f"{where} is a {type(value).__name__}; expected plain data: text, numbers, lists, dicts"


def _show(action: Action) -> str:
    slot = "" if action.slot is None else f" on {action.slot}"
    return f"{action.op.value}{slot}"
