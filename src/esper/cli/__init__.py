"""The doors: one module per command, which parses, calls one function of the runtime, and prints.

Holds no default value and no algorithm. `main` and `output` import no torch, so that help is instant.
"""

__all__ = []
