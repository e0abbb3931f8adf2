"""Settings of imitation: what cannot be imitated from is refused before anything is grown."""

from __future__ import annotations

import math

import pytest

from esper.leyline import ConfigError
from esper.simic.imitation_config import ImitationConfig


def test_no_teacher_is_refused_with_an_example() -> None:
    with pytest.raises(ConfigError, match=r'imitation\.teachers=\[\]: .*e\.g\. \["heuristic"\]'):
        ImitationConfig(teachers=())


def test_a_teacher_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"imitation\.teachers=\['never', 'never'\]: each at most once"):
        ImitationConfig(teachers=("never", "never"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_rounds", -1),
        ("epochs", 0),
        ("doubt_nats", -0.1),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("max_grad_norm", 0.0),
    ],
)
def test_values_out_of_range_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"imitation\.{field}="):
        ImitationConfig(**{field: value})  # type: ignore[arg-type]
