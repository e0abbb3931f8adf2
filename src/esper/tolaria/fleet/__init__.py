"""Many host runs behind one interface; which implementation runs them is a measurement, not a belief."""

from esper.tolaria.fleet.protocol import Fleet
from esper.tolaria.fleet.serial import SerialFleet

__all__ = ["Fleet", "SerialFleet"]
