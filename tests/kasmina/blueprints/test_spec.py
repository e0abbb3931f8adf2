from __future__ import annotations

import torch

from esper.kasmina import builtin_registry
from esper.leyline import Layout
from kasmina.growing import make_spec


def test_blueprint_fits_its_layouts_only() -> None:
    conv = builtin_registry().get("conv_light")
    assert conv.fits(make_spec())
    assert not conv.fits(make_spec((8,), Layout.FLAT))


def test_slot_is_float32_on_the_cpu_unless_it_says_otherwise() -> None:
    spec = make_spec()
    assert (spec.dtype, spec.device) == (torch.float32, torch.device("cpu"))
