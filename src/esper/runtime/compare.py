"""`esper.compare`: does growth pay for this model? The same training with and without it, paired by seed.

```
grow          grows under the policy
never         the same model, the same epochs, nothing grows        what every difference is taken from
never_flops   the same, for as many epochs as the grown one's FLOPs pay for
static_final  the architecture that grew, from scratch, the same epochs
wider         a model of your own that is larger from the start      where `make_wider` is given
```
Every arm of a seed starts from the same weights of the host and sees its data in the same order. FLOPs are
all that training spent, measuring and culled seeds included.
"""

from __future__ import annotations

import html
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import final

import torch
from torch import nn

from esper.kasmina import Inputs, build_seeded
from esper.leyline import ConfigError, JsonValue, SeedStage, UnknownNameError, suggest
from esper.runtime.api import grow
from esper.runtime.fit import Named, fit
from esper.runtime.growable import Growable
from esper.runtime.metric_names import name_metric
from esper.simic import PairedInterval, estimate_paired_interval

ARMS = ("never", "grow", "never_flops", "static_final", "wider")
"""In the order in which they run: the third and fourth need what the second came to."""
_GROW_SETTINGS = ("at", "blueprints", "budget", "layout", "policy", "select")
_NOT_SPENT = "validation"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRun:
    """One training of one arm."""

    arm: str
    seed: int
    metric: float
    """Of the test loader, or of validation where there is none; as a reader expects it."""
    num_params: int
    """Trainable parameters at the end."""
    flops: int
    epochs: int
    num_seeds: int
    """Seeds that were kept."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRow:
    """One arm over all seeds."""

    arm: str
    metric: float
    """Mean over seeds."""
    gain: PairedInterval | None
    """Improvement over "never", paired by seed, positive = better; None for "never" itself."""
    num_params: float
    flops: float
    num_seeds: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What `compare` found; printable, and as HTML."""

    metric: str
    is_higher_better: bool
    is_tested: bool
    """Whether the metric is of the test loader; if not it is of the one that seeds were chosen by."""
    rows: tuple[ArmRow, ...]
    runs: tuple[ArmRun, ...]

    def __str__(self) -> str:
        """Return the table as text."""
        lines = [
            f"{self.metric} of the {'test' if self.is_tested else 'validation'} loader, "
            f"{'higher' if self.is_higher_better else 'lower'} is better; gain over never, paired, 95 %"
        ]
        cells = [_head(self.metric), *map(_cells, self.rows)]
        widths = [max(len(line[place]) for line in cells) for place in range(len(cells[0]))]
        for line in cells:
            padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            lines.append("  ".join(padded).rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        lines = []
        for tag, row in (("th", _head(self.metric)), *(("td", _cells(row)) for row in self.rows)):
            lines.append("<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>")
        return f"<table>{''.join(lines)}</table>"

    def to_dict(self) -> dict[str, JsonValue]:
        """Return plain data: every run, and every row with its interval."""
        return {
            "metric": self.metric,
            "is_tested": self.is_tested,
            "runs": [asdict(run) for run in self.runs],
            "rows": [
                {
                    "arm": row.arm,
                    "metric": row.metric,
                    "gain": None if row.gain is None else row.gain.to_json(),
                }
                for row in self.rows
            ],
        }


def compare(  # noqa: PLR0913 - each is a fact about somebody else's training
    make_model: Callable[[], nn.Module],
    train: Iterable[object],
    validation: Iterable[object],
    *,
    sample: Inputs,
    optimizer: Callable[[Named], torch.optim.Optimizer],
    test: Iterable[object] | None = None,
    arms: Sequence[str] = ("never", "grow", "never_flops", "static_final"),
    make_wider: Callable[[], nn.Module] | None = None,
    seeds: int = 3,
    epochs: int = 10,
    metric: str = "loss",
    higher_is_better: bool | None = None,
    grow_settings: Mapping[str, object] | None = None,
    **fit_settings: object,
) -> Comparison:
    """Train a model with and without growth, several times, and set the results side by side.

    Args:
        make_model: Makes a fresh model; its weights are drawn from torch's stream, which is seeded around it.
        train: Loader, as for `fit`; a shuffling one draws the same order in every arm of a seed.
        validation: Loader by which seeds are judged.
        sample: One batch as the model takes it.
        optimizer: Makes the optimiser of named parameters.
        test: Loader that is read once per training, at its end; None = validation stands in, and says so.
        arms: Any of `ARMS`; "never" is always there.
        make_wider: Makes the larger model of the arm "wider".
        seeds: Trainings per arm, >= 1; below three there is little to say.
        epochs: Passes per training.
        metric: "loss", "accuracy", or one of `metrics=`.
        higher_is_better: Its direction; None = as its name says.
        grow_settings: Arguments of `grow`: at, blueprints, policy, budget, ...
        fit_settings: Arguments of `fit`: loss, metrics, scheduler, amp, ...

    Raises:
        ConfigError: If an arm is unknown, "wider" has no model, or a setting does not fit.
        HostError: If the model cannot grow.

    Example:
        >>> def make_model(): return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
        ...
        >>> batches = [(torch.zeros(8, 6), torch.zeros(8, dtype=torch.long))]
        >>> result = compare(make_model, batches, batches, sample=torch.zeros(2, 6), arms=("grow",), seeds=1,
        ...                  epochs=2, loss=nn.CrossEntropyLoss(), grow_settings={"at": ["1"]},
        ...                  optimizer=lambda named: torch.optim.SGD(named, lr=0.1))
        >>> [row.arm for row in result.rows]
        ['never', 'grow']
    """
    wanted = [arm for arm in ARMS if arm in (*arms, "never")]
    for arm in arms:
        if arm not in ARMS:
            raise UnknownNameError("arm", arm, ARMS)
    for name, make in (("make_model", make_model), ("make_wider", make_wider)):
        if isinstance(make, nn.Module) or not (make is None or callable(make)):
            raise ConfigError(
                f"{name} is a {type(make).__name__}: expected a function that makes a new model at each call"
            )
    if "wider" in wanted and make_wider is None:
        raise ConfigError("arm 'wider' needs make_wider=, a function that makes the larger model")
    if {"never_flops", "static_final"} & set(wanted) and "grow" not in wanted:
        raise ConfigError("arms 'never_flops' and 'static_final' follow what 'grow' came to: add it")
    if seeds < 1:
        raise ConfigError(f"seeds={seeds}: must be >= 1")
    for name in grow_settings or {}:
        if name not in _GROW_SETTINGS:
            raise ConfigError(f"grow_settings has {name!r}: {suggest(name, _GROW_SETTINGS)}")
    study = _Study(
        make_model=make_model,
        make_wider=make_wider,
        loaders=(train, validation, test),
        sample=sample,
        optimizer=optimizer,
        epochs=epochs,
        metric=metric,
        higher_is_better=higher_is_better,
        grow_settings=dict(grow_settings or {}),
        fit_settings={"progress": False, **fit_settings},
    )
    runs = [run for seed in range(seeds) for run in study.run_seed(seed, wanted)]
    spec = name_metric(metric, higher_is_better)
    return Comparison(
        metric=metric,
        is_higher_better=spec.is_higher_better,
        is_tested=test is not None,
        rows=tuple(_summarize(runs, arm, spec.is_higher_better) for arm in wanted),
        runs=tuple(runs),
    )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Study:
    """What all trainings share."""

    make_model: Callable[[], nn.Module]
    make_wider: Callable[[], nn.Module] | None
    loaders: tuple[Iterable[object], Iterable[object], Iterable[object] | None]
    sample: Inputs
    optimizer: Callable[[Named], torch.optim.Optimizer]
    epochs: int
    metric: str
    higher_is_better: bool | None
    grow_settings: dict[str, object]
    fit_settings: dict[str, object]

    def run_seed(self, seed: int, arms: Sequence[str]) -> list[ArmRun]:
        """Train every arm once."""
        runs: dict[str, ArmRun] = {}
        grew: Growable | None = None
        for arm in arms:
            make = self.make_wider if arm == "wider" and self.make_wider is not None else self.make_model
            grown = self._grow(make, seed, "never" if arm != "grow" else None)
            epochs = self.epochs
            if arm == "never_flops":
                epochs = max(1, round(self.epochs * runs["grow"].flops / runs["never"].flops))
            if arm == "static_final" and grew is not None:
                _plant(grown, grew)
            runs[arm] = self._train(arm, seed, grown, epochs)
            grew = grown if arm == "grow" else grew
        return list(runs.values())

    def _grow(self, make: Callable[[], nn.Module], seed: int, policy: str | None) -> Growable:
        settings = self.grow_settings | ({} if policy is None else {"policy": policy})
        return grow(build_seeded(make, seed), sample=self.sample, **{"seed": seed, **settings})  # type: ignore[arg-type]

    def _train(self, arm: str, seed: int, grown: Growable, epochs: int) -> ArmRun:
        train, validation, test = self.loaders
        # The order of a shuffling loader follows from torch's stream: the same for every arm of a seed.
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        result = fit(
            grown,
            train,
            validation,
            optimizer=self.optimizer,
            epochs=epochs,
            metric=self.metric,
            higher_is_better=self.higher_is_better,
            **self.fit_settings,  # type: ignore[arg-type]
        )
        scores = result.score(validation if test is None else test)
        spent = sum(flops for kind, flops in result.flops.items() if kind != _NOT_SPENT)
        kept = sum(slot.state.stage is SeedStage.FOSSILIZED for slot in grown.model.each_slot())
        return ArmRun(
            arm=arm,
            seed=seed,
            metric=scores[self.metric],
            num_params=grown.model.num_params,
            flops=spent,
            epochs=epochs,
            num_seeds=kept,
        )


def _plant(grown: Growable, final: Growable) -> None:
    """Give an untrained model the seeds that another one ended with, as parts of it from the first batch."""
    for slot in final.model.each_slot():
        if slot.state.stage is SeedStage.FOSSILIZED:
            handle = grown[slot.slot_id]
            handle.germinate(str(slot.state.blueprint), blend=slot.state.blend.value)
            handle.blend(steps=0)
            handle.fossilize()


def _summarize(runs: Sequence[ArmRun], arm: str, is_higher_better: bool) -> ArmRow:
    mine = [run for run in runs if run.arm == arm]
    base = {run.seed: run.metric for run in runs if run.arm == "never"}
    sign = 1.0 if is_higher_better else -1.0
    gains = [sign * (run.metric - base[run.seed]) for run in mine]
    return ArmRow(
        arm=arm,
        metric=statistics.fmean(run.metric for run in mine),
        gain=None if arm == "never" else estimate_paired_interval(gains),
        num_params=statistics.fmean(run.num_params for run in mine),
        flops=statistics.fmean(run.flops for run in mine),
        num_seeds=statistics.fmean(run.num_seeds for run in mine),
    )


def _head(metric: str) -> tuple[str, ...]:
    return ("arm", metric, "gain", "interval", "parameters", "GFLOPs", "seeds")


def _cells(row: ArmRow) -> tuple[str, ...]:
    gain, interval = "-", "-"
    if row.gain is not None:
        gain = f"{row.gain.mean:+.4f}"
        if row.gain.low is not None and row.gain.high is not None:
            interval = f"[{row.gain.low:+.4f}, {row.gain.high:+.4f}]"
    return (
        row.arm,
        f"{row.metric:.4f}",
        gain,
        interval,
        f"{row.num_params:,.0f}",
        f"{row.flops / 1e9:.4g}",
        f"{row.num_seeds:.1f}",
    )
