"""The fleet is chosen by measurement: what is measured, what a tenth is worth, what is written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from esper.leyline import ConfigError, Decision, Observation
from esper.runtime import fleet_choice
from esper.runtime.families import HostFactory, WorkerHosts
from esper.runtime.fleet_choice import FleetChoice, FleetTiming, choose_fleet, pick_kind
from esper.runtime.fleets import build_fleet
from esper.runtime.ranks.lone import LoneRank
from esper.runtime.training import EnvBuilder, assemble_training
from esper.tolaria import Fleet, FleetConfig
from runtime.learning import tiny_training


def time(kind: str, seconds: float | None) -> FleetTiming:
    return FleetTiming(kind=kind, seconds=seconds, note="" if seconds else "not measured: why")


@pytest.mark.parametrize(
    ("seconds", "kind"),
    [
        ((1.0, 0.95, None, None), "serial"),
        ((1.0, 0.5, None, None), "fused"),
        ((1.0, 0.5, 0.48, 0.47), "fused"),
        ((1.0, 0.5, 0.6, 0.25), "fused_process"),
        ((1.0, 1.3, 0.55, 0.6), "process"),
    ],
)
def test_a_less_simple_fleet_must_be_a_tenth_faster(seconds: tuple[float | None, ...], kind: str) -> None:
    kinds = ("serial", "fused", "process", "fused_process")
    assert pick_kind([time(*pair) for pair in zip(kinds, seconds, strict=True)]) == kind


def test_the_table_names_every_candidate_with_its_ratio_or_why_it_has_none() -> None:
    choice = FleetChoice(
        kind="fused",
        timings=(time("serial", 0.004), time("fused", 0.001), time("process", None)),
        num_hosts=8,
    )
    assert choice.describe() == (
        "fleet: fused, by the time per host and interval over 8 hosts:",
        "  serial: 4.00 ms, 1.00 x serial",
        "  fused: 1.00 ms, 4.00 x serial",
        "  process: not measured: why",
    )


def test_one_host_is_serial_and_little_work_starts_no_workers() -> None:
    factory = HostFactory(tiny_training())
    one = choose_fleet(FleetConfig(kind="auto"), factory, (10_000,))
    assert one.kind == "serial"
    assert [timing.kind for timing in one.timings if timing.seconds is not None] == ["serial"]
    two = choose_fleet(FleetConfig(kind="auto"), factory, (10_000, 10_001))
    assert [timing.kind for timing in two.timings] == ["serial", "fused", "process", "fused_process"]
    assert all(timing.seconds is None for timing in two.timings[2:])


def test_hosts_are_measured_with_seeds_of_many_kinds_in_all_their_slots(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planted: list[tuple[str | None, str | None]] = []

    def build_spied(
        config: FleetConfig,
        factory: HostFactory,
        instances: Sequence[int],
        encode: Callable[[Sequence[Observation]], tuple[Observation, ...]],
    ) -> Fleet[tuple[Observation, ...]]:
        fleet = build_fleet(config, factory, instances, encode)
        apply = fleet.apply

        def spy(decisions: Sequence[Decision]) -> object:
            planted.extend((d.action.slot, d.action.blueprint) for d in decisions if d.action.slot)
            results = apply(decisions)
            assert not any(result.is_refused for result in results)
            return results

        monkeypatch.setattr(type(fleet), "apply", lambda self, decisions: spy(decisions))
        return fleet

    config = tiny_training()
    factory = HostFactory(config)
    space = factory.build(10_000).observe().space
    num_kinds = sum(cost.num_params > 0 for by_id in space.descriptors.values() for cost in by_id.values())
    monkeypatch.setattr(fleet_choice, "build_fleet", build_spied)
    fleet_choice._measure(FleetConfig(kind="serial"), factory, range(10_000, 10_000 + num_kinds))
    assert len(planted) == num_kinds
    assert {slot for slot, _ in planted} == set(space.slot_ids)
    assert len(set(planted)) >= num_kinds // 2 > 1


@pytest.mark.slow
def test_a_training_knows_the_kind_that_was_measured() -> None:
    config = replace(tiny_training(), fleet=FleetConfig(kind="auto"))
    builder = EnvBuilder(config)
    assert builder.fleet_choice is not None
    assert builder.fleet.kind == builder.fleet_choice.kind != "auto"
    assembly = assemble_training(config, LoneRank())
    assert assembly.envs.fleet.kind != "auto"
    assembly.env.close()


def test_auto_is_no_fleet_by_itself() -> None:
    with pytest.raises(ConfigError, match="measure first"):
        build_fleet(FleetConfig(kind="auto"), HostFactory(tiny_training()), (10_000,), tuple)


def test_a_fleet_that_cannot_be_had_is_no_reason_to_refuse_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(factory: HostFactory) -> WorkerHosts:
        del factory
        raise ConfigError("workers run on the cores of the CPU")

    monkeypatch.setattr(HostFactory, "for_workers", refuse)
    monkeypatch.setattr(fleet_choice, "_MIN_WORK_S", 0.0)
    choice = choose_fleet(FleetConfig(kind="auto"), HostFactory(tiny_training()), (10_000, 10_001))
    assert choice.kind in ("serial", "fused")
    assert [timing.note for timing in choice.timings[2:]] == [
        "not measured: workers run on the cores of the CPU"
    ] * 2
