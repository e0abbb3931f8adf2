"""Claims about construction: settings reach their objects, streams come from (seed, instance) alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from esper.kasmina import SeedSlot
from esper.leyline import Decision, HostError, UnknownNameError, derive_seed
from esper.tolaria import HostRun, MeasuringConfig
from esper.tolaria.parts import build_space, build_workbench
from kasmina.test_cost import DecidingHost

from .small_run import (
    BATCHES_PER_EPOCH,
    decide,
    drive,
    germinate,
    host_tensors_of,
    make_config,
    make_parts,
    make_run,
    make_task,
)


def test_a_workbench_has_the_sizes_that_its_settings_ask_for() -> None:
    config = replace(make_config(), measuring=MeasuringConfig(contribution_items=20, calibration_items=30))
    bench = build_workbench(make_task(), config, make_parts(), run_seed=1, instance=0)
    assert bench.batches.num_batches == BATCHES_PER_EPOCH
    assert [len(part) for part in bench.gate_items] == [20, 20]
    assert len(bench.calibration) == 30
    assert len(bench.validation[1]) == len(bench.test[1]) == 64
    assert bench.space.slot_ids == ("block1", "block2", "block3")


def test_instances_differ_and_equal_pairs_are_equal() -> None:
    hosts = [
        host_tensors_of(HostRun(make_task(), make_config(), make_parts(), run_seed=1, instance=instance))
        for instance in (0, 0, 1)
    ]
    name = "block1.0.weight"
    assert torch.equal(hosts[0][name], hosts[1][name])
    assert not torch.equal(hosts[0][name], hosts[2][name])
    assert derive_seed(1, "host", 0) != derive_seed(1, "torch", 0)


def test_building_a_run_leaves_the_global_stream_alone() -> None:
    before = torch.get_rng_state()
    make_run()
    assert torch.equal(before, torch.get_rng_state())


def test_blueprints_on_offer_are_ids_or_families_that_fit() -> None:
    parts = replace(make_parts(), blueprints=("conv", "depthwise"), slots=("block2",))
    bench = build_workbench(make_task(), make_config(), parts, run_seed=1, instance=0)
    assert bench.space.slot_ids == ("block2",)
    assert "depthwise" in bench.space.blueprint_ids
    assert "conv_light" in bench.space.blueprint_ids
    assert "attention" not in bench.space.blueprint_ids


def test_an_unknown_blueprint_on_offer_is_refused() -> None:
    model = make_run().bench.model
    with pytest.raises(UnknownNameError, match="conv_light"):
        build_space(model, replace(make_parts(), blueprints=("conv_lite",)))


def test_the_optimiser_follows_births_and_deaths() -> None:
    run = make_run()
    assert not list(run.bench.optimizer.seed_slots)
    run.apply(Decision(action=germinate("block1")))
    assert list(run.bench.optimizer.seed_slots) == ["block1"]
    assert run.bench.model.slot("block1").state.has_optimizer_entries
    drive(run, 6, ())
    run.finish()
    assert not list(run.bench.optimizer.seed_slots)


def test_rebuilt_groups_hold_the_seeds_that_live_now() -> None:
    run = make_run()
    drive(run, 3)
    slots, names = run.bench.optimizer.seed_slots, set(run.bench.optimizer.names())
    run.bench.rebuild_optimizer_groups()
    assert run.bench.optimizer.seed_slots == slots
    assert set(run.bench.optimizer.names()) == names


def test_a_seed_on_its_way_out_is_not_trained_any_more() -> None:
    run = make_run()
    drive(run, 5)
    run.apply(decide(5))
    slot = run.bench.model.slot("block2")
    assert slot.state.is_cull_pending
    assert slot.seed is not None
    before = _copy_weights(slot)
    run.train_epoch(lambda: run.progress.batch == 2)
    assert all(torch.equal(a, b) for a, b in zip(before, _copy_weights(slot), strict=True))


def _copy_weights(slot: SeedSlot) -> list[torch.Tensor]:
    assert slot.seed is not None
    return [parameter.detach().clone() for parameter in slot.seed.parameters()]


def test_seed_parameters_are_listed_by_slot() -> None:
    run = make_run()
    run.apply(Decision(action=germinate("block1")))
    by_slot = run.bench.seed_parameters()
    assert set(by_slot) == {"block1", "block2", "block3"}
    assert by_slot["block1"]
    assert not by_slot["block2"]


def test_a_host_that_looks_at_values_is_refused_when_the_run_is_built() -> None:
    with pytest.raises(HostError, match=r"DecidingHost: its forward pass fails on the meta device"):
        make_run(parts=replace(make_parts(), build_host=lambda: DecidingHost(in_channels=1)))
