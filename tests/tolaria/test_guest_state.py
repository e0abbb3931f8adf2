"""A user's optimiser and schedulers saved and put back by name: bit-equal or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from esper.leyline import ConfigError, ForeignCheckpointError, JsonValue

from .guest_toys import OPTIMIZERS, SCHEDULERS, Loop
from .optimizer_toys import are_equal, values

Saved = tuple[dict[str, Tensor], dict[str, JsonValue]]


def _save(loop: Loop) -> Saved:
    """What a checkpoint would hold: strict JSON, and copies of the tensors."""
    tensors, plain = loop.guest.state()
    text = json.dumps(plain, allow_nan=False)
    return {key: tensor.detach().clone() for key, tensor in tensors.items()}, json.loads(text)


def _copy_weights(source: Loop, target: Loop) -> None:
    with torch.no_grad():
        for module, other in [
            (source.host, target.host),
            *[(seed, target.seeds[slot]) for slot, seed in source.seeds.items()],
        ]:
            for parameter, to in zip(module.parameters(), other.parameters(), strict=True):
                to.copy_(parameter)


def _reference(loop: Loop, slot: str) -> nn.Parameter:
    """The slot s3 follows the host's first group, the others its second."""
    return list(loop.host.parameters())[0 if slot == "s3" else 2]


def _grown(optimizer: str, scheduler: str | None) -> Loop:
    """Trained, with one fossil, one newborn, and one that is frozen; births in another order than slots."""
    loop = Loop(optimizer, scheduler)
    for batch in range(6):
        for slot in {1: ["s2", "s3"], 3: ["s1"]}.get(batch, []):
            loop.germinate(slot, reference=_reference(loop, slot))
        loop.train(batch)
    loop.cull("s2")
    loop.germinate("s2")
    loop.train(6)
    loop.guest.fossilize("s3")
    loop.guest.set_frozen("s1", True)
    return loop


def _rebuilt(optimizer: str, scheduler: str | None) -> Loop:
    loop = Loop(optimizer, scheduler)
    for slot in ("s1", "s2", "s3"):
        loop.germinate(slot, generator_seed=77, reference=_reference(loop, slot))
    return loop


def _resume_equals(optimizer: str, scheduler: str | None) -> None:
    loop = _grown(optimizer, scheduler)
    saved = _save(loop)
    other = _rebuilt(optimizer, scheduler)
    _copy_weights(loop, other)
    other.guest.load(*saved)
    assert other.guest.num_steps == 7
    other.seeds = {slot: other.seeds[slot] for slot in loop.seeds}
    for batch in range(7, 12):
        loop.train(batch)
        other.train(batch)
        assert loop.rates() == other.rates()
    assert are_equal(values(loop.host), values(other.host))
    for slot, seed in loop.seeds.items():
        assert are_equal(values(seed), values(other.seeds[slot]))
    first, second = _save(loop), _save(other)
    assert first[1] == second[1]
    assert first[0].keys() == second[0].keys()
    assert all(torch.equal(first[0][key], second[0][key]) for key in first[0])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_run_is_bit_equal_with_each_optimizer(name: str) -> None:
    _resume_equals(name, None)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_resumed_run_is_bit_equal_with_each_scheduler(name: str) -> None:
    _resume_equals("adamw", name)


def test_a_tensor_rate_keeps_its_identity_over_a_load() -> None:
    saved = _save(_grown("adamw-tensor-lr", "StepLR"))
    other = _rebuilt("adamw-tensor-lr", "StepLR")
    rates = [id(group["lr"]) for group in other.optimizer.param_groups]
    other.guest.load(*saved)
    assert sorted(id(group["lr"]) for group in other.optimizer.param_groups) == sorted(rates)


def test_what_is_loaded_is_a_copy() -> None:
    saved = _save(_grown("adamw", None))
    other = _rebuilt("adamw", None)
    other.guest.load(*saved)
    saved[0]["host.0.weight/exp_avg"].fill_(9.0)
    assert not torch.equal(
        other.optimizer.state[next(other.host.parameters())]["exp_avg"], saved[0]["host.0.weight/exp_avg"]
    )


def _drop_tensor(saved: Saved) -> None:
    del saved[0]["s1.weight/exp_avg"]


def _add_tensor(saved: Saved) -> None:
    saved[0]["s1.weight/momentum"] = torch.zeros(1)


def _change_shape(saved: Saved) -> None:
    saved[0]["s1.weight/exp_avg"] = torch.zeros(2, 2)


def _plain(saved: Saved, key: str) -> dict[str, JsonValue]:
    return cast("dict[str, JsonValue]", saved[1][key])


def _drop_held(saved: Saved) -> None:
    del _plain(saved, "held")["s1.bias"]


def _add_held(saved: Saved) -> None:
    _plain(saved, "held")["s1.biass"] = _plain(saved, "held")["s1.bias"]


def _other_shape(saved: Saved) -> None:
    cast("dict[str, JsonValue]", _plain(saved, "held")["s1.bias"])["shape"] = [5]


def _no_record(saved: Saved) -> None:
    _plain(saved, "held")["s1.bias"] = 3


def _drop_setting(saved: Saved) -> None:
    group = cast("dict[str, list[list[JsonValue]]]", _plain(saved, "settings")["host/1"])
    group["value"] = [pair for pair in group["value"] if pair[0] != "initial_lr"]


def _other_kind(saved: Saved) -> None:
    saved[1]["optimizer"] = "SGD"


def _drop_scheduler(saved: Saved) -> None:
    saved[1]["schedulers"] = []


def _other_scheduler(saved: Saved) -> None:
    saved[1]["schedulers"] = [["StepLR", {"kind": "dict", "value": []}]]


def _no_schedule(saved: Saved) -> None:
    saved[1]["schedulers"] = [["LambdaLR", 3]]


def _drop_seed(saved: Saved) -> None:
    saved[1]["seeds"] = cast("list[JsonValue]", saved[1]["seeds"])[1:]


def _unknown_seed(saved: Saved) -> None:
    saved[1]["seeds"] = [["s9", 1, True, False]]


def _move_parameter(saved: Saved) -> None:
    cast("list[list[JsonValue]]", saved[1]["groups"])[0][1] = ["host.0.bias", "host.0.weight"]


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (_drop_tensor, "lacks the tensor 's1.weight/exp_avg'"),
        (_add_tensor, "has an unexpected tensor 's1.weight/momentum'"),
        (_change_shape, r"'s1.weight/exp_avg' is \['torch.float32', 2, 2\], expected"),
        (_drop_held, "lacks the state of parameter 's1.bias'"),
        (_add_held, "has the parameter 's1.biass', this one does not: did you mean 's1.bias'"),
        (_other_shape, r"state of 's1.bias' is of shape \[5\], expected \[4\]"),
        (_no_record, "state of 's1.bias' is malformed: 3"),
        (_drop_setting, "group 'host/1': the setting 'initial_lr' is absent from what was saved"),
        (_other_kind, "saved optimiser is 'SGD' at step 7, this one is AdamW"),
        (_drop_scheduler, r"saved with 0 scheduler\(s\), 1 here"),
        (_other_scheduler, "saved scheduler .*expected LambdaLR"),
        (_no_schedule, "saved scheduler LambdaLR: .*in only one of them"),
        (_drop_seed, r"lacks the seeds of \['s3'\]"),
        (_unknown_seed, "saved seed .*'s9'.*rebuild the topology before"),
        (_move_parameter, "group 'host/0' holds .*expected"),
    ],
)
def test_the_first_difference_is_named_and_nothing_is_changed(
    spoil: Callable[[Saved], None], text: str
) -> None:
    saved = _save(_grown("adamw", "LambdaLR"))
    other = _rebuilt("adamw", "LambdaLR")
    other.train(0)
    before = _save(other)
    spoil(saved)
    with pytest.raises(ForeignCheckpointError, match=text):
        other.guest.load(*saved)
    after = _save(other)
    assert before[1] == after[1]
    assert all(torch.equal(before[0][key], after[0][key]) for key in before[0])


def test_a_load_before_the_topology_was_rebuilt_says_so() -> None:
    saved = _save(_grown("adamw", None))
    with pytest.raises(ForeignCheckpointError, match="rebuild the topology before load"):
        Loop("adamw").guest.load(*saved)


def test_a_setting_that_is_no_plain_data_is_named_when_it_is_saved() -> None:
    loop = Loop()
    loop.optimizer.param_groups[1]["owner"] = loop
    with pytest.raises(ConfigError, match="optimiser group host/1, 'owner' holds a Loop, which is not plain"):
        loop.guest.state()
