"""Settings of the policy network; saved beside its weights, so that it can be built again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from esper.leyline import ConfigError, suggest

NETWORK_KINDS = ("growth", "flat")
FACTORISATIONS = ("conditional", "factored")
MAX_SIZE = 4096
"""Most units of any layer: a square layer of that size has 67 MB of weights."""
MAX_FLAT_OUTPUTS = 65_536
"""Most features, slots or blueprints of a flat network."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """What the network consists of."""

    kind: str = "growth"
    """"growth" = slots and blueprints as sets of any size; "flat" = one vector of a fixed size, the baseline.
    growth, because its policies run on hosts with slot counts that they never saw."""
    factorisation: str = "conditional"
    """How the heads depend on each other: "conditional" (slot given op, blueprint given slot, arguments given
    both) or, flat networks only, "factored" (independent heads); conditional: it can say what it means."""
    hidden_size: int = 128
    """Units of the encoder's and the critic's layers, in [1, 4096]; about twice the columns of the global
    features."""
    token_size: int = 64
    """Units that describe a slot or a blueprint, in [1, 4096], a multiple of `attention_heads`; growth only.
    About the width of a slot's features."""
    family_size: int = 8
    """Units that describe a blueprint's family, in [1, 4096]; there are a dozen families."""
    attention_layers: int = 1
    """Layers of attention among the slots, in [0, 4]; growth only. One lets every slot see every other."""
    attention_heads: int = 4
    """Heads of each of them, >= 1, a divisor of `token_size`; growth only. Four of 16 units: slots are
    few."""
    core_size: int = 128
    """Units of the memory, in [1, 4096]; as wide as what it is fed."""
    core_layers: int = 1
    """Layers of the memory, in [1, 3]; one, because an episode is tens of steps long."""
    memory_span: int = 1
    """Steps that a new memory holds on for, at most, in [1, 10000]: its cells start with spans spread up to
    this many (chrono initialisation: Tallec and Ollivier 2018). 1 = every forget gate starts at bias 1, which
    forgets within ten steps and learns more quickly what needs no longer memory."""
    is_recurrent: bool = True
    """Whether there is a memory; False replaces it by plain layers of the same width, for an ablation."""
    is_critic_separate: bool = True
    """Whether the critic has an encoder and a memory of its own; True, because the value loss is much larger
    than the surrogate and would move what the policy stands on."""
    is_critic_privileged: bool = False
    """Whether the critic sees the input "privileged", what growing hosts know in training only: their lead
    over the same host never grown. Off, because other environments have none; presets set it."""
    checkpoint_core: bool = False
    """Whether the memory's activations are recomputed in the backward pass, a sqrt(T)-th of them at a time;
    off, because at the default size they are small."""
    removal_bias: float = -3.0
    """Logit of CULL and SET_ALPHA in a new network, in [-10, 0], where every other operation has 0. Below 0 a
    new policy interferes less with what it has planted, and sees more often what a seed comes to; 0 = a new
    policy takes all legal operations alike."""
    full_target_bias: float = 3.0
    """Logit of the largest end of a ramp in a new network, in [0, 10], where every other has 0. A seed is
    only ever kept at full amplitude, so that a policy that takes all ends alike gets stuck with most of its
    seeds (docs/LOG.md)."""
    flat_features: int = 0
    """Width of "features", >= 1, for flat networks over a vector; 0 = the inputs of a growing host."""
    flat_slots: int = 0
    """Slots that a flat network has outputs for, >= 1 where its actions name slots; else 0."""
    flat_blueprints: int = 0
    """Blueprints that a flat network has outputs for, >= 1 where its actions name blueprints; else 0."""

    def __post_init__(self) -> None:
        """Check names, ranges and that nothing is set that the kind of network would ignore.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        for name, value, known in (
            ("kind", self.kind, NETWORK_KINDS),
            ("factorisation", self.factorisation, FACTORISATIONS),
        ):
            if value not in known:
                raise ConfigError(f"network.{name}={value!r}: {suggest(value, known)}")
        for name, number, low, high in (
            ("hidden_size", self.hidden_size, 1, MAX_SIZE),
            ("token_size", self.token_size, 1, MAX_SIZE),
            ("family_size", self.family_size, 1, MAX_SIZE),
            ("attention_layers", self.attention_layers, 0, 4),
            ("attention_heads", self.attention_heads, 1, MAX_SIZE),
            ("core_size", self.core_size, 1, MAX_SIZE),
            ("core_layers", self.core_layers, 1, 3),
            ("memory_span", self.memory_span, 1, 10_000),
            ("removal_bias", self.removal_bias, -10.0, 0.0),
            ("full_target_bias", self.full_target_bias, 0.0, 10.0),
            ("flat_features", self.flat_features, 0, MAX_FLAT_OUTPUTS),
            ("flat_slots", self.flat_slots, 0, MAX_FLAT_OUTPUTS),
            ("flat_blueprints", self.flat_blueprints, 0, MAX_FLAT_OUTPUTS),
        ):
            if not low <= number <= high:
                raise ConfigError(f"network.{name}={number}: must be in [{low}, {high}]")
        self._check_together()

    def _check_together(self) -> None:
        if self.token_size % self.attention_heads != 0:
            raise ConfigError(
                f"network.attention_heads={self.attention_heads}: must divide token_size={self.token_size}"
            )
        if self.is_critic_privileged and not self.is_critic_separate:
            raise ConfigError(
                "network.is_critic_privileged=True: needs a critic of its own, or the actor would see it "
                "too; set is_critic_separate=True"
            )
        if self.memory_span > 1 and not self.is_recurrent:
            raise ConfigError(
                f"network.memory_span={self.memory_span}: needs a memory; set is_recurrent=True or it 1"
            )
        if self.checkpoint_core and not self.is_recurrent:
            raise ConfigError(
                "network.checkpoint_core=True: needs a memory; set is_recurrent=True or it False"
            )
        if self.kind == "growth":
            given = {
                "flat_features": self.flat_features,
                "flat_slots": self.flat_slots,
                "flat_blueprints": self.flat_blueprints,
            }
            for name, number in given.items():
                if number != 0:
                    raise ConfigError(f"network.{name}={number}: kind 'growth' takes any size; leave it at 0")
            if self.factorisation != "conditional":
                raise ConfigError(
                    f"network.factorisation={self.factorisation!r}: needs kind='flat'; "
                    "kind 'growth' is always conditional"
                )
