from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch

from esper.data.device_cache import (
    AUTO_FLOAT32_BYTES,
    DeviceCache,
    StorageKind,
    build_storage,
    resolve_kind,
)
from esper.data.splits import ArraySplit
from esper.leyline import ConfigError, DataError

CPU = torch.device("cpu")
MEAN, STD = (0.25, 0.5), (0.5, 0.125)


def _split(source: str = "a", num_items: int = 10) -> ArraySplit:
    inputs = torch.arange(num_items * 3 * 4 * 2).remainder(256).to(torch.uint8).reshape(num_items, 3, 4, 2)
    return ArraySplit(inputs=inputs, targets=torch.arange(num_items), source=source)


def test_normalised_values_are_those_of_the_formula_for_both_kinds() -> None:
    split = _split()
    plain = (split.inputs.double() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    expected = plain.permute(0, 3, 1, 2)
    kinds: tuple[StorageKind, ...] = ("uint8", "float32")
    for kind in kinds:
        storage = build_storage(split, device=CPU, mean=MEAN, std=STD, kind=kind)
        got = storage.normalise(storage.inputs)
        assert got.dtype == torch.float32
        assert got.is_contiguous()
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)
        assert storage.is_normalised == (kind == "float32")


def test_float_split_is_not_normalised_in_place() -> None:
    inputs = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    split = ArraySplit(inputs=inputs, targets=torch.zeros(2, dtype=torch.int64), source="f")
    storage = build_storage(split, device=CPU, mean=(1.0, 2.0), std=(2.0, 2.0))
    assert storage.inputs.tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert inputs.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_auto_keeps_small_sets_as_float32_and_large_ones_as_uint8() -> None:
    assert resolve_kind(_split(), "auto") == "float32"
    large = ArraySplit(
        inputs=torch.zeros(AUTO_FLOAT32_BYTES // 4 + 1, 1, dtype=torch.uint8),
        targets=torch.zeros(AUTO_FLOAT32_BYTES // 4 + 1, dtype=torch.int64),
    )
    assert resolve_kind(large, "auto") == "uint8"
    assert resolve_kind(_split(), "auto", max_bytes=500) == "uint8"


def test_unfit_kind_or_constants_are_refused() -> None:
    floats = ArraySplit(inputs=torch.zeros(2, 2), targets=torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ConfigError, match="holds float32"):
        resolve_kind(floats, "uint8")
    with pytest.raises(ConfigError, match="must be one of auto, uint8, float32"):
        resolve_kind(floats, "bf16")  # type: ignore[arg-type]
    for mean, std in (
        ((0.0,), STD),
        (MEAN, (1.0, 0.0)),
        (MEAN, (1.0, float("nan"))),
        ((float("inf"), 0.0), STD),
    ):
        with pytest.raises(ConfigError, match="mean"):
            build_storage(_split(), device=CPU, mean=mean, std=std)


def test_second_request_returns_the_same_storage() -> None:
    with DeviceCache() as cache:
        first = cache.storage(_split(), device=CPU, mean=MEAN, std=STD)
        assert cache.storage(_split(), device=CPU, mean=MEAN, std=STD) is first
        assert cache.storage(_split(), device=CPU, mean=MEAN, std=STD, kind="uint8") is not first
        assert cache.storage(_split("b"), device=CPU, mean=MEAN, std=STD) is not first
        assert cache.storage(_split(), device=CPU, mean=MEAN, std=(0.5, 0.25)) is not first
        assert len(cache) == 4


@pytest.mark.battery("T41")
def test_fifty_sets_stay_within_the_bound() -> None:
    one = build_storage(_split(), device=CPU, mean=MEAN, std=STD, kind="uint8").num_bytes
    cache = DeviceCache(max_bytes=5 * one + 1)
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    for number in range(50):
        storage = cache.storage(_split(f"set {number}"), device=CPU, mean=MEAN, std=STD, kind="uint8")
        alive.add(storage.inputs)
        del storage
        assert cache.num_bytes <= cache.max_bytes
    assert cache.num_bytes == 5 * one
    gc.collect()
    assert len(alive) == 5
    cache.close()
    gc.collect()
    assert len(alive) == 0


def test_least_recently_used_goes_first() -> None:
    one = build_storage(_split(), device=CPU, mean=MEAN, std=STD, kind="uint8").num_bytes
    cache = DeviceCache(max_bytes=2 * one)
    first = cache.storage(_split("a"), device=CPU, mean=MEAN, std=STD, kind="uint8")
    second = cache.storage(_split("b"), device=CPU, mean=MEAN, std=STD, kind="uint8")
    assert cache.storage(_split("a"), device=CPU, mean=MEAN, std=STD, kind="uint8") is first
    cache.storage(_split("c"), device=CPU, mean=MEAN, std=STD, kind="uint8")
    assert cache.storage(_split("a"), device=CPU, mean=MEAN, std=STD, kind="uint8") is first
    assert cache.storage(_split("b"), device=CPU, mean=MEAN, std=STD, kind="uint8") is not second


def test_set_larger_than_the_bound_is_refused_and_evicts_nothing() -> None:
    cache = DeviceCache(max_bytes=400)
    cache.storage(_split("small", 5), device=CPU, mean=MEAN, std=STD)
    with pytest.raises(DataError, match=r"big: 3200 bytes as uint8; .* holds 400.*at least 3200"):
        cache.storage(_split("big", 100), device=CPU, mean=MEAN, std=STD)
    assert len(cache) == 1


def test_split_without_source_is_refused() -> None:
    with pytest.raises(ConfigError, match="without a source"):
        DeviceCache().storage(_split(""), device=CPU, mean=MEAN, std=STD)


def test_closed_cache_refuses_use() -> None:
    cache = DeviceCache()
    cache.close()
    cache.close()
    with pytest.raises(RuntimeError, match="closed"):
        cache.storage(_split(), device=CPU, mean=MEAN, std=STD)


def test_bound_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_bytes=0"):
        DeviceCache(max_bytes=0)


def test_tokens_are_kept_as_they_are_and_counted() -> None:
    tokens = torch.arange(12, dtype=torch.uint8).reshape(3, 4)
    split = ArraySplit(inputs=tokens, targets=tokens + 1, source="text")
    with DeviceCache() as cache:
        storage = cache.storage(split, device=CPU, mean=(), std=())
        assert cache.storage(split, device=CPU, mean=(), std=()) is storage
        assert cache.num_bytes == storage.num_bytes == 24
    assert storage.is_tokens
    assert storage.inputs.dtype == torch.uint8
    assert storage.normalise(storage.inputs[:2]).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert storage.label(storage.targets).dtype == torch.int64


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_tokens_have_no_other_kind_and_no_constants(kind: StorageKind) -> None:
    tokens = torch.zeros(3, 4, dtype=torch.uint8)
    split = ArraySplit(inputs=tokens, targets=tokens)
    with pytest.raises(ConfigError, match="holds tokens"):
        build_storage(split, device=CPU, mean=(), std=(), kind=kind)
    with pytest.raises(ConfigError, match="0 channels"):
        build_storage(split, device=CPU, mean=(0.5,), std=(1.0,))


def test_who_asks_for_the_same_first_items_shares_them_and_they_go_with_the_last_holder() -> None:
    cache, split = DeviceCache(), _split()
    mine = cache.first_items(split, 4, device=CPU, mean=MEAN, std=STD)
    theirs = cache.first_items(split, 4, device=CPU, mean=MEAN, std=STD)
    assert mine[0] is theirs[0]
    storage = build_storage(split, device=CPU, mean=MEAN, std=STD)
    assert torch.equal(mine[0], storage.normalise(storage.inputs[:4].clone()))
    assert torch.equal(mine[1], split.targets[:4])
    held = weakref.ref(mine[0])
    del mine, theirs
    gc.collect()
    assert held() is None


def test_another_number_of_first_items_is_another_copy() -> None:
    cache, split = DeviceCache(), _split()
    few, all_ = (cache.first_items(split, limit, device=CPU, mean=MEAN, std=STD) for limit in (3, None))
    assert (len(few[0]), len(all_[0])) == (3, 10)
    other = cache.first_items(split, 3, device=CPU, mean=MEAN, std=MEAN)
    assert not torch.equal(other[0], few[0])


def test_a_cache_goes_to_another_process_with_its_storages() -> None:
    cache, split = DeviceCache(), _split()
    mine = cache.first_items(split, device=CPU, mean=MEAN, std=STD)
    other = copy.deepcopy(cache)  # by the state that a pickle takes
    assert len(other) == 1
    theirs = other.first_items(split, device=CPU, mean=MEAN, std=STD)
    assert torch.equal(mine[0], theirs[0])
