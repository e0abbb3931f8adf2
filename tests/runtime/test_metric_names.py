"""A metric's direction follows from a common name, and is asked for otherwise."""

from __future__ import annotations

import pytest

from esper.leyline import ConfigError
from esper.runtime.metric_names import name_metric


@pytest.mark.parametrize(
    ("name", "is_higher"),
    [
        ("loss", False),
        ("accuracy", True),
        ("val_loss", False),
        ("top1_accuracy", True),
        ("perplexity", False),
        ("AUC", True),
    ],
)
def test_common_metrics_know_their_direction(name: str, is_higher: bool) -> None:
    assert name_metric(name, None).is_higher_better is is_higher


@pytest.mark.parametrize("name", ["quality", "loss_accuracy"])
def test_a_metric_of_unknown_direction_asks_for_it(name: str) -> None:
    with pytest.raises(ConfigError, match="say higher_is_better=True or False"):
        name_metric(name, None)
    assert name_metric(name, True, 3.0).scale == 3.0
