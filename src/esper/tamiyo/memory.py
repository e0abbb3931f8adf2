"""Reading a policy's saved memory back: plain data in, typed values out, or one clear refusal."""

from __future__ import annotations

from collections.abc import Mapping

from esper.leyline import ForeignCheckpointError


def read_keys(policy: str, state: Mapping[str, object], keys: tuple[str, ...]) -> None:
    """Refuse a memory whose fields are not exactly these.

    Args:
        policy: Name of the policy, for the message.
        state: What its `state` once returned.
        keys: The fields that it must have.

    Raises:
        ForeignCheckpointError: If a field is missing or unknown.
    """
    if set(state) != set(keys):
        raise ForeignCheckpointError(
            f"saved memory of policy {policy!r}: fields {', '.join(sorted(set(state) ^ set(keys)))} "
            f"are missing or unknown; it needs exactly {', '.join(keys)}"
        )


def read_int(state: Mapping[str, object], key: str) -> int:
    """Return a whole number.

    Raises:
        ForeignCheckpointError: If it is none.
    """
    value = state[key]
    if isinstance(value, bool) or not isinstance(value, int):
        raise _malformed(key, "a whole number", value)
    return value


def read_optional_int(state: Mapping[str, object], key: str) -> int | None:
    """Return a whole number or None.

    Raises:
        ForeignCheckpointError: If it is neither.
    """
    return None if state[key] is None else read_int(state, key)


def read_bool(state: Mapping[str, object], key: str) -> bool:
    """Return a truth value.

    Raises:
        ForeignCheckpointError: If it is none.
    """
    value = state[key]
    if not isinstance(value, bool):
        raise _malformed(key, "true or false", value)
    return value


def read_optional_text(state: Mapping[str, object], key: str) -> str | None:
    """Return a text or None.

    Raises:
        ForeignCheckpointError: If it is neither.
    """
    value = state[key]
    if value is not None and not isinstance(value, str):
        raise _malformed(key, "a text or nothing", value)
    return value


def read_list(state: Mapping[str, object], key: str) -> list[object]:
    """Return a list; a tuple that was not yet written as JSON counts as one.

    Raises:
        ForeignCheckpointError: If it is none.
    """
    value = state[key]
    if not isinstance(value, list | tuple):
        raise _malformed(key, "a list", value)
    return list(value)


def read_ints(state: Mapping[str, object], key: str) -> tuple[int, ...]:
    """Return whole numbers.

    Raises:
        ForeignCheckpointError: If it is no list of such.
    """
    return tuple(read_int({key: item}, key) for item in read_list(state, key))


def read_numbers(state: Mapping[str, object], key: str) -> dict[str, float]:
    """Return a table name -> number.

    Raises:
        ForeignCheckpointError: If it is none.
    """
    value = state[key]
    if not isinstance(value, Mapping):
        raise _malformed(key, "a table of numbers", value)
    numbers: dict[str, float] = {}
    for name, number in value.items():
        if not isinstance(name, str) or isinstance(number, bool) or not isinstance(number, int | float):
            raise _malformed(key, "a table of numbers", value)
        numbers[name] = float(number)
    return numbers


def read_table(state: Mapping[str, object], key: str) -> dict[str, object]:
    """Return a nested memory.

    Raises:
        ForeignCheckpointError: If it is none.
    """
    value = state[key]
    if not isinstance(value, Mapping):
        raise _malformed(key, "a table", value)
    return {str(name): item for name, item in value.items()}


def _malformed(key: str, expected: str, value: object) -> ForeignCheckpointError:
    return ForeignCheckpointError(f"saved policy memory, field {key!r}: expected {expected}, got {value!r}")
