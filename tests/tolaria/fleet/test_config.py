"""Settings of a fleet."""

from __future__ import annotations

import pytest

from esper.leyline import ConfigError
from esper.tolaria import FleetConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "proces"}, r"fleet.kind='proces': did you mean 'process'"),
        ({"workers": -1}, "fleet.workers=-1"),
        ({"on_death": "stopp"}, "fleet.on_death='stopp': did you mean 'stop'"),
        ({"timeout_s": 0.0}, "fleet.timeout_s=0.0"),
        ({"timeout_s": float("nan")}, "fleet.timeout_s=nan"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FleetConfig(**fields)  # type: ignore[arg-type]
