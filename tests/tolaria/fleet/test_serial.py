"""The serial fleet is the oracle: taking turns changes nothing."""

from __future__ import annotations

import pytest

from esper.leyline import Decision
from esper.tolaria import HostRun, SerialFleet
from tolaria.small_run import assert_same, decide, make_config, make_parts, make_task, tensors_of


def build(instance: int) -> HostRun:
    return HostRun(make_task(), make_config(), make_parts(), run_seed=5, instance=instance)


def test_hosts_that_take_turns_live_as_they_live_alone() -> None:
    fleet = SerialFleet(build, [3, 5])
    alone = {instance: build(instance) for instance in (3, 5)}
    for epoch in range(4):
        fleet.apply([decide(epoch), decide(epoch)])
        fleet.train_epoch()
        for run in alone.values():
            run.apply(decide(epoch))
            run.train_epoch()
    for place, instance in enumerate((3, 5)):
        assert_same(tensors_of(fleet.runs[place]), tensors_of(alone[instance]))


def test_reset_touches_only_the_masked_places() -> None:
    fleet = SerialFleet(build, [0, 1])
    fleet.train_epoch()
    kept = fleet.runs[1]
    fleet.reset([True, False], [7, 1])
    assert fleet.runs[1] is kept
    assert (fleet.runs[0].instance, fleet.runs[0].epoch) == (7, 0)


def test_state_goes_into_another_fleet() -> None:
    fleet, other = SerialFleet(build, [2]), SerialFleet(build, [2])
    fleet.train_epoch()
    other.restore(fleet.state())
    assert_same(tensors_of(other.runs[0]), tensors_of(fleet.runs[0]))


def test_a_finished_host_waits_while_others_go_on() -> None:
    fleet = SerialFleet(build, [0, 1])
    fleet.runs[0].is_terminated = True
    fleet.apply([decide(0), decide(0)])
    outcomes, verdicts = fleet.train_epoch()
    assert outcomes[0] is None
    assert outcomes[1] is not None
    assert len(verdicts) == 2
    assert len(fleet.observe()) == fleet.num_hosts == 2


def test_finish_reads_every_test_split_and_close_frees_the_hosts() -> None:
    fleet = SerialFleet(build, [0])
    fleet.apply([Decision()])
    assert fleet.finish()[0].num_items == 64
    fleet.close()
    fleet.close()
    assert fleet.num_hosts == 0


@pytest.mark.parametrize("instances", [[], [1, 1]])
def test_instances_must_be_there_and_differ(instances: list[int]) -> None:
    with pytest.raises(ValueError, match="need at least one"):
        SerialFleet(build, instances)
