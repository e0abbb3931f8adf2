"""Every fleet offers the same interface."""

from __future__ import annotations

from esper.tolaria import Fleet, ProcessFleet, SerialFleet


def test_the_serial_fleet_has_every_method_of_the_protocol() -> None:
    wanted = {name for name in vars(Fleet) if not name.startswith("_")}
    assert wanted <= {name for name in vars(SerialFleet) if not name.startswith("_")}


def test_the_process_fleet_has_every_method_of_the_protocol() -> None:
    wanted = {name for name in vars(Fleet) if not name.startswith("_")}
    assert wanted <= {name for name in vars(ProcessFleet) if not name.startswith("_")}
