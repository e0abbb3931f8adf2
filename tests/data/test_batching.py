from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.data.augment import AugmentConfig
from esper.data.batching import SharedBatchIterator, StackedBatches
from esper.data.device_cache import DeviceCache, StorageKind
from esper.data.splits import ArraySplit
from esper.leyline import ConfigError

CPU = torch.device("cpu")
MEAN, STD = (0.2, 0.4, 0.6), (0.5, 0.25, 0.3)


def _split(num_items: int = 23) -> ArraySplit:
    values = torch.arange(num_items * 4 * 5 * 3) * 7
    inputs = values.remainder(256).to(torch.uint8).reshape(num_items, 4, 5, 3)
    return ArraySplit(inputs=inputs, targets=torch.arange(num_items), source="rows")


def _iterator(
    seeds: Sequence[int] = (3,),
    batch_size: int = 5,
    *,
    split: ArraySplit | None = None,
    augment: AugmentConfig | None = None,
    is_shuffled: bool = True,
    shares_order: bool = False,
    storage: StorageKind = "auto",
) -> SharedBatchIterator:
    return SharedBatchIterator(
        _split() if split is None else split,
        seeds,
        batch_size,
        device=CPU,
        mean=MEAN,
        std=STD,
        augment=augment,
        is_shuffled=is_shuffled,
        shares_order=shares_order,
        storage=storage,
    )


@given(
    num_items=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    epoch=st.integers(0, 9),
    is_shuffled=st.booleans(),
)
def test_every_item_comes_once_and_no_batch_of_one_is_left_over(
    num_items: int, batch_size: int, epoch: int, is_shuffled: bool
) -> None:
    batches = _iterator((1, 2), batch_size, split=_split(num_items), is_shuffled=is_shuffled)
    dealt = [batches.batch(epoch, index) for index in range(batches.num_batches)]
    for e in range(2):
        seen = torch.cat([batch.indices[e] for batch in dealt])
        assert sorted(seen.tolist()) == list(range(num_items))
    sizes = [batch.targets.shape[1] for batch in dealt]
    assert all(size == batch_size for size in sizes[:-1])
    assert sizes[-1] <= batch_size + 1
    if num_items > 1 and batch_size > 1:
        assert min(sizes) > 1


def test_batch_holds_the_rows_that_its_indices_name() -> None:
    split = _split()
    inputs, targets, indices = _iterator((3, 4)).batch(2, 1)
    assert tuple(inputs.shape) == (2, 5, 3, 4, 5)
    assert inputs.dtype == torch.float32
    assert inputs.is_contiguous()
    assert torch.equal(targets, indices)
    plain = split.inputs[indices].double() / 255
    expected = ((plain - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 1, 4, 2, 3)
    torch.testing.assert_close(inputs.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("augment", [None, AugmentConfig(padding=1)])
@pytest.mark.parametrize("is_shuffled", [True, False])
def test_what_an_instance_sees_does_not_depend_on_the_others(
    augment: AugmentConfig | None, is_shuffled: bool
) -> None:
    alone = _iterator((8,), augment=augment, is_shuffled=is_shuffled)
    fleet = _iterator((5, 8, 2), augment=augment, is_shuffled=is_shuffled)
    for index in range(alone.num_batches):
        lone, among = alone.row(1, index, 0), fleet.batch(1, index)
        single, whole = fleet.row(1, index, 1), alone.batch(1, index)
        for part, other, third, fourth in zip(lone, among, single, whole, strict=True):
            assert torch.equal(part, other[1])
            assert torch.equal(part, third)
            assert torch.equal(part, fourth[0])


@pytest.mark.parametrize("augment", [None, AugmentConfig(padding=1)])
def test_batch_on_a_fresh_iterator_equals_the_one_reached_in_order(augment: AugmentConfig | None) -> None:
    walked = _iterator((8, 9), augment=augment)
    for epoch in range(3):
        for index in range(walked.num_batches):
            fresh = _iterator((8, 9), augment=augment).batch(epoch, index)
            for part, other in zip(walked.batch(epoch, index), fresh, strict=True):
                assert torch.equal(part, other)


@pytest.mark.parametrize("augment", [None, AugmentConfig(padding=1)])
def test_storage_kinds_give_the_same_bits(augment: AugmentConfig | None) -> None:
    small, fast = (_iterator((8, 9), augment=augment, storage=kind) for kind in _KINDS)
    assert not small.is_normalised_storage
    assert fast.is_normalised_storage
    for index in range(small.num_batches):
        assert torch.equal(small.batch(0, index).inputs, fast.batch(0, index).inputs)


_KINDS: tuple[StorageKind, ...] = ("uint8", "float32")


def test_instances_and_epochs_have_their_own_order() -> None:
    batches = _iterator((1, 2))
    first = batches.batch(0, 0).indices
    assert first[0].tolist() != first[1].tolist()
    assert batches.batch(1, 0).indices[0].tolist() != first[0].tolist()


@pytest.mark.parametrize("augment", [None, AugmentConfig(padding=1)])
def test_shared_order_deals_everyone_the_order_of_the_first(augment: AugmentConfig | None) -> None:
    indices = _iterator((1, 2), shares_order=True, augment=augment).batch(0, 0).indices
    assert torch.equal(indices[0], indices[1])
    assert torch.equal(indices[0], _iterator((1,)).row(0, 0, 0).indices)


def test_shared_order_still_augments_each_instance_by_its_own_seed() -> None:
    batches = _iterator((1, 2), shares_order=True, augment=AugmentConfig(padding=1))
    both = batches.batch(0, 0).inputs
    assert not torch.equal(both[0], both[1])
    assert torch.equal(both[1], batches.row(0, 0, 1).inputs)


def test_unshuffled_epochs_keep_the_order_of_the_split() -> None:
    batches = _iterator(is_shuffled=False)
    for epoch in (0, 7):
        assert batches.row(epoch, 1, 0).indices.tolist() == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("is_shuffled", [True, False])
def test_working_in_place_on_a_row_does_not_damage_the_storage(kind: StorageKind, is_shuffled: bool) -> None:
    batches = _iterator(storage=kind, is_shuffled=is_shuffled)
    first = batches.row(0, 0, 0)
    kept = first.inputs.clone()
    first.inputs.fill_(99.0)
    first.targets.fill_(99)
    again = batches.row(0, 0, 0)
    assert torch.equal(again.inputs, kept)
    assert torch.equal(again.targets, again.indices)


def test_flat_float_inputs_are_dealt_too() -> None:
    inputs = torch.arange(12.0).reshape(4, 3)
    split = ArraySplit(inputs=inputs, targets=torch.arange(4))
    batches = SharedBatchIterator(
        split, (0,), 4, device=CPU, mean=(0.0,) * 3, std=(1.0,) * 3, is_shuffled=False
    )
    assert torch.equal(batches.row(0, 0, 0).inputs, inputs)
    assert tuple(batches.batch(0, 0).inputs.shape) == (1, 4, 3)


def test_iterators_of_one_cache_share_one_storage() -> None:
    with DeviceCache() as cache:
        for seed in range(3):
            SharedBatchIterator(_split(), (seed,), 5, device=CPU, mean=MEAN, std=STD, cache=cache)
        assert len(cache) == 1


def test_global_generator_is_not_moved() -> None:
    before = torch.get_rng_state()
    batches = _iterator((1, 2), augment=AugmentConfig())
    batches.batch(0, 0)
    batches.row(1, 0, 1)
    assert torch.equal(before, torch.get_rng_state())


def test_counts_are_those_of_the_split() -> None:
    batches = _iterator((1, 2))
    assert (batches.num_items, batches.num_instances, batches.num_batches) == (23, 2, 5)


@pytest.mark.parametrize("num_items", [20, 21, 23])
@pytest.mark.parametrize(("is_shuffled", "shares_order"), [(True, False), (True, True), (False, False)])
def test_bug13_every_environment_is_dealt_as_many_items_as_the_split_has(
    num_items: int, is_shuffled: bool, shares_order: bool
) -> None:
    batches = _iterator(
        (1, 2, 3), 5, split=_split(num_items), is_shuffled=is_shuffled, shares_order=shares_order
    )
    places = range(batches.num_batches)
    together = [sum(batches.batch(0, i).targets.shape[1] for i in places)] * 3
    one_by_one = [sum(len(batches.row(0, i, e).targets) for i in places) for e in range(3)]
    assert together == one_by_one == [num_items] * 3
    # The short last batch is there, and no further one.
    assert len(batches.row(0, batches.num_batches - 1, 2).targets) == {20: 5, 21: 6, 23: 3}[num_items]
    with pytest.raises(IndexError):
        batches.row(0, batches.num_batches, 2)


def test_arguments_out_of_range_are_refused() -> None:
    batches = _iterator((1, 2))
    for epoch, index, e in ((-1, 0, 0), (0, 5, 0), (0, -1, 0), (0, 0, 2), (0, 0, -1)):
        with pytest.raises(IndexError, match="must be"):
            batches.row(epoch, index, e)
    with pytest.raises(ConfigError, match="instance_seeds"):
        _iterator(())
    with pytest.raises(ConfigError, match="batch_size=0"):
        _iterator(batch_size=0)
    flat = ArraySplit(inputs=torch.zeros(4, 3), targets=torch.arange(4))
    with pytest.raises(ConfigError, match="flat inputs"):
        _iterator(split=flat, augment=AugmentConfig())


def _tokens(num_items: int = 23, dtype: torch.dtype = torch.uint8) -> ArraySplit:
    tokens = torch.arange(num_items * 4).reshape(num_items, 4)
    return ArraySplit(inputs=tokens.to(dtype), targets=(tokens + 1).to(dtype), source="tokens")


def _token_batches(
    seeds: Sequence[int] = (3,), batch_size: int = 5, *, epoch_batches: int | None = None, num_items: int = 23
) -> SharedBatchIterator:
    return SharedBatchIterator(
        _tokens(num_items), seeds, batch_size, device=CPU, mean=(), std=(), epoch_batches=epoch_batches
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int32])
def test_tokens_come_out_as_int64_with_the_target_of_each(dtype: torch.dtype) -> None:
    batches = SharedBatchIterator(_tokens(dtype=dtype), (3, 4), 5, device=CPU, mean=(), std=())
    both = batches.batch(1, 2)
    assert both.inputs.dtype == both.targets.dtype == torch.int64
    assert both.inputs.shape == both.targets.shape == (2, 5, 4)
    assert torch.equal(both.targets, both.inputs + 1)
    for e in range(2):
        row = batches.row(1, 2, e)
        assert all(torch.equal(one, many[e]) for one, many in zip(row, both, strict=True))
        assert torch.equal(row.inputs[:, 0], 4 * row.indices)


@given(num_items=st.integers(1, 40), batch_size=st.integers(1, 12), epoch_batches=st.integers(1, 9))
def test_epochs_of_so_many_batches_go_on_where_the_last_one_ended(
    num_items: int, batch_size: int, epoch_batches: int
) -> None:
    batches = _token_batches((7,), batch_size, epoch_batches=epoch_batches, num_items=num_items)
    size = min(batch_size, num_items)
    assert batches.num_batches == epoch_batches
    assert batches.num_items == epoch_batches * size
    per_pass = num_items // size
    order = [
        item
        for epoch in range(4)
        for index in range(epoch_batches)
        for item in batches.row(epoch, index, 0).indices.tolist()
    ]
    assert len(order) == 4 * batches.num_items
    for start in range(0, len(order) - per_pass * size + 1, per_pass * size):
        one_pass = order[start : start + per_pass * size]
        assert len(set(one_pass)) == len(one_pass)


def test_short_epochs_see_what_one_long_pass_would_show() -> None:
    short, whole = _token_batches(epoch_batches=2, num_items=20), _token_batches(num_items=20)
    rows = [short.row(epoch, index, 0).indices for epoch in range(2) for index in range(2)]
    assert all(torch.equal(row, whole.row(0, index, 0).indices) for index, row in enumerate(rows))
    third = short.row(2, 0, 0).indices
    assert torch.equal(third, whole.row(1, 0, 0).indices)


def test_an_epoch_of_no_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="epoch_batches=0"):
        _token_batches(epoch_batches=0)
    with pytest.raises(IndexError, match=r"batch 2: must be in \[0, 2\)"):
        _token_batches(epoch_batches=2).row(0, 2, 0)


@pytest.mark.parametrize("augment", [None, AugmentConfig(padding=1)])
@pytest.mark.parametrize("is_shared", [True, False])
@pytest.mark.parametrize("storage", ["uint8", "float32"])
@pytest.mark.parametrize("epoch_batches", [None, 3])
def test_rows_gathered_at_once_are_those_of_each_iterator(
    augment: AugmentConfig | None, is_shared: bool, storage: StorageKind, epoch_batches: int | None
) -> None:
    cache, split = DeviceCache(), _split()
    iterators = [
        SharedBatchIterator(
            split,
            [seed],
            5,
            device=CPU,
            mean=MEAN,
            std=STD,
            augment=augment,
            epoch_batches=epoch_batches,
            storage=storage,
            cache=cache if is_shared else None,
        )
        for seed in (3, 4, 5)
    ]
    epochs = [0, 4, 1]
    for index in range(iterators[0].num_batches):
        gathered = StackedBatches(iterators, epochs).batch(index)
        for e, (iterator, epoch) in enumerate(zip(iterators, epochs, strict=True)):
            assert all(map(torch.equal, (part[e] for part in gathered), iterator.row(epoch, index, 0)))
    assert (len({iterator.identity for iterator in iterators}) == 1) is is_shared


def test_gathering_a_batch_that_is_not_there_is_refused() -> None:
    iterators = [_iterator([seed]) for seed in (1, 2)]
    with pytest.raises(IndexError, match="batch 5"):
        StackedBatches(iterators, [0, 0]).batch(iterators[0].num_batches)
