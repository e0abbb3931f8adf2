"""Blueprints survive channels-last features that need no gradient (kasmina/blueprints/shared.py, image.py).

A group norm's backward pass over such data kills the process on the CPU (torch 2.13), hence a process.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

EVERY_MAP_BLUEPRINT = """
import torch
from esper.kasmina import SlotSpec, builtin_registry
from esper.leyline import Layout

registry = builtin_registry()
spec = SlotSpec(slot_id="here", layout=Layout.MAP_2D, shape=(8, 5, 5), num_channels=8)
h = torch.randn(4, *spec.shape).to(memory_format=torch.channels_last)
assert not h.requires_grad
learning = [name for name in registry.fitting(spec) if name != "noop"]
for name in learning:
    branch = registry.get(name).build(spec)
    (branch(h) - 1.0).square().sum().backward()
print(len(learning))
"""


@pytest.mark.slow
def test_no_blueprint_crashes_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EVERY_MAP_BLUEPRINT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "7"
