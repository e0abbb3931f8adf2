"""The serial fleet is the oracle: taking turns changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from esper.leyline import (
    GLOBAL_FEATURES,
    SLOT_FEATURES,
    Decision,
    Observation,
    SeedStage,
    feature_columns,
)
from esper.tamiyo import EncodedBatch, encode_many
from esper.tolaria import Fleet, HostRun, SerialFleet
from tolaria.small_run import (
    assert_same,
    decide,
    germinate,
    make_config,
    make_parts,
    make_task,
    tensors_of,
)


def build(instance: int) -> HostRun:
    return HostRun(make_task(), make_config(), make_parts(), run_seed=5, instance=instance)


def build_narrow(instance: int) -> HostRun:
    """A host of two growth points in every odd instance, of three in every even one."""
    slots = ("block1", "block3") if instance % 2 else ()
    parts = replace(make_parts(), slots=slots)
    return HostRun(make_task(), make_config(), parts, run_seed=5, instance=instance)


def make_fleet(*instances: int) -> SerialFleet[EncodedBatch]:
    return SerialFleet(build, instances, encode=encode_many)


def test_hosts_that_take_turns_live_as_they_live_alone() -> None:
    fleet = make_fleet(3, 5)
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
    fleet = make_fleet(0, 1)
    fleet.train_epoch()
    kept = fleet.runs[1]
    fleet.reset([True, False], [7, 1])
    assert fleet.runs[1] is kept
    assert (fleet.runs[0].instance, fleet.runs[0].epoch) == (7, 0)


def test_state_goes_into_another_fleet() -> None:
    fleet, other = make_fleet(2), make_fleet(2)
    fleet.train_epoch()
    other.restore(fleet.state())
    assert_same(tensors_of(other.runs[0]), tensors_of(fleet.runs[0]))


def test_a_finished_host_waits_while_others_go_on() -> None:
    fleet = make_fleet(0, 1)
    fleet.runs[0].is_terminated = True
    fleet.apply([decide(0), decide(0)])
    outcomes, verdicts = fleet.train_epoch()
    assert outcomes[0] is None
    assert outcomes[1] is not None
    assert len(verdicts) == 2
    assert len(fleet.observations()) == fleet.num_hosts == 2
    assert fleet.is_finished == (True, False)


def test_hosts_are_looked_at_once_until_something_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, looks = make_fleet(2, 4), []
    look = HostRun.observe

    def observe(run: HostRun) -> Observation:
        looks.append(run.instance)
        return look(run)

    monkeypatch.setattr(HostRun, "observe", observe)
    saved = fleet.state()
    for act in (
        lambda: fleet.apply([Decision(), Decision()]),
        fleet.train_epoch,
        lambda: fleet.conclude([True, False]),
        lambda: fleet.restore(saved),
        lambda: fleet.reset([True, False], [6, 4]),
        fleet.finish,
        lambda: fleet.runs,
    ):
        act()
        looks.clear()
        seen = fleet.observations()
        fleet.observe()
        assert fleet.observations() is seen
        assert looks == [run_.instance for run_ in fleet._runs]


def test_columns_are_those_of_the_feature_table_one_row_per_place() -> None:
    fleet = make_fleet(3, 5)
    fleet.apply([Decision(), Decision(action=germinate("block2"))])
    fleet.train_epoch()
    columns = fleet.observe()
    depth = feature_columns(SLOT_FEATURES).index("depth")
    training = feature_columns(SLOT_FEATURES).index(f"stage/{list(SeedStage).index(SeedStage.TRAINING)}")
    metric = feature_columns(GLOBAL_FEATURES).index("metric")
    assert columns.global_features.shape == (2, len(feature_columns(GLOBAL_FEATURES)))
    assert columns.slots.shape == (2, 3, len(feature_columns(SLOT_FEATURES)))
    assert torch.allclose(columns.slots[:, :, depth], torch.tensor([1 / 3, 2 / 3, 1.0]))
    assert columns.slots[:, :, training].tolist() == [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    shown = torch.tensor([observation.signals.metric for observation in fleet.observations()])
    assert torch.allclose(columns.global_features[:, metric], torch.log1p(shown))
    assert bool(torch.isfinite(columns.slots).all())


def test_hosts_of_different_sizes_are_padded_and_masked() -> None:
    fleet = SerialFleet(build_narrow, [0, 1], encode=encode_many)
    columns = fleet.observe()
    assert columns.slot_mask.tolist() == [[True, True, True], [True, True, False]]
    assert not bool(columns.slots[1, 2].any())


def test_the_encoder_gets_the_observations_and_its_answer_is_passed_on() -> None:
    def count_slots(observations: Sequence[Observation]) -> list[int]:
        return [len(observation.slots) for observation in observations]

    fleet: Fleet[list[int]] = SerialFleet(build_narrow, [1, 0], encode=count_slots)
    assert fleet.observe() == [2, 3]
    assert [len(observation.slots) for observation in fleet.observations()] == [2, 3]


def test_finish_reads_every_test_split_and_close_frees_the_hosts() -> None:
    fleet = make_fleet(0)
    fleet.apply([Decision()])
    assert fleet.finish()[0].num_items == 64
    fleet.close()
    fleet.close()
    assert fleet.num_hosts == 0


@pytest.mark.parametrize("instances", [[], [1, 1]])
def test_instances_must_be_there_and_differ(instances: list[int]) -> None:
    with pytest.raises(ValueError, match="need at least one"):
        make_fleet(*instances)
