from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from esper.leyline import ConfigError
from esper.runtime.compare import Comparison, compare
from esper.simic import estimate_paired_interval
from runtime.own_models import train_batches, validation_batches
from tolaria.loop_toys import TRAIN, Net, Script, advance, germinate


def _compare(**changes: object) -> Comparison:
    settings: dict[str, object] = {
        "sample": TRAIN[0][:2],
        "optimizer": lambda named: torch.optim.AdamW(named, lr=3e-3),
        "loss": nn.CrossEntropyLoss(),
        "seeds": 2,
        "epochs": 3,
        "grow_settings": {"at": ["body", "neck"], "policy": "never"},
    }
    settings |= changes
    return compare(Net, train_batches(), validation_batches(), **settings)  # type: ignore[arg-type]


def test_without_growth_every_arm_is_the_same_training() -> None:
    found = _compare()
    by_arm = {row.arm: row for row in found.rows}
    assert list(by_arm) == ["never", "grow", "never_flops", "static_final"]
    for arm in ("grow", "never_flops", "static_final"):
        assert by_arm[arm].metric == by_arm["never"].metric
        assert by_arm[arm].flops == by_arm["never"].flops
        gain = by_arm[arm].gain
        assert gain is not None
        assert gain.mean == 0.0


def test_the_final_architecture_has_the_grown_ones_parameters_and_trains_from_scratch() -> None:
    policy = Script([germinate("body", "low_rank"), None, None, advance(), None, None, None])
    found = _compare(
        epochs=6,
        seeds=1,
        arms=["grow", "static_final", "never_flops"],
        grow_settings={"at": ["body"], "policy": policy},
    )
    runs = {run.arm: run for run in found.runs}
    assert runs["static_final"].num_params == runs["grow"].num_params
    assert runs["static_final"].num_seeds == runs["grow"].num_seeds
    assert runs["grow"].flops > runs["never"].flops
    assert runs["never_flops"].epochs >= 6
    assert abs(runs["never_flops"].flops - runs["grow"].flops) <= runs["never"].flops / 6


def test_gains_are_paired_by_seed_and_turned_so_that_positive_is_better() -> None:
    found = _compare(make_wider=_Wide, arms=["never", "wider"], seeds=3)
    never = {run.seed: run.metric for run in found.runs if run.arm == "never"}
    wider = {run.seed: run.metric for run in found.runs if run.arm == "wider"}
    expected = estimate_paired_interval([never[seed] - wider[seed] for seed in range(3)])
    assert found.rows[-1].gain == expected
    assert not found.is_higher_better


class _Wide(Net):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 32), nn.ReLU())
        self.neck = nn.Sequential(nn.Linear(32, 32), nn.ReLU())
        self.head = nn.Linear(32, 3)


def test_a_test_loader_is_read_at_the_end_and_named() -> None:
    tested = _compare(test=validation_batches(), seeds=1, arms=["never"], metric="accuracy")
    plain = _compare(seeds=1, arms=["never"], metric="accuracy")
    assert tested.rows[0].metric == plain.rows[0].metric
    assert "accuracy of the test loader, higher is better" in str(tested)
    assert "accuracy of the validation loader" in str(plain)


def test_the_table_is_text_html_and_plain_data() -> None:
    found = _compare(arms=["grow"])
    text = str(found).splitlines()
    assert text[1].split() == ["arm", "loss", "gain", "interval", "parameters", "GFLOPs", "seeds"]
    assert len({line.index("155") for line in text[2:]}) == 1
    assert found._repr_html_().count("<tr>") == 3
    assert len(found.to_dict()["runs"]) == 4  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ["grwo"]}, "unknown arm 'grwo': did you mean 'grow'"),
        ({"arms": ["wider"]}, "needs make_wider="),
        ({"arms": ["static_final"]}, "follow what 'grow' came to: add it"),
        ({"seeds": 0}, "seeds=0: must be >= 1"),
        ({"metric": "quality"}, "did you mean|unknown|metric='quality'"),
    ],
)
def test_a_wrong_wish_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _compare(**changes)


def test_an_unknown_wish_of_growth_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"grow_settings has 'blueprint'.*blueprints"):
        _compare(grow_settings={"blueprint": ["mlp"]})


def test_trainings_of_a_seed_start_from_the_same_weights_whatever_ran_before() -> None:
    seen: list[float] = []
    make: Callable[[], nn.Module] = Net

    def watched() -> nn.Module:
        host = make()
        seen.append(float(host.get_parameter("head.weight").detach().sum()))
        return host

    compare(
        watched,
        train_batches(),
        validation_batches(),
        sample=TRAIN[0][:2],
        optimizer=lambda named: torch.optim.SGD(named, lr=0.1),
        loss=nn.CrossEntropyLoss(),
        arms=["never", "grow"],
        seeds=2,
        epochs=1,
        grow_settings={"at": ["body"], "policy": "never"},
    )
    assert seen[0] == seen[1] != seen[2] == seen[3]
