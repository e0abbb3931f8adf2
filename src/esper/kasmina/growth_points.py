"""Where somebody's model can grow: what they asked for by path patterns, or what a survey proposes and why.

```
declared    injection_points() of the model              wins when nothing is asked for
asked for   globs over module paths, part by part        "stages.*" = its children, "**.mlp" = at any depth
spanning    "fc1->fc2": two layers that can take more units between them (see kasmina.pairs)
proposed    the last block of every size of feature, then blocks in between, evenly
```
A module is fit when it is called exactly once, returns a floating tensor (or one can be selected) whose axes
are known, and what it returns is not the model's own output. Knows surveys; attaches nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, final

from torch import nn

from esper.kasmina.hosts.protocol import HostProtocol, InjectionPoint
from esper.kasmina.inputs import Inputs
from esper.kasmina.pair_points import (
    is_pair_pattern,
    list_neighbours,
    make_pair,
    matches,
    refuse_between,
    resolve_pairs,
)
from esper.kasmina.pairs import ARROW
from esper.kasmina.survey import NESTED, Feature, ModuleCall, Survey, find_arrangements, survey_host
from esper.kasmina.tap import Arrangement
from esper.leyline import HostError, UnknownNameError, suggest

MAX_PROPOSED = 4
"""Slots proposed where none was asked for: each costs a counterfactual while a seed lives in it."""
_Wish = TypeVar("_Wish", int | str, str)
_CONTAINERS = frozenset({"Sequential", "ModuleList", "ModuleDict"})


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthPoint:
    """A growth point and how it was come by."""

    point: InjectionPoint
    shape: tuple[int, ...]
    """Of the feature in the sample, axes as in the model."""
    reason: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PointWishes:
    """What a user says about growth points.

    Example:
        PointWishes(at=("stages.*",), layout={"stages.*": "nhwc"})
    """

    at: tuple[str, ...] = ()
    """Globs over module paths; () = the model's declaration, or a proposal."""
    layout: str | Mapping[str, str] | None = None
    """Order of axes, for all or by glob: "nchw", "nhwc", "ncl", "nld", "lnd", "flat"; None = found out."""
    select: int | str | Mapping[str, int | str] | None = None
    """Where in an output that is no tensor the feature is, for all or by glob."""
    has_width: bool = False
    """Whether a proposal names pairs of layers, too: they are shown one by one on the sample, which takes a
    few passes each."""

    def __post_init__(self) -> None:
        """Check names.

        Raises:
            UnknownNameError: If a layout is unknown.
        """
        known = [item.value for item in Arrangement]
        given = self.layout.values() if isinstance(self.layout, Mapping) else (self.layout,)
        for name in given:
            if name is not None and name not in known:
                raise UnknownNameError("layout", str(name), known)


def find_growth_points(host: nn.Module, inputs: Inputs, wishes: PointWishes) -> tuple[GrowthPoint, ...]:
    """Return where a host can grow, in forward order.

    Args:
        host: Any module; left as it is.
        inputs: A batch on the host's device.
        wishes: What was asked for.

    Raises:
        HostError: If nothing that was asked for is fit, or nothing can be proposed; names the nearest choice.
    """
    survey = survey_host(host, inputs)
    if wishes.at:
        return _resolve(_Asking(host, inputs, survey, wishes))
    if isinstance(host, HostProtocol) and host.injection_points():
        return tuple(_declare(survey, point) for point in host.injection_points())
    points = _propose(survey, wishes)
    if not wishes.has_width:
        return points
    pairs = _propose_pairs(_Asking(host, inputs, survey, wishes), points)
    return _order(survey, (*points, *pairs))


# ---------------------------------------------------------------------- asked for


@dataclass(frozen=True, slots=True)
class _Asking:
    """A question about one host."""

    host: nn.Module
    inputs: Inputs
    survey: Survey
    wishes: PointWishes


def _resolve(asking: _Asking) -> tuple[GrowthPoint, ...]:
    survey, wishes = asking.survey, asking.wishes
    found = _resolve_modules(survey, wishes)
    spanning: dict[str, GrowthPoint] = {}
    for pattern in filter(is_pair_pattern, wishes.at):
        spanning |= _resolve_pattern(asking, pattern)
    plans = [item.point.pair for item in spanning.values() if item.point.pair is not None]
    refuse_between(plans, list(found))
    return _order(survey, (*spanning.values(), *found.values()))


def _order(survey: Survey, points: Iterable[GrowthPoint]) -> tuple[GrowthPoint, ...]:
    """Return points in forward order; new units of a layer add to it before a seed on its output sees it."""
    order = {path: call.order for path, call in survey.calls.items()}
    return tuple(sorted(points, key=lambda item: (order[item.point.path], item.point.pair is None)))


def _resolve_pattern(asking: _Asking, pattern: str) -> dict[str, GrowthPoint]:
    candidates, is_exact = resolve_pairs(asking.host, asking.survey, pattern)
    found, refusals = {}, []
    for paths in candidates:
        try:
            point = _span(asking, paths, f"asked for by {pattern!r}")
        except HostError as error:
            if is_exact:
                raise
            refusals.append(str(error))
        else:
            found[point.point.slot_id] = point
    if not found:
        raise HostError(f"at={pattern!r} fits {len(candidates)} pairs and none can grow: {refusals[0]}")
    return found


def _span(asking: _Asking, paths: tuple[str, str], reason: str) -> GrowthPoint:
    """Return the growth point of two layers: the second one's output, with the first one's input at hand."""
    survey, wishes = asking.survey, asking.wishes

    def arrange(path: str) -> Arrangement:
        call = survey.calls[path]
        wanted = _wish(wishes.layout, ARROW.join(paths)) or _wish(wishes.layout, path)
        return _arrange(survey, call, _select(call, None), wanted)

    plan = make_pair(asking.host, asking.inputs, survey, paths, arrange)
    arrangement, feature = arrange(paths[1]), survey.calls[paths[1]].features[0]
    return GrowthPoint(
        point=InjectionPoint(
            slot_id=ARROW.join(paths),
            path=paths[1],
            layout=arrangement.layout,
            num_channels=feature.shape[arrangement.channel_dim],
            arrangement=arrangement,
            pair=plan,
        ),
        shape=feature.shape,
        reason=reason,
    )


def _propose_pairs(asking: _Asking, points: Sequence[GrowthPoint]) -> list[GrowthPoint]:
    """Return at most `MAX_PROPOSED` pairs, evenly spread over those that leave the other proposals alone."""
    taken = {item.point.path for item in points}
    found = []
    for paths in list_neighbours(asking.host, asking.survey):
        try:
            point = _span(asking, paths, "")
        except HostError:
            continue
        if point.point.pair is not None and not taken & point.point.pair.inner_paths:
            count = point.point.pair.first.num_out
            found.append(replace(point, reason=f"proposed: two layers with {count} units between them"))
    return _spread(found, min(MAX_PROPOSED, len(found)))


def _resolve_modules(survey: Survey, wishes: PointWishes) -> dict[str, GrowthPoint]:
    known = [*survey.calls, *survey.uncalled]
    found: dict[str, GrowthPoint] = {}
    for pattern in (pattern for pattern in wishes.at if not is_pair_pattern(pattern)):
        paths = [path for path in known if matches(path, pattern)]
        if not paths:
            raise HostError(f"at={pattern!r} fits no module of the host: {suggest(pattern, known)}")
        is_exact = paths == [pattern]
        refusals = []
        for path in paths:
            try:
                found[path] = _fit(survey, path, wishes, f"asked for by {pattern!r}")
            except HostError as error:
                refusals.append(str(error))
                if is_exact:
                    raise
        if not any(path in found for path in paths):
            raise HostError(f"at={pattern!r} fits {len(paths)} modules and none can grow: {refusals[0]}")
    return found


def _fit(survey: Survey, path: str, wishes: PointWishes, reason: str) -> GrowthPoint:
    call = survey.calls.get(path)
    if call is None:
        raise HostError(
            f"module {path!r} is never called in a forward pass of the sample (a container only holds its "
            f"children): {_nearest(survey, path)}"
        )
    if call.num_calls != 1:
        raise HostError(
            f"module {path!r} is called {call.num_calls} times in one forward pass, a seed there would run "
            f"{call.num_calls} times: {_nearest(survey, path)}"
        )
    feature = _select(call, _wish(wishes.select, path))
    if survey.returns_one_tensor and survey.is_last(call, feature):
        raise HostError(
            f"module {path!r} returns what the model itself returns; nothing after it could use a seed: "
            f"{_nearest(survey, path)}"
        )
    arrangement = _arrange(survey, call, feature, _wish(wishes.layout, path))
    return GrowthPoint(
        point=InjectionPoint(
            slot_id=path,
            path=path,
            layout=arrangement.layout,
            num_channels=feature.shape[arrangement.channel_dim],
            arrangement=arrangement,
            select=feature.select,
        ),
        shape=feature.shape,
        reason=reason,
    )


def _select(call: ModuleCall, select: int | str | None) -> Feature:
    if call.output_kind == NESTED:
        raise HostError(
            f"module {call.path!r} returns nested tensors in eval mode, which seeds cannot read: build "
            "torch's encoder with enable_nested_tensor=False"
        )
    for feature in call.features:
        if feature.select == select and feature.is_floating:
            return feature
    places = ", ".join(f"select={feature.select!r} {list(feature.shape)}" for feature in call.features)
    if select is None and call.features and call.features[0].select is None:
        raise HostError(f"module {call.path!r} returns whole numbers, seeds need a floating tensor")
    if not places:
        raise HostError(f"module {call.path!r} returns {call.output_kind} without a floating tensor")
    what = "not a tensor" if select is None else f"which has no floating tensor at select={select!r}"
    raise HostError(f"module {call.path!r} returns {call.output_kind}, {what}: choose one of {places}")


def _arrange(survey: Survey, call: ModuleCall, feature: Feature, wanted: str | None) -> Arrangement:
    if wanted is not None:
        arrangement = Arrangement(wanted)
        if arrangement.rank == len(feature.shape):
            return arrangement
        raise HostError(
            f"module {call.path!r} returns {list(feature.shape)}, but layout={wanted!r} has "
            f"{arrangement.rank} axes"
        )
    found = find_arrangements(call, feature, survey.num_items)
    if len(found) == 1:
        return found[0]
    if not found:
        raise HostError(
            f"module {call.path!r} returns {list(feature.shape)}: seeds know [B, C], [B, T, C] and "
            f"[B, C, H, W] in any order of axes, one of which has the {survey.num_items} items of the sample"
        )
    names = " or ".join(f"layout={item.value!r}" for item in found)
    raise HostError(f"module {call.path!r} returns {list(feature.shape)}, which may be {names}: say which")


def _wish(wish: _Wish | Mapping[str, _Wish] | None, path: str) -> _Wish | None:
    if not isinstance(wish, Mapping):
        return wish
    return next((value for pattern, value in wish.items() if matches(path, pattern)), None)


def _nearest(survey: Survey, path: str) -> str:
    """Return the fit module that is nearest: inside it, else around it, else of a like name."""
    fit = [call.path for call in survey.calls.values() if _is_fit(survey, call)]
    inside = [other for other in fit if other.startswith(f"{path}.")]
    around = [other for other in fit if path.startswith(f"{other}.")]
    if inside or around:
        nearest = min(inside, key=len) if inside else max(around, key=len)
        return f"choose {nearest!r}, which is called once"
    return suggest(path, fit) if fit else "no module of this model is called once and returns one tensor"


# ---------------------------------------------------------------------- declared


def _declare(survey: Survey, point: InjectionPoint) -> GrowthPoint:
    call = survey.calls.get(point.path)
    feature = None if call is None else next((f for f in call.features if f.select == point.select), None)
    return GrowthPoint(
        point=point,
        shape=() if feature is None else feature.shape,
        reason="declared by the model's injection_points()",
    )


# ---------------------------------------------------------------------- proposed


def _propose(survey: Survey, wishes: PointWishes) -> tuple[GrowthPoint, ...]:
    for kind, candidates in (("block", _blocks(survey)), ("layer", _layers(survey))):
        points = _fit_all(survey, candidates, wishes)
        if points:
            return _choose(points, kind)
    raise HostError(
        "no growth point can be proposed: no module is called once and returns a floating tensor with known "
        "axes that is not the model's own output; name some by at=[...], with layout= or select= where needed"
    )


def _fit_all(survey: Survey, candidates: Iterable[ModuleCall], wishes: PointWishes) -> list[GrowthPoint]:
    points: dict[int, GrowthPoint] = {}
    for call in candidates:
        selected = wishes
        if wishes.select is None and call.features and call.features[0].select is not None:
            selected = replace(wishes, select=call.features[0].select)
        try:
            point = _fit(survey, call.path, selected, "")
        except HostError:
            continue
        feature = next(f for f in call.features if f.select == point.point.select)
        # A stage and its last block return the same tensor; the stage, which returns later, speaks for both.
        if not survey.is_last(call, feature):
            points[feature.identity] = point
    order = {path: call.order for path, call in survey.calls.items()}
    return sorted(points.values(), key=lambda point: order[point.point.path])


def _is_fit(survey: Survey, call: ModuleCall) -> bool:
    if call.num_calls != 1 or not call.features or call.features[0].select is not None:
        return False
    feature = call.features[0]
    is_inside = feature.is_floating and not survey.is_last(call, feature)
    return is_inside and bool(find_arrangements(call, feature, survey.num_items))


def _blocks(survey: Survey) -> list[ModuleCall]:
    """Modules with layers inside that stand in a row of several, or that hold such a row."""
    composite = [call for call in survey.calls.values() if call.is_composite]
    return [call for call in composite if call.parent_kind in _CONTAINERS] or composite


def _layers(survey: Survey) -> list[ModuleCall]:
    """For each layer with parameters, the last module that runs before the next one: its activation, say."""
    ends: list[ModuleCall] = []
    for call in survey.calls.values():
        if not call.is_composite and (call.has_parameters or not ends):
            ends.append(call)
        elif not call.is_composite:
            ends[-1] = call
    return ends


def _choose(points: Sequence[GrowthPoint], kind: str) -> tuple[GrowthPoint, ...]:
    """Return at most `MAX_PROPOSED`: the last of every shape, the latest shapes first, then between them."""
    groups: dict[tuple[int, ...], list[GrowthPoint]] = {}
    for point in points:
        groups.setdefault(point.shape, []).append(point)
    chosen: dict[str, str] = {}
    for shape, members in reversed(groups.items()):
        if len(chosen) < MAX_PROPOSED:
            among = f"last of {len(members)} {kind}s" if len(members) > 1 else f"the {kind}"
            chosen[members[-1].point.path] = f"{among} with features {list(shape[1:])}"
    for shape, members in reversed(groups.items()):
        spare = MAX_PROPOSED - len(chosen)
        others = members[:-1]
        for member in _spread(others, min(spare, len(others))):
            chosen[member.point.path] = f"one of {len(members)} {kind}s with features {list(shape[1:])}"
    return tuple(
        replace(point, reason=f"proposed: {chosen[point.point.path]}")
        for point in points
        if point.point.path in chosen
    )


def _spread(members: Sequence[GrowthPoint], count: int) -> list[GrowthPoint]:
    """Return `count` members, evenly spaced."""
    return [members[(2 * place + 1) * len(members) // (2 * count)] for place in range(count)]
