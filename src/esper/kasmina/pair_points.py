"""Patterns of module paths, and of pairs of them: growth points that span two layers.

```
"fc1->fc2"                          the two layers by name
"stages.*.conv1->stages.*.conv2"    globs on both sides: layers that follow each other
```
Layers follow each other where the second is the next Linear or Conv2d that runs. Knows surveys and pairs;
what a growth point is otherwise stands in `kasmina.growth_points`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import TYPE_CHECKING

from esper.kasmina.blueprints.pair import PairPlan
from esper.kasmina.inputs import Inputs
from esper.kasmina.pairs import ARROW, find_pair, is_pair_layer
from esper.kasmina.survey import Survey
from esper.kasmina.tap import Arrangement
from esper.leyline import HostError, suggest

if TYPE_CHECKING:
    from torch import nn


def matches(path: str, pattern: str) -> bool:
    """Whether a module path fits a glob: `*`, `?` and `[...]` within a part, `**` for any number of parts."""
    return _match_parts(path.split("."), pattern.split("."))


def _match_parts(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return any(_match_parts(parts[start:], patterns[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], patterns[0]) and _match_parts(parts[1:], patterns[1:])


def is_pair_pattern(pattern: str) -> bool:
    """Whether a pattern names two layers."""
    return ARROW in pattern


def list_neighbours(host: nn.Module, survey: Survey) -> list[tuple[str, str]]:
    """Return the paths of layers of which the second is the next one that runs, in forward order."""
    layers = [path for path in survey.calls if is_pair_layer(host.get_submodule(path))]
    return list(pairwise(layers))


def resolve_pairs(host: nn.Module, survey: Survey, pattern: str) -> tuple[list[tuple[str, str]], bool]:
    """Return the paths that a pattern may mean, and whether it names two layers outright.

    Raises:
        HostError: If a side fits no module, or no layers that follow each other fit.
    """
    first, _, second = (part.strip() for part in pattern.partition(ARROW))
    known = [path for path, _ in host.named_modules() if path]
    if first in known and second in known:
        return [(first, second)], True
    for side in (first, second):
        if not any(matches(path, side) for path in known):
            raise HostError(f"at={pattern!r}: {side!r} fits no module of the host: {suggest(side, known)}")
    neighbours = list_neighbours(host, survey)
    found = [pair for pair in neighbours if matches(pair[0], first) and matches(pair[1], second)]
    if not found:
        choices = [ARROW.join(pair) for pair in neighbours]
        raise HostError(
            f"at={pattern!r} fits no two layers of which the second is the next Linear or Conv2d that runs: "
            f"{suggest(pattern, choices)}"
        )
    return found, False


def make_pair(
    host: nn.Module,
    inputs: Inputs,
    survey: Survey,
    paths: tuple[str, str],
    arrange: Callable[[str], Arrangement],
) -> PairPlan:
    """Return the plan of two layers.

    Args:
        host: Left as it is.
        inputs: A batch on its device.
        survey: Of this host and these inputs.
        paths: Of the two layers.
        arrange: Path -> axes of what the module there returns.

    Raises:
        HostError: If they cannot grow wider; says why.
    """
    name = ARROW.join(paths)
    for path in paths:
        if path not in survey.calls:
            raise HostError(f"{name!r} cannot grow wider: {path!r} is never called on the sample")
    if not is_pair_layer(host.get_submodule(paths[1])):
        kind = survey.calls[paths[1]].kind
        raise HostError(
            f"{name!r} cannot grow wider: {paths[1]!r} is a {kind}; both must be a Linear or a Conv2d "
            "of torch"
        )
    return find_pair(host, inputs, survey, paths, arrange(paths[1]))


def refuse_between(plans: Sequence[PairPlan], paths: Sequence[str]) -> None:
    """Refuse growth points on hidden units that a pair makes more of.

    Args:
        plans: Of all pairs.
        paths: Of all other growth points.

    Raises:
        HostError: Naming both.
    """
    for plan in plans:
        name = f"{plan.first.path}{ARROW}{plan.second.path}"
        for path in paths:
            if path in plan.inner_paths:
                raise HostError(
                    f"module {path!r} returns the units that {name!r} makes more of: a seed there could not "
                    "take the new ones; choose one of both"
                )
