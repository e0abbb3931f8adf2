"""A registry of blueprints is an object: a frozen one with the built-ins, and copies that users extend."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, final

from esper.kasmina.blueprints.flat import FLAT_BLUEPRINTS
from esper.kasmina.blueprints.image import IMAGE_BLUEPRINTS
from esper.kasmina.blueprints.sequence import SEQUENCE_BLUEPRINTS
from esper.kasmina.blueprints.shared import SHARED_BLUEPRINTS
from esper.kasmina.blueprints.spec import BlueprintSpec, SlotSpec, fits_any_slot
from esper.kasmina.blueprints.width import WIDTH_BLUEPRINTS
from esper.kasmina.price_book import PriceBook
from esper.leyline import ConfigError, Layout, UnknownNameError

if TYPE_CHECKING:
    from torch import nn


@final
class BlueprintRegistry:
    """Blueprints by id, in registration order.

    Example:
        registry = builtin_registry().extended()
        registry.add(my_blueprint)
    """

    def __init__(self, blueprints: Iterable[BlueprintSpec] = ()) -> None:
        """Start with some blueprints.

        Raises:
            ConfigError: If an id occurs twice.
        """
        self._specs: dict[str, BlueprintSpec] = {}
        self._is_frozen = False
        self.prices = PriceBook()
        """What its blueprints, and the hosts that take them, were counted at."""
        for blueprint in blueprints:
            self.add(blueprint)

    @property
    def ids(self) -> tuple[str, ...]:
        """Every id, in registration order."""
        return tuple(self._specs)

    def add(self, blueprint: BlueprintSpec) -> None:
        """Register one blueprint.

        Raises:
            ConfigError: If its id is taken or names a family of others, its family is the id of a blueprint
                of another family, or the registry is frozen.
        """
        if self._is_frozen:
            raise ConfigError(
                f"blueprint {blueprint.id!r}: this registry is frozen; register in registry.extended()"
            )
        if blueprint.id in self._specs:
            raise ConfigError(f"blueprint {blueprint.id!r} is registered already; choose another id")
        if any(other.family == blueprint.id for other in self._specs.values()):
            members = ", ".join(self.members(blueprint.id))
            raise ConfigError(
                f"blueprint {blueprint.id!r}: that name stands for {members}; choose another id"
            )
        namesake = self._specs.get(blueprint.family)
        if namesake is not None and namesake.family != blueprint.family:
            raise ConfigError(
                f"blueprint {blueprint.id!r}: its family {blueprint.family!r} is the id of a blueprint of "
                f"the family {namesake.family!r}; choose another family"
            )
        self._specs[blueprint.id] = blueprint

    def register(
        self,
        blueprint_id: str,
        *,
        family: str,
        layouts: Iterable[Layout],
        count_params: Callable[[SlotSpec], int],
        version: int = 1,
        accepts: Callable[[SlotSpec], bool] = fits_any_slot,
    ) -> Callable[[Callable[[SlotSpec], nn.Module]], Callable[[SlotSpec], nn.Module]]:
        """Return a decorator that registers a builder `(SlotSpec) -> nn.Module` and leaves it as it is.

        Args:
            blueprint_id: Unique here.
            family: One of `leyline.BLUEPRINT_FAMILIES` or your own.
            layouts: Where it fits; at least one.
            count_params: Exact number of trainable parameters in a slot.
            version: Raised when the meaning of the id changes.
            accepts: Whether it can learn in a slot of a fitting layout.

        Raises:
            ConfigError: As `add`.
        """

        def decorate(build: Callable[[SlotSpec], nn.Module]) -> Callable[[SlotSpec], nn.Module]:
            self.add(
                BlueprintSpec(
                    id=blueprint_id,
                    family=family,
                    layouts=frozenset(layouts),
                    build=build,
                    count_params=count_params,
                    version=version,
                    accepts=accepts,
                )
            )
            return build

        return decorate

    def freeze(self) -> BlueprintRegistry:
        """Refuse further registration; returns itself."""
        self._is_frozen = True
        return self

    def extended(self) -> BlueprintRegistry:
        """Return a copy that can be added to."""
        return BlueprintRegistry(self._specs.values())

    def get(self, blueprint_id: str) -> BlueprintSpec:
        """Return one blueprint.

        Raises:
            UnknownNameError: If there is none of that id; names the nearest one.
        """
        if blueprint_id not in self._specs:
            raise UnknownNameError("blueprint", blueprint_id, self._specs)
        return self._specs[blueprint_id]

    def members(self, name: str) -> tuple[str, ...]:
        """Return the ids that a name stands for: itself, or every member of the family it names.

        Where a name is both ("mlp" beside "mlp_small"), it is the one blueprint.

        Raises:
            UnknownNameError: If it is neither an id nor a family here.
        """
        if name in self._specs:
            return (name,)
        of_family = tuple(spec.id for spec in self._specs.values() if spec.family == name)
        if not of_family:
            families = {spec.family for spec in self._specs.values()}
            raise UnknownNameError("blueprint", name, {*self._specs, *families})
        return of_family

    def fitting(self, spec: SlotSpec) -> tuple[str, ...]:
        """Return the ids that fit a slot."""
        return tuple(blueprint.id for blueprint in self._specs.values() if blueprint.fits(spec))


def builtin_registry() -> BlueprintRegistry:
    """Return a fresh frozen registry with every built-in blueprint.

    Example:
        >>> "mlp" in builtin_registry().ids
        True
    """
    return BlueprintRegistry(
        (
            *SHARED_BLUEPRINTS,
            *IMAGE_BLUEPRINTS,
            *FLAT_BLUEPRINTS,
            *SEQUENCE_BLUEPRINTS,
            *WIDTH_BLUEPRINTS,
        )
    ).freeze()
