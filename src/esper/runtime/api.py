"""The public front: `esper.grow` and what goes with it, for models and loops of one's own.

```
grow          a model of your own gets slots           -> Growable
propose       where it could grow, and why
Controller    growth in your own training loop
fit           a training loop of ours around it
blueprint     a seed of your own
```
Only turns what a person writes into what the rooms below take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from esper.kasmina import (
    BlueprintSpec,
    GateConfig,
    GrowthPoint,
    Inputs,
    LifecycleConfig,
    MorphogeneticModel,
    PointWishes,
    QualityGates,
    find_growth_points,
)
from esper.leyline import ConfigError, HostError, TamiyoPolicy
from esper.runtime.growable import Growable, GrowthPlan
from esper.runtime.loop_policy import check_loop_policy
from esper.runtime.own_blueprints import extend_registry
from esper.tolaria import Budget


def propose(
    model: nn.Module,
    sample: Inputs,
    *,
    layout: str | Mapping[str, str] | None = None,
    select: int | str | Mapping[str, int | str] | None = None,
    width: bool = False,
) -> tuple[GrowthPoint, ...]:
    """Return where a model could grow, in forward order, each with the reason.

    Args:
        model: Any module; left as it is.
        sample: One batch on its device, as for `grow`.
        layout: As for `grow`.
        select: As for `grow`.
        width: Whether to name pairs of layers, too, that can take more units between them ("fc1->fc2").

    Raises:
        HostError: If nothing can be proposed; says what to do.

    Example:
        >>> net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
        >>> [place.point.path for place in propose(net, torch.zeros(2, 6))]
        ['1', '3']
    """
    _check_model(model, sample)
    return find_growth_points(model, sample, PointWishes(layout=layout, select=select, has_width=width))


def grow(  # noqa: PLR0913 - each is a fact about somebody else's model
    model: nn.Module,
    *,
    sample: Inputs,
    at: Sequence[str] | str | None = None,
    blueprints: Sequence[str | BlueprintSpec] | str | None = None,
    policy: TamiyoPolicy | str = "heuristic",
    budget: Budget | None = None,
    layout: str | Mapping[str, str] | None = None,
    select: int | str | Mapping[str, int | str] | None = None,
    seed: int = 0,
) -> Growable:
    """Give a model slots in which seeds can grow; the model itself is not changed.

    Call it before `torch.compile`, and before wrapping. The optimiser may be made before or after.

    Args:
        model: Any module, on its device.
        sample: One batch as the model takes it: a tensor, a tuple of positional arguments, or a mapping of
            arguments by name; two items are enough, on the model's device.
        at: Globs over module paths ("stages.*" = its children, "**.mlp" = at any depth); None = where the
            model declares it (`injection_points()`), else where `propose` says. "fc1->fc2" is the pair of two
            layers, Linear-Linear or Conv2d-Conv2d, between which seeds of the family "width" add units.
        blueprints: Ids, families ("conv") or own ones (`esper.blueprint`); None = all that fit.
        policy: Who decides when a controller asks: a name, a trained policy's folder, or an object.
        budget: How far the model may grow; None = without limit.
        layout: Order of axes where it cannot be told: "nchw", "nhwc", "ncl", "nld", "lnd", "flat"; for all,
            or by glob.
        select: Where in a tuple or mapping that a module returns the feature is; for all, or by glob.
        seed: Of the weights of new seeds.

    Returns:
        The model with its slots, as a module that is called as the model was.

    Raises:
        HostError: If nothing can grow there; names the nearest valid choice.
        ConfigError: If a name is unknown or a value out of its range.

    Example:
        >>> net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
        >>> grown = grow(net, sample=torch.zeros(2, 6), at=["1"])
        >>> grown.slot_ids, grown.host is net
        (('1',), True)
    """
    _check_model(model, sample)
    _check_plan(policy, budget, seed)
    patterns = _read_globs(at)
    registry, names = extend_registry((blueprints,) if isinstance(blueprints, str) else blueprints)
    points = find_growth_points(model, sample, PointWishes(at=patterns, layout=layout, select=select))
    grown = MorphogeneticModel(
        model,
        sample,
        registry=registry,
        gates=QualityGates(GateConfig(), keep_threshold=0.0),
        lifecycle=LifecycleConfig(incubation="residual"),
        points=[point.point for point in points],
    )
    plan = GrowthPlan(policy=policy, blueprints=names, budget=budget or Budget(), seed=seed)
    return Growable(grown, points, sample, plan)


def _check_plan(policy: object, budget: object, seed: object) -> None:
    check_loop_policy(policy)
    if budget is not None and not isinstance(budget, Budget):
        raise ConfigError(
            f"budget is a {type(budget).__name__}: expected esper.Budget(params=1.3, flops=1.5, seeds=4)"
        )
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"seed={seed!r}: expected a whole number >= 0")


def _read_globs(at: object) -> tuple[str, ...]:
    found = (at,) if isinstance(at, str) else () if at is None else at
    if not isinstance(found, tuple | list) or not all(isinstance(glob, str) for glob in found):
        raise ConfigError(f"at={at!r}: expected globs over module paths, e.g. at=['stages.*']")
    return tuple(str(glob) for glob in found)


def _check_model(model: object, sample: Inputs) -> None:
    if not isinstance(model, nn.Module):
        raise HostError(f"model is a {type(model).__name__}: expected a torch.nn.Module")
    if isinstance(model, Growable):
        raise HostError("model can grow already: use it as it is, or grow model.host")
    if isinstance(sample, Tensor | Mapping | tuple | list):
        return
    raise ConfigError(
        f"sample is a {type(sample).__name__}: expected one batch as {type(model).__name__} takes it, a "
        "tensor, a tuple of arguments, or a mapping of arguments by name, e.g. next(iter(loader))[0][:2]"
    )
