from __future__ import annotations

import json

import pytest
from pydantic import TypeAdapter

from esper.leyline import ConfigError
from esper.tamiyo.network import NetworkConfig


def test_the_default_is_a_recurrent_network_for_growing_hosts() -> None:
    config = NetworkConfig()
    assert config.kind == "growth"
    assert config.is_recurrent


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kind", "grwoth", "did you mean 'growth'"),
        ("factorisation", "joint", "known: conditional, factored"),
        ("hidden_size", 0, r"\[1, 4096\]"),
        ("token_size", 5000, r"\[1, 4096\]"),
        ("family_size", 0, r"\[1, 4096\]"),
        ("attention_layers", 5, r"\[0, 4\]"),
        ("attention_heads", 3, "must divide token_size=64"),
        ("attention_heads", 0, r"\[1, 4096\]"),
        ("core_size", -1, r"\[1, 4096\]"),
        ("core_layers", 4, r"\[1, 3\]"),
        ("core_layers", 0, r"\[1, 3\]"),
        ("flat_slots", 3, "leave it at 0"),
        ("flat_blueprints", 3, "leave it at 0"),
        ("flat_features", 3, "leave it at 0"),
        ("flat_features", -1, r"\[0, 65536\]"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: object, message: str) -> None:
    values: dict[str, object] = {field: value}
    with pytest.raises(ConfigError, match=f"network.{field}=.*{message}"):
        NetworkConfig(**values)  # type: ignore[arg-type]


def test_a_growth_network_is_never_factored() -> None:
    with pytest.raises(ConfigError, match="needs kind='flat'"):
        NetworkConfig(factorisation="factored")


@pytest.mark.parametrize("span", [0, 10_001])
def test_a_memory_span_out_of_range_is_refused(span: int) -> None:
    with pytest.raises(ConfigError, match=rf"network\.memory_span={span}: must be in \[1, 10000\]"):
        NetworkConfig(memory_span=span)


def test_a_memory_span_without_a_memory_is_refused() -> None:
    assert NetworkConfig(memory_span=1, is_recurrent=False).memory_span == 1
    with pytest.raises(ConfigError, match=r"network\.memory_span=40: needs a memory"):
        NetworkConfig(memory_span=40, is_recurrent=False)


def test_checkpointing_without_a_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a memory"):
        NetworkConfig(checkpoint_core=True, is_recurrent=False)


def test_a_configuration_survives_json() -> None:
    config = NetworkConfig(kind="flat", flat_features=4, factorisation="factored", core_layers=2)
    adapter = TypeAdapter(NetworkConfig)
    text = json.dumps(adapter.dump_python(config, mode="json"))
    assert adapter.validate_json(text, strict=True, extra="forbid") == config


def test_a_critic_that_knows_more_must_be_separate() -> None:
    with pytest.raises(ConfigError, match="is_critic_privileged=True: needs a critic of its own"):
        NetworkConfig(is_critic_privileged=True, is_critic_separate=False)
