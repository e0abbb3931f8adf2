"""A host run's own random stream: installed while it runs, put away when it stops.

So runs that take turns in one process never share a stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor


@final
class OwnRng:
    """The global streams of torch (CPU, and the device's where there is one) as seen by one host run."""

    def __init__(self, seed: int, device: torch.device) -> None:
        """Start the streams from a seed in [0, 2**63)."""
        self._device = device
        self._is_installed = False
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Start the streams anew from a seed in [0, 2**63); installed ones go on from there at once."""
        self._cpu = torch.Generator().manual_seed(seed).get_state()
        self._cuda: Tensor | None = None
        if self._device.type == "cuda":
            self._cuda = torch.Generator(self._device).manual_seed(seed).get_state()
        if self._is_installed:
            self._write()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Run the body on this stream; the caller's stream is put back afterwards."""
        outer_cpu = torch.get_rng_state()
        outer_cuda = torch.cuda.get_rng_state(self._device) if self._cuda is not None else None
        self._write()
        self._is_installed = True
        try:
            yield
        finally:
            self._read()
            self._is_installed = False
            torch.set_rng_state(outer_cpu)
            if outer_cuda is not None:
                torch.cuda.set_rng_state(outer_cuda, self._device)

    def state(self) -> dict[str, Tensor]:
        """Return the streams as byte tensors, as they stand now, installed or not."""
        if self._is_installed:
            self._read()
        tensors = {"cpu": self._cpu.clone()}
        if self._cuda is not None:
            tensors["cuda"] = self._cuda.clone()
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned; an installed stream goes on from there at once."""
        self._cpu = tensors["cpu"].clone()
        if self._cuda is not None:
            self._cuda = tensors["cuda"].clone()
        if self._is_installed:
            self._write()

    def _read(self) -> None:
        self._cpu = torch.get_rng_state()
        if self._cuda is not None:
            self._cuda = torch.cuda.get_rng_state(self._device)

    def _write(self) -> None:
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)
