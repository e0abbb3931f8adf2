"""Many host runs behind one interface; which implementation runs them is a measurement, not a belief."""

from esper.tolaria.fleet.config import FleetConfig
from esper.tolaria.fleet.fused import FusedFleet, FusedShare
from esper.tolaria.fleet.process import FleetWorkerError, ProcessFleet
from esper.tolaria.fleet.protocol import Fleet
from esper.tolaria.fleet.serial import SerialFleet
from esper.tolaria.fleet.worker import BuildRun, MakeBuilder

__all__ = [
    "BuildRun",
    "Fleet",
    "FleetConfig",
    "FleetWorkerError",
    "FusedFleet",
    "FusedShare",
    "MakeBuilder",
    "ProcessFleet",
    "SerialFleet",
]
