"""Modules as a user would write them: policies and reward terms that keep and break their contracts."""

from __future__ import annotations

POLICY_MODULE = "own_policies"
POLICIES = '''
from esper.leyline import Action, Decision, LifecycleOp, legal_blueprints, legal_ops


class PlantOnce:
    """Germinates once, cares for the seed, and remembers that it has planted."""

    def __init__(self, *, seed: int) -> None:
        self.seed, self.has_planted = seed, False

    def decide(self, observation):
        for report in observation.slots:
            legal = legal_ops(report, observation)
            for op in (LifecycleOp.FOSSILIZE, LifecycleOp.ADVANCE):
                if op in legal:
                    return Decision(action=Action(op=op, slot=report.slot, tempo_epochs=1), reason="legal")
            if LifecycleOp.GERMINATE in legal and not self.has_planted:
                self.has_planted = True
                name = legal_blueprints(report, observation)[-1]
                action = Action(op=LifecycleOp.GERMINATE, slot=report.slot, blueprint=name, tempo_epochs=1)
                return Decision(action=action, reason="free")
        return Decision(reason="waits")

    def reset(self):
        self.has_planted = False

    def state(self):
        return {"has_planted": self.has_planted}

    def restore(self, state):
        self.has_planted = state["has_planted"]


class Forgets(PlantOnce):
    def restore(self, state):
        pass


class Crashes(PlantOnce):
    def decide(self, observation):
        return 1 / 0


class Wants(PlantOnce):
    def __init__(self, rate):
        pass


class Refuses(PlantOnce):
    def __init__(self, *, seed: int) -> None:
        raise ValueError("not\\ntoday")


class RefusesPolitely(PlantOnce):
    def __init__(self, *, seed: int) -> None:
        from esper.leyline import ConfigError

        raise ConfigError("own.rate=3: must be < 1")


number = 3
'''
TERM_MODULE = "own_terms"
TERMS = """
from esper.leyline import LifecycleOp
from esper.simic import RewardTermSpec


def spec(name, low=0.0):
    return RewardTermSpec(name=name, formula="1 at first", unit="1", low=low, high=1.0, why="-")


class FirstSeed:
    spec = spec("first_seed")

    def compute(self, facts, memory):
        if memory.get("paid") or facts.result.effective.op is not LifecycleOp.GERMINATE:
            return 0.0
        memory["paid"] = True
        return 1.0


class Governor(FirstSeed):
    spec = spec("governor")


class Contribution(FirstSeed):
    spec = spec("contribution")


class PaysNothingDone(FirstSeed):
    def compute(self, facts, memory):
        return 0.5


class Crashes(FirstSeed):
    def compute(self, facts, memory):
        return 1 / 0


class HasNoSpec:
    def compute(self, facts, memory):
        return 0.0


class NeedsArguments(FirstSeed):
    def __init__(self, rate):
        pass
"""

SEED_MODULE = "own_seeds"
SEEDS = """
import esper
from torch import nn


@esper.blueprint("scale", needs="2d")
def scale(spec):
    layer = nn.Conv2d(spec.num_channels, spec.num_channels, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


@esper.blueprint("shift", needs="2d")
def shift(spec):
    return scale.build(spec)


def plain(spec):
    return scale.build(spec)
"""
"""Two seeds of a user's own, and a builder without the decorator."""
