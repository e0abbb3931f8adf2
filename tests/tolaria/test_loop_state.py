"""State of a loop in somebody else's hands; parts of saved states: `tolaria/state_parts.py`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from esper.kasmina import build_seeded
from esper.leyline import ForeignCheckpointError, SeedStage
from esper.tolaria import StateRecord, capture_loop, restore_loop
from esper.tolaria.loop_state import add_extra, split_extra
from tolaria.loop_toys import TRAIN, Loop, Net, advance, fossilize, germinate, make_loop

LIFE = [germinate(), None, advance(), None, fossilize(), germinate("neck", "low_rank"), None]
OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda module: torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9),
    "adamw": lambda module: torch.optim.AdamW(module.named_parameters(), lr=0.01),
}


def _make(name: str, *, norm: bool = False, seed: int = 0) -> Loop:
    host = build_seeded(lambda: Net(norm=norm), seed)
    return make_loop(LIFE, host=host, make_optimizer=OPTIMIZERS[name])


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("intervals", [1, 3, 6])
def test_a_resumed_loop_goes_on_bit_for_bit(name: str, intervals: int, norm: bool) -> None:
    whole = _make(name, norm=norm).run(intervals)
    record = capture_loop(whole.controller)
    whole.run(8 - intervals)
    resumed = _make(name, norm=norm, seed=5)
    restore_loop(resumed.controller, record, is_rollback=False)
    resumed.run(8 - intervals)
    expected = whole.model.state_dict()
    assert {n for n, t in resumed.model.state_dict().items() if not torch.equal(t, expected[n])} == set()
    assert resumed.losses == whole.losses[-len(resumed.losses) :]
    mine, its = (capture_loop(loop.controller).state for loop in (resumed, whole))
    assert mine == its


def test_what_was_trained_before_a_rollback_is_charged_once() -> None:
    loop = _make("sgd").run(1)
    record = capture_loop(loop.controller)
    before = loop.controller.ledger.totals()["host_train"]
    loop.controller.act()
    loop.model(TRAIN[0][:8]).sum().backward()
    restore_loop(loop.controller, record, is_rollback=True)
    restore_loop(loop.controller, record, is_rollback=True)
    assert loop.controller.ledger.totals()["host_train"] == before + 3 * loop.model.host_flops * 8


def test_a_record_is_not_changed_by_what_follows() -> None:
    loop = _make("sgd").run(3)
    record = capture_loop(loop.controller)
    before = {name: tensor.clone() for name, tensor in record.tensors.items()}
    loop.run(2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in record.tensors.items())


def test_a_rollback_goes_back_exactly_but_spends_nothing_back() -> None:
    loop = _make("sgd").run(2)
    record = capture_loop(loop.controller)
    model = {name: tensor.clone() for name, tensor in loop.model.state_dict().items()}
    loop.run(2)
    spent, count = loop.controller.ledger.total, loop.controller.event_count
    restore_loop(loop.controller, record, is_rollback=True)
    now = loop.model.state_dict()
    assert set(now) == set(model)
    assert all(torch.equal(now[name], tensor) for name, tensor in model.items())
    assert loop.controller.epoch == 2
    assert loop.controller.ledger.total == spent
    assert loop.controller.event_count == count
    assert loop.model.slot("body").state.stage is SeedStage.TRAINING
    loop.run(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("slots"), "lacks the object 'slots'"),
        (lambda state: state.update(epoch="x"), "does not fit: ValueError"),
        (lambda state: state.update(totals={}), "does not fit: KeyError"),
        (lambda state: state["optimizer"].update(optimizer="LBFGS"), "LBFGS"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_as_foreign(
    change: Callable[[dict[str, object]], object], message: str
) -> None:
    record = capture_loop(_make("sgd").run(2).controller)
    change(record.state)  # type: ignore[arg-type]
    with pytest.raises(ForeignCheckpointError, match=message):
        restore_loop(_make("sgd").controller, record, is_rollback=False)


def test_the_state_of_another_model_is_refused_by_its_first_difference() -> None:
    record = capture_loop(_make("sgd", norm=True).run(1).controller)
    with pytest.raises(ForeignCheckpointError, match=r"host\.body\.1"):
        restore_loop(_make("sgd").controller, record, is_rollback=False)


def test_what_a_loop_adds_comes_back_apart() -> None:
    record = StateRecord(tensors={"model.a": torch.ones(2)}, state={"epoch": 3})
    extra = StateRecord(tensors={"stream": torch.zeros(1)}, state={"done": 7})
    own, added = split_extra(add_extra(record, extra))
    assert (list(own.tensors), own.state) == (["model.a"], {"epoch": 3})
    assert (list(added.tensors), added.state) == (["stream"], {"done": 7})
    own, added = split_extra(add_extra(record, None))
    assert (dict(added.tensors), added.state) == ({}, {})
