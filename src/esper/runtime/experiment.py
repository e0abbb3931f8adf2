"""One experiment as one nested configuration: what is run, on what, by whom, and where it is written.

Every field is a TOML key and a dotted flag; every part's settings live beside the part. Only data here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import final

from esper.data import TextConfig
from esper.leyline import ConfigError, suggest
from esper.nissa import TelemetryConfig
from esper.runtime.ranks import DistributedConfig
from esper.simic import RewardConfig, TrainingConfig
from esper.tamiyo import GreedyConfig, HeuristicConfig, NetworkConfig
from esper.tolaria import FleetConfig, HostRunConfig

HOST_KINDS = ("cnn", "mlp", "transformer")
TRAINABLE_NAMES = ("ppo",)
"""What `ExperimentConfig.policy` may be beside the names of tamiyo: a policy that is trained, not run."""
PARALLEL_MODES = ("none", "host")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskConfig:
    """Which task, and which rows of its data."""

    name: str = "digits"
    """Task preset: digits, fashion_mnist, emoji9, cifar10, cifar10_deep, austen, tinystories, text or
    synthetic."""
    data_dir: str | None = None
    """Folder that holds the data sets; None = ESPER_DATA, the user's cache, then system folders."""
    num_train_rows: int | None = None
    """Training rows (windows of a text) to use, >= 10; None = the task's own choice (fashion_mnist: a fixed
    10,000)."""
    is_augmented: bool | None = None
    """Random shift and flip on the device; None = the task's own choice: on where a mirrored picture is
    the same thing."""
    text: TextConfig = field(default_factory=TextConfig)
    """How a text becomes tokens; for austen, tinystories and text."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If the row count is too small.
        """
        if self.num_train_rows is not None and self.num_train_rows < 10:
            raise ConfigError(f"task.num_train_rows={self.num_train_rows}: must be >= 10")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The host network; input shape and outputs come from the task."""

    kind: str = "cnn"
    """"cnn" for images, "mlp" for flat inputs, "transformer" for tokens."""
    base_channels: int = 8
    """cnn: channels of the first block, >= 1; small on purpose, growth adds what is missing."""
    num_blocks: int = 3
    """cnn: blocks, >= 2; transformer: blocks, >= 1; one growth point after each."""
    kernel_size: int = 3
    """cnn: pixels along a kernel's side, odd, >= 1; 3 is the smallest that sees its neighbours."""
    num_pools: int = 3
    """cnn: how many first blocks end in a 2x2 max-pool, >= 0; one per block: each halves height and
    width."""
    norm: str = "batch"
    """cnn: "batch", "group" or "none"."""
    hidden: tuple[int, ...] = (32, 32)
    """mlp: units of the hidden layers, each >= 1; one growth point after each, so that two give a
    choice."""
    width: int = 64
    """transformer: size of the stream between blocks, >= 2; small on purpose, growth adds what is missing."""
    num_heads: int = 4
    """transformer: attention heads, >= 1, a divisor of `width`; 4 heads of 16 at the default width."""
    mlp_ratio: float = 4.0
    """transformer: hidden units of a block's MLP per unit of `width`, > 0; 4 is the usual choice."""
    positions: str = "learned"
    """transformer: "learned" or "sinusoidal"; learned, because a short context costs few parameters."""
    is_tied: bool = False
    """transformer: whether the head uses the token embedding's weights; off, because a small vocabulary has
    little to save."""
    dropout: float = 0.0
    """Dropout rate in [0, 1); 0, because small hosts underfit."""

    def __post_init__(self) -> None:
        """Check the kind; the host checks the rest.

        Raises:
            ConfigError: If the kind is unknown.
        """
        if self.kind not in HOST_KINDS:
            raise ConfigError(f"model.kind={self.kind!r}: {suggest(self.kind, HOST_KINDS)}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyConfig:
    """What hosts that are drawn by seed differ in; an empty list keeps the experiment's own value."""

    base_channels: tuple[int, ...] = ()
    """cnn: widths to draw from, each >= 1; a wider host has less to gain from growth."""
    num_blocks: tuple[int, ...] = ()
    """cnn and transformer: depths to draw from, each >= 2; one slot per block."""
    hidden_widths: tuple[int, ...] = ()
    """mlp: widths of all hidden layers to draw from; transformer: widths of the stream; each >= 1."""
    learning_rate_factors: tuple[float, ...] = ()
    """Multiples of the peak learning rate to draw from, each > 0; none = 1 for every host."""
    num_train_rows: tuple[int, ...] = ()
    """Amounts of training data, in rows, to draw from, each >= 10; none = the task's own for every
    host."""
    max_added_params_fractions: tuple[float, ...] = ()
    """Parameter budgets to draw from, each a fraction of the host's parameters, >= 0, that seeds may add;
    0 = nothing that has parameters, 1 = as many again. A policy sees what is left of it."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If an entry is out of range.
        """
        for name, low in (
            ("base_channels", 1),
            ("num_blocks", 2),
            ("hidden_widths", 1),
            ("num_train_rows", 10),
        ):
            if any(entry < low for entry in getattr(self, name)):
                raise ConfigError(f"family.{name}={getattr(self, name)}: each must be >= {low}")
        if not all(0.0 < factor < math.inf for factor in self.learning_rate_factors):
            raise ConfigError(
                f"family.learning_rate_factors={self.learning_rate_factors}: each must be finite and > 0"
            )
        if not all(0.0 <= budget < math.inf for budget in self.max_added_params_fractions):
            raise ConfigError(
                f"family.max_added_params_fractions={self.max_added_params_fractions}: each must be finite "
                "and >= 0"
            )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EnvsConfig:
    """The hosts that a policy is trained on."""

    num_envs: int = 8
    """Hosts that are grown side by side, >= 1; each gives one episode per round."""
    first_seed: int = 10_000
    """Seed of the first training host, >= 0; far from those that tables and tuning use."""
    num_hosts: int = 64
    """Different training hosts, >= 1; enough that none is met twice in a short training, few enough that the
    lives of all, never grown, are trained once and kept."""
    start_fractions: tuple[float, ...] = (0.0,)
    """Parts of the horizon after which episodes begin, drawn evenly, each in [0, 1); from the beginning only,
    because early decisions matter most and late starts help where hosts are large."""
    narrow_rounds: int = 0
    """First episodes of each environment, >= 0, that are given to the narrower half of the training hosts
    alone; afterwards all are met. Imitation counts its own. By default a round is one episode. 0 = all hosts
    from the beginning."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a value is out of range.
        """
        for name, low in (("num_envs", 1), ("first_seed", 0), ("num_hosts", 1), ("narrow_rounds", 0)):
            if getattr(self, name) < low:
                raise ConfigError(f"envs.{name}={getattr(self, name)}: must be >= {low}")
        if not self.start_fractions or not all(0.0 <= part < 1.0 for part in self.start_fractions):
            raise ConfigError(
                f"envs.start_fractions={self.start_fractions}: need at least one, each in [0, 1)"
            )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """When a run is saved, and when it saves and leaves."""

    every_epochs: int = 5
    """Intervals between checkpoints, >= 0; 0 = only when the run ends, is stopped, or SIGUSR1 asks. Five lose
    little."""
    keep: int = 2
    """Checkpoints kept, >= 2: one to fall back on when the newest is damaged."""
    is_asynchronous: bool = True
    """Write the checkpoints that are due beside training instead of waiting for the disk; the last one before
    the end is waited for always. On, because training then only stands still while its state is copied."""
    max_hours: float | None = None
    """Hours after which an attempt saves and leaves with code 143, to be resumed, > 0; leave room for one
    interval's measuring and one checkpoint. None = no limit, because only a queue has one."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a count is too small, or the time is not a positive number.
        """
        if self.max_hours is not None and not 0.0 < self.max_hours < math.inf:
            raise ConfigError(f"checkpoint.max_hours={self.max_hours}: must be finite and > 0")
        if self.every_epochs < 0:
            raise ConfigError(f"checkpoint.every_epochs={self.every_epochs}: must be >= 0")
        if self.keep < 2:
            raise ConfigError(f"checkpoint.keep={self.keep}: must be >= 2")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentConfig:
    """The whole of one run."""

    seed: int = 0
    """Run seed, >= 0; every random stream is derived from it. 0 to 9 are kept for published tables."""
    policy: str = "heuristic"
    """Who decides: auto, heuristic, greedy, random, schedule, never, cycle, pretrained, a trained policy's
    folder, schedule:FILE or your own package.module:Class; ppo trains a policy on many hosts. The heuristic,
    because it needs nothing learned."""
    blueprints: tuple[str, ...] = ()
    """Blueprint ids or families on offer, and your own as package.module:name; empty = every built-in that
    fits."""
    slots: tuple[str, ...] = ()
    """Slot ids to use; empty = every growth point of the host, so that where to grow is the policy's to
    find."""
    num_threads: int = 0
    """CPU threads of torch, >= 0; 0 = leave torch's own choice. One thread each is right where several
    runs share a machine."""
    parallel: str = "none"
    """What the processes of a launcher share: "host" = one host, each trains on its rows of every batch; or
    "none". Off, because small hosts train faster alone; ppo shares its policy without being told."""
    task: TaskConfig = field(default_factory=TaskConfig)
    """Which task and data."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The host network."""
    family: FamilyConfig = field(default_factory=FamilyConfig)
    """What hosts drawn by seed differ in, where a policy is trained or evaluated on many."""
    host: HostRunConfig = field(default_factory=HostRunConfig)
    """How the host is trained, grown and watched."""
    heuristic: HeuristicConfig = field(default_factory=HeuristicConfig)
    """Rules of the heuristic policy, by which greedy, too, cares for seeds that live."""
    greedy: GreedyConfig = field(default_factory=GreedyConfig)
    """What the greedy policy weighs. If `host.measuring.score_every` is 0, its hosts are scored every fifth
    interval, because without scores it only waits."""
    envs: EnvsConfig = field(default_factory=EnvsConfig)
    """The hosts that a policy is trained on."""
    fleet: FleetConfig = field(default_factory=FleetConfig)
    """How those hosts are run side by side."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """The network of a policy in training."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """What a policy in training is paid for, and the prices by which policies are compared."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How a policy is trained."""
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    """How processes that train a policy together wait for each other; one process reads none of it."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When the run is saved, and when it saves and leaves."""
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    """What is shown and written."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If the seed or the thread count is negative, or the way to share is unknown.
        """
        if self.parallel not in PARALLEL_MODES:
            raise ConfigError(f"parallel={self.parallel!r}: {suggest(self.parallel, PARALLEL_MODES)}")
        if self.parallel == "host" and self.policy in TRAINABLE_NAMES:
            raise ConfigError(
                f"parallel='host' with policy={self.policy!r}: a policy is trained on many small hosts, and "
                "its processes share the policy; leave parallel out"
            )
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed}: must be >= 0")
        if self.num_threads < 0:
            raise ConfigError(f"num_threads={self.num_threads}: must be >= 0")
