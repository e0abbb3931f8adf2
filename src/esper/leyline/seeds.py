"""Random streams are derived by path, never carried: culling one seed cannot shift another's stream."""

from __future__ import annotations

import hashlib
import json


def derive_seed(run_seed: int, *path: str | int) -> int:
    """Derive a 63-bit seed from the run seed and a path such as ("data", instance, episode, epoch).

    SHA-256 over the JSON text of the path: no zero padding and no word splitting, so that two different
    paths never collide by construction. The path holds the stream's name and instance ids, never a rank,
    a place in a fleet, or a process attempt.

    Args:
        run_seed: The seed of the whole run.
        path: Stream name followed by ids.

    Returns:
        An int in [0, 2**63).

    Example:
        >>> derive_seed(0, "data", 3) == derive_seed(0, "data", 3)
        True
        >>> derive_seed(0, "data", 3) == derive_seed(0, "data", 4)
        False
    """
    text = json.dumps([run_seed, *path], separators=(",", ":"), ensure_ascii=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
