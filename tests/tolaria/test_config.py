"""Claims about the settings of a host run: names and ranges are checked, and messages name the remedy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from esper.leyline import ConfigError
from esper.tolaria import AMP_MODES, CHECKPOINTING_MODES, COMPILE_MODES, ROLLBACK_MODES, HostRunConfig


@pytest.mark.parametrize("amp", AMP_MODES)
@pytest.mark.parametrize("mode", COMPILE_MODES)
@pytest.mark.parametrize("on_failure", ROLLBACK_MODES)
def test_every_named_mode_is_accepted(amp: str, mode: str, on_failure: str) -> None:
    config = HostRunConfig(amp=amp, compile=mode, on_failure=on_failure)
    assert (config.amp, config.compile, config.on_failure) == (amp, mode, on_failure)


@pytest.mark.parametrize("mode", CHECKPOINTING_MODES)
def test_every_mode_of_checkpointing_is_accepted(mode: str) -> None:
    assert HostRunConfig(seed_checkpointing=mode).seed_checkpointing == mode


@pytest.mark.parametrize("name", ["amp", "compile", "on_failure", "seed_checkpointing"])
def test_an_unknown_mode_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"host\.{name}='nonsense'.*known: "):
        replace(HostRunConfig(), **{name: "nonsense"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", 1), ("snapshot_every", 0), ("epochs", 0), ("interval_batches", 0)]
)
def test_a_count_below_its_range_is_refused(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"host\.{name}={value}: must be >= {value + 1}"):
        replace(HostRunConfig(), **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1", "mps", "auto"])
def test_every_kind_of_device_is_accepted(device: str) -> None:
    assert HostRunConfig(device=device).device == device


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"host\.device='tpu'"):
        HostRunConfig(device="tpu")
