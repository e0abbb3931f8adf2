from __future__ import annotations

import pytest

from esper.leyline import ConfigError
from esper.runtime.ranks import RankEnvironment, find_restart_trap, read_rank_environment

TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RESTART_COUNT": "3",
    "TORCHELASTIC_RUN_ID": "7c",
}


def test_no_launcher_means_no_ranks() -> None:
    assert read_rank_environment({"PATH": "/bin", "MASTER_ADDR": "left over"}) is None


def test_what_torchrun_sets_is_read() -> None:
    assert read_rank_environment(TORCHRUN) == RankEnvironment(
        rank=1, world_size=4, local_rank=1, local_world_size=2, restart_count=3, run_id="7c"
    )


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"])
def test_a_missing_variable_is_named(name: str) -> None:
    environ = {key: value for key, value in TORCHRUN.items() if key != name}
    with pytest.raises(ConfigError, match=f"^{name} is not set"):
        read_rank_environment(environ)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RANK", "one"),
        ("RANK", "4"),
        ("RANK", "-1"),
        ("RANK", ""),
        ("WORLD_SIZE", "0"),
        ("WORLD_SIZE", "9" * 5000),
        ("LOCAL_RANK", "2"),
        ("LOCAL_WORLD_SIZE", "5"),
        ("MASTER_PORT", "70000"),
        ("TORCHELASTIC_RESTART_COUNT", "1.5"),
    ],
)
def test_a_malformed_variable_is_named_with_its_value(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}={value[:80]!r}: must be a whole number"):
        read_rank_environment({**TORCHRUN, name: value})


def test_an_attempt_has_a_name_of_its_own_on_one_machine_only() -> None:
    on_one = {"rank": 0, "world_size": 2, "local_rank": 0, "local_world_size": 2}
    first = RankEnvironment(**on_one, restart_count=0, run_id="7c").session
    assert first != RankEnvironment(**on_one, restart_count=1, run_id="7c").session
    on_two = {**on_one, "local_world_size": 1}
    assert (
        RankEnvironment(**on_two, restart_count=0, run_id="7c").session
        == RankEnvironment(**on_two, restart_count=1, run_id="7c").session
    )


def test_restarts_in_the_launchers_store_are_a_trap_with_a_remedy() -> None:
    warning = find_restart_trap({"TORCHELASTIC_MAX_RESTARTS": "3", "TORCHELASTIC_USE_AGENT_STORE": "True"})
    assert warning is not None
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --rdzv-backend c10d" in warning


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"TORCHELASTIC_MAX_RESTARTS": "0", "TORCHELASTIC_USE_AGENT_STORE": "True"},
        {"TORCHELASTIC_MAX_RESTARTS": "3", "TORCHELASTIC_USE_AGENT_STORE": "False"},
    ],
)
def test_without_restarts_or_with_a_store_of_its_own_there_is_no_trap(environ: dict[str, str]) -> None:
    assert find_restart_trap(environ) is None
