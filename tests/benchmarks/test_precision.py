"""Hosts under mixed precision, side by side: what a row holds, and what stands in for missing data.

Covers benchmarks/precision.py, roofline.py and attention_precision.py.
"""

from __future__ import annotations

from dataclasses import replace

import attention_precision
import precision
import pytest
import roofline
import torch
from precision import GENERATED, MODES, HostSize, build_pictures, configure, host_sizes, load, measure

from esper.data import TaskData
from esper.leyline import DataError, TaskSpec
from esper.runtime.experiment import TaskConfig

SMALLEST = host_sizes()[0]
CPU = torch.device("cpu")


def size_of(name: str) -> HostSize:
    return next(size for size in host_sizes() if size.name == name)


def test_every_host_is_named_once() -> None:
    names = [size.name for size in host_sizes()]
    assert len(names) == len(set(names))


def test_a_host_gives_one_row_per_precision_with_the_same_facts_and_times_without_the_first_epoch() -> None:
    size = replace(SMALLEST, epochs=2)
    rows = measure(size, 1000, load(size), "cpu")
    assert [row["amp"] for row in rows] == list(MODES["cpu"])
    own = {"amp", "train_seconds", "epoch_seconds", "metric"}
    plain, mixed = ({name: value for name, value in row.items() if name not in own} for row in rows)
    assert plain == mixed
    for row in rows:
        train, whole = row["train_seconds"], row["epoch_seconds"]
        assert isinstance(train, list)
        assert isinstance(whole, list)
        assert len(train) == len(whole) == 1
        assert all(0.0 < part < both for part, both in zip(train, whole, strict=True))


def test_without_mixed_precision_a_measured_run_is_repeatable() -> None:
    size = replace(SMALLEST, epochs=1)
    loaded = load(size)
    first, second = (measure(size, 1001, loaded, "cpu")[0]["metric"] for _ in range(2))
    assert first == second


def test_precisions_differ_in_nothing_but_precision() -> None:
    config = configure(SMALLEST, 1002, "cpu")
    assert config.host.amp == "off"
    assert (config.seed, config.policy, config.num_threads) == (1002, "never", 1)


def test_pictures_stand_in_for_missing_images_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_config: TaskConfig) -> tuple[TaskSpec, TaskData]:
        raise DataError("not installed")

    monkeypatch.setattr(precision, "load_task", refuse)
    size = size_of("cnn 5, 28x28")
    spec, data = load(size)
    assert data.name == GENERATED
    assert data.input_shape == spec.input_shape
    assert data.train.num_items == size.num_train_rows
    with pytest.raises(DataError, match="not installed"):
        load(size_of("transformer 32"))


def test_generated_pictures_repeat_and_parts_differ() -> None:
    again = build_pictures((1, 6, 5), 30, "train")
    assert torch.equal(build_pictures((1, 6, 5), 30, "train").inputs, again.inputs)
    assert again.input_shape == (1, 6, 5)
    assert not torch.equal(build_pictures((1, 6, 5), 30, "test").inputs, again.inputs)


def test_work_is_counted_by_the_formulas_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "WORKING_SETS", (512 * 2**10,))
    monkeypatch.setattr(roofline, "PRODUCT_SIZES", (64,))
    found = {(kernel.kind, kernel.dtype, kernel.size): kernel.work for kernel in roofline.build_kernels(CPU)}
    assert found["product", "bf16", 64] == 2 * 64 * 64 * 64
    copied = roofline.WORKING_SETS[0]
    assert abs(found["copy", "float32", copied] - copied) < 8
    assert abs(found["sum", "float32", copied] - copied) < 12


def test_kernels_write_what_they_are_named_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "WORKING_SETS", (1200,))
    monkeypatch.setattr(roofline, "PRODUCT_SIZES", (8,))
    for kernel in roofline.build_kernels(CPU):
        kernel.call()
    left, right, out = torch.ones(2, 2), torch.full((2, 2), 3.0), torch.empty(2, 2)
    roofline.bind(torch.mm, left, right, out)()
    assert out.tolist() == [[6.0, 6.0], [6.0, 6.0]]
    roofline.bind_copy(right, out)()
    assert torch.equal(out, right)


def test_attention_that_is_cast_equals_attention_in_float32_up_to_rounding() -> None:
    query, key, value = torch.randn(3, 2, 2, 5, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    exact = attention_precision.attend(query, key, value)
    cast = attention_precision.attend_cast(*(part.to(torch.bfloat16) for part in (query, key, value)))
    assert cast.dtype is torch.bfloat16
    assert torch.allclose(cast.float(), exact, atol=0.05)


def test_every_way_of_attention_is_timed_in_every_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_precision, "SHAPES", ((1, 1, 4, 4), (2, 1, 4, 4)))
    rows = attention_precision.measure(2, CPU)
    assert [(row["shape"], row["way"]) for row in rows] == [
        ([items, 1, 4, 4], way) for items in (1, 2) for way in ("float32", "bf16", "cast")
    ]
    assert all(len(row["seconds"]) == 2 for row in rows if isinstance(row["seconds"], list))
