"""Parts of a saved state, taken out with one refusal for all that is missing or malformed.

Whatever stands in a file whose hashes fit may still come from somebody else. Knows plain data and names only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from esper.leyline import EsperError, ForeignCheckpointError, JsonValue

if TYPE_CHECKING:
    from torch import Tensor


def take_part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def take_mapping(state: Mapping[str, JsonValue], name: str) -> dict[str, JsonValue]:
    """Return an object of a state.

    Raises:
        ForeignCheckpointError: If it is not there, or is something else.
    """
    value = state.get(name)
    if not isinstance(value, dict):
        raise ForeignCheckpointError(f"saved state lacks the object {name!r}")
    return value


@contextmanager
def naming_malformed(what: str) -> Iterator[None]:
    """Turn whatever restoring a malformed state raises into one refusal; errors of ours pass as they are.

    Raises:
        ForeignCheckpointError: Beginning with `what`.
    """
    try:
        yield
    except EsperError:
        raise
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise ForeignCheckpointError(f"{what}: {type(error).__name__}: {error}") from error
