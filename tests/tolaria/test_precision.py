"""Autocast by name, and a loss scale that moves on the host's flag only."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from esper.leyline import ConfigError, ForeignCheckpointError, JsonValue
from esper.tolaria.group_flags import GroupFlag, GroupFlags
from esper.tolaria.precision import Autocast, LossScaler

from .optimizer_toys import (
    are_equal,
    build_config,
    build_host,
    build_optimizer,
    build_seed,
    compute_loss,
    named,
    values,
)

CLEAN = GroupFlag(norm=1.0, rms=0.1, has_gradient=True)
FAULTY = GroupFlag(norm=math.inf, rms=math.inf, has_gradient=True)
ABSENT = GroupFlag(norm=0.0, rms=0.0, has_gradient=False)


def flags(host: GroupFlag = CLEAN, **seeds: GroupFlag) -> GroupFlags:
    return GroupFlags(host=host, seeds=seeds)


def repeat(scaler: LossScaler, batch: GroupFlags, times: int) -> None:
    for _ in range(times):
        scaler.update(batch)


@pytest.mark.parametrize(
    ("amp", "dtype"), [("off", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_a_forward_pass_runs_in_the_precision_that_was_asked_for(amp: str, dtype: torch.dtype) -> None:
    layer = nn.Linear(3, 2)
    with Autocast(torch.device("cpu"), amp).context():
        outputs = layer(torch.ones(1, 3))
    assert outputs.dtype == dtype
    assert layer.weight.dtype == torch.float32


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match="amp='fp61': did you mean 'fp16'"):
        Autocast(torch.device("cpu"), "fp61")


def test_disabled_it_scales_by_one_and_never_moves() -> None:
    scaler, loss = LossScaler(is_enabled=False), torch.tensor(3.0)
    repeat(scaler, flags(FAULTY, s1=FAULTY), 50)
    assert scaler.scale(loss) is loss
    assert (scaler.scale_value, scaler.inverse_scale) == (1.0, 1.0)
    assert not scaler.seed_skips
    assert scaler.blamed == ()


def test_it_starts_at_65536_and_doubles_after_2000_clean_steps() -> None:
    scaler = LossScaler(is_enabled=True)
    assert float(scaler.scale(torch.tensor(2.0))) == 131072.0
    repeat(scaler, flags(), 1999)
    assert scaler.scale_value == 65536.0
    scaler.update(flags())
    assert scaler.scale_value == 131072.0
    assert scaler.inverse_scale == 1 / 131072


def test_an_overflow_of_the_host_halves_it_and_the_count_starts_again() -> None:
    scaler = LossScaler(is_enabled=True)
    repeat(scaler, flags(), 1999)
    scaler.update(flags(FAULTY))
    assert scaler.scale_value == 32768.0
    repeat(scaler, flags(), 1999)
    assert scaler.scale_value == 32768.0
    scaler.update(flags())
    assert scaler.scale_value == 65536.0


def test_it_stays_above_its_floor() -> None:
    scaler = LossScaler(is_enabled=True)
    repeat(scaler, flags(FAULTY), 100)
    assert scaler.scale_value == 1.0


def test_a_seed_that_overflows_alone_is_counted_and_moves_nothing() -> None:
    scaler = LossScaler(is_enabled=True)
    repeat(scaler, flags(s1=FAULTY, s2=CLEAN), 7)
    assert scaler.scale_value == 65536.0
    assert dict(scaler.seed_skips) == {"s1": 7, "s2": 0}
    scaler.update(flags(s1=CLEAN, s2=CLEAN))
    assert scaler.seed_skips["s1"] == 0


def test_after_eight_skips_in_a_row_it_backs_off_once_and_then_blames_the_seed() -> None:
    scaler = LossScaler(is_enabled=True)
    repeat(scaler, flags(s1=FAULTY, s2=CLEAN), 8)
    assert scaler.scale_value == 32768.0
    repeat(scaler, flags(s1=FAULTY, s2=CLEAN), 7)
    assert "s1" not in scaler.blamed
    scaler.update(flags(s1=FAULTY, s2=CLEAN))
    assert scaler.blamed == ("s1",)
    repeat(scaler, flags(s1=FAULTY, s2=CLEAN), 20)
    assert scaler.scale_value == 32768.0


def test_a_batch_without_gradient_is_no_evidence_either_way() -> None:
    scaler = LossScaler(is_enabled=True)
    repeat(scaler, flags(s1=FAULTY), 8)
    repeat(scaler, flags(s1=ABSENT), 5)
    assert scaler.seed_skips["s1"] == 8
    assert scaler.scale_value == 32768.0


def test_a_culled_seed_is_forgotten() -> None:
    scaler = LossScaler(is_enabled=True)
    repeat(scaler, flags(s1=FAULTY), 16)
    scaler.update(flags())
    scaler.update(flags(s1=FAULTY))
    assert dict(scaler.seed_skips) == {"s1": 1}
    assert scaler.blamed == ()


def test_a_scaled_step_equals_the_plain_one_bit_for_bit() -> None:
    runs = []
    for is_enabled in (False, True):
        host, seed, scaler = build_host(), build_seed(1), LossScaler(is_enabled=is_enabled)
        optimizer = build_optimizer(build_config("sgd"), host)
        optimizer.add_seed("s1", named(seed, "s1"), birth_batch=0)
        for batch in range(5):
            optimizer.set_batch(batch)
            optimizer.zero_grad()
            loss = scaler.scale(compute_loss(host, {"s1": seed}, batch))
            loss.backward()  # type: ignore[no-untyped-call]
            scaler.update(optimizer.check_and_clip(scaler.inverse_scale))
            optimizer.step()
        runs.append([*values(host), *values(seed)])
    assert are_equal(*runs)


@given(script=st.lists(st.sampled_from(["clean", "host", "seed"]), max_size=40), cut=st.integers(0, 40))
def test_the_state_survives_json_and_goes_on_as_if_uninterrupted(script: list[str], cut: int) -> None:
    batches = {"clean": flags(s1=CLEAN), "host": flags(FAULTY, s1=CLEAN), "seed": flags(s1=FAULTY)}
    whole, second = LossScaler(is_enabled=True), LossScaler(is_enabled=True)
    for index, kind in enumerate(script):
        if index == cut:
            second = LossScaler(is_enabled=True)
            second.load(json.loads(json.dumps(whole.state())))
        whole.update(batches[kind])
        second.update(batches[kind])
    assert second.state() == whole.state()


def test_the_state_of_another_precision_is_refused() -> None:
    with pytest.raises(ForeignCheckpointError, match="resume with the precision"):
        LossScaler(is_enabled=False).load(LossScaler(is_enabled=True).state())


@pytest.mark.parametrize(
    ("field", "value"),
    [("scale", "many"), ("clean_steps", 1.5), ("seed_skips", [1]), ("seed_skips", {"s1": None})],
)
def test_a_malformed_state_is_refused_and_changes_nothing(field: str, value: JsonValue) -> None:
    scaler = LossScaler(is_enabled=True)
    before = scaler.state()
    with pytest.raises(ForeignCheckpointError, match="saved loss scaler is malformed"):
        scaler.load(before | {field: value})
    incomplete = {name: item for name, item in before.items() if name != field}
    with pytest.raises(ForeignCheckpointError, match="saved loss scaler is malformed"):
        scaler.load(incomplete)
    assert scaler.state() == before
