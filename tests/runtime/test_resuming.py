"""What may change between two attempts at a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from esper.leyline import ConfigError, ForeignCheckpointError, RunDirectoryError
from esper.runtime.assemble import assemble
from esper.runtime.config_file import ResolvedExperiment, provenance_of_preset, render_config
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.presets import digits
from esper.runtime.ranks import DistributedConfig
from esper.runtime.resuming import (
    choose_trust_flags,
    compare_configs,
    find_named_code,
    refuse_changes,
    refuse_other_size,
    refuse_unconfirmed_code,
    restore_assembly,
)
from esper.runtime.run_folder import RunFolder, RunOrigin
from esper.tolaria import StateRecord


def test_only_settings_that_change_numbers_count_as_different() -> None:
    config = digits()
    assert compare_configs(config, replace(config, num_threads=2)) == []
    assert compare_configs(config, replace(config, seed=5)) == ["seed"]


def test_each_changed_setting_is_named_with_both_values(tmp_path: Path) -> None:
    config = digits()
    origin = RunOrigin(task="digits", policy="heuristic", seed=0)
    with RunFolder.create(tmp_path / "run", config_text=render_config(config, {}), origin=origin):
        refuse_changes(tmp_path / "run", config)
        with pytest.raises(ConfigError, match=r"seed \(there 0, given 5\)"):
            refuse_changes(tmp_path / "run", replace(config, seed=5))


def test_a_folder_that_holds_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="not a run"):
        refuse_changes(tmp_path, digits())


@pytest.mark.battery("T12")
def test_another_number_of_processes_is_refused_unless_it_is_wanted() -> None:
    saved = StateRecord(tensors={}, state={"num_ranks": 2})
    config = DistributedConfig()
    refuse_other_size(saved, 2, config)
    refuse_other_size(StateRecord(tensors={}, state={}), 1, config)
    with pytest.raises(ConfigError, match="was saved by 2 processes, and here are 1"):
        refuse_other_size(saved, 1, config)
    refuse_other_size(saved, 1, replace(config, is_elastic=True))


@pytest.mark.parametrize("state", [{}, {"run": {}, "policy": {}}, {"run": 1, "policy": {}, "last_seq": 0}])
def test_a_checkpoint_without_a_host_run_is_foreign(state: dict[str, object]) -> None:
    record = StateRecord(tensors={}, state=state)  # type: ignore[arg-type]
    with pytest.raises(ForeignCheckpointError, match="holds no host run"):
        restore_assembly(assemble(digits()), record, "0")


def test_another_topology_than_the_saved_one_is_refused() -> None:
    assembly = assemble(digits())
    record = assembly.host_run.state()
    state = {"run": record.state, "policy": dict(assembly.policy.state()), "last_seq": 7}
    saved = StateRecord(tensors=record.tensors, state=state)  # type: ignore[arg-type]
    topology = assembly.host_run.bench.model.topology_hash()
    assert restore_assembly(assemble(digits()), saved, topology) == 7
    with pytest.raises(ForeignCheckpointError, match="rebuilt topology"):
        restore_assembly(assemble(digits()), saved, "f" * len(topology))


OWN = "own_policies:PlantOnce"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, {}),
        ({"policy": "schedule:plan.json"}, {}),
        ({"policy": "runs/a/policy"}, {}),
        ({"policy": OWN}, {"policy": OWN}),
        ({"policy": "a.b_c:D"}, {"policy": "a.b_c:D"}),
        ({"reward.extra_terms": ("own_terms:First=0.5",)}, {"reward.extra_terms": "own_terms:First=0.5"}),
        ({"training.imitation.teachers": ("heuristic", OWN)}, {"training.imitation.teachers": OWN}),
    ],
)
def test_every_setting_that_names_code_is_found(changes: dict[str, object], found: dict[str, str]) -> None:
    config = digits()
    for key, value in changes.items():
        config = put(config, key.split("."), value)
    assert find_named_code(config) == found


def put(config: object, path: list[str], value: object) -> ExperimentConfig:
    """Return the configuration with one field changed, wherever it is nested."""
    name, *rest = path
    inner = value if not rest else put(getattr(config, name), rest, value)
    return replace(config, **{name: inner})  # type: ignore[type-var, return-value]


@pytest.mark.battery("T50")
def test_only_a_policy_may_be_a_schedule() -> None:
    config = replace(ExperimentConfig(), policy="schedule:mine.json", blueprints=("conv", "schedule:mix"))
    assert find_named_code(config) == {"blueprints": "schedule:mix"}


def test_code_that_only_the_runs_own_file_names_must_be_confirmed(tmp_path: Path) -> None:
    config = replace(digits(), policy=OWN)
    stored = ResolvedExperiment(config=config, provenance=provenance_of_preset(config))
    with pytest.raises(ConfigError, match=r"config\.toml names code.* policy = 'own_policies:PlantOnce'; .*"):
        refuse_unconfirmed_code(tmp_path, stored, is_trusted=False)
    refuse_unconfirmed_code(tmp_path, stored, is_trusted=True)
    repeated = replace(stored, provenance={**stored.provenance, "policy": "flag"})
    refuse_unconfirmed_code(tmp_path, repeated, is_trusted=False)


def test_whoever_began_a_run_goes_on_with_the_code_that_it_names(tmp_path: Path) -> None:
    assert choose_trust_flags(tmp_path) == ()
    for policy, flags in (("never", ()), (OWN, ("--trust-code",))):
        text = render_config(replace(digits(), policy=policy), {})
        (tmp_path / "config.toml").write_text(text, encoding="utf-8")
        assert choose_trust_flags(tmp_path) == flags
