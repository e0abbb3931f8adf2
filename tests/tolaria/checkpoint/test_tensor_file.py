from __future__ import annotations

import tracemalloc
from collections.abc import Mapping

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from esper.tolaria.checkpoint.tensor_file import MAX_TENSORS, check_header, encode_tensors, parse_tensors
from tolaria.checkpoint.hostile import build_entry, build_tensor_bytes

CAP = 2**20
DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool, torch.uint16, torch.uint32, torch.uint64,
    torch.float8_e4m3fn, torch.float8_e5m2,
)  # fmt: skip
NAMES = st.text(alphabet="abcXYZ019_.:/#-", min_size=1, max_size=30)


def round_trip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    data, aliases = encode_tensors(tensors, max_tensor_bytes=CAP)
    assert check_header(data, max_tensor_bytes=CAP) == len(tensors) - len(aliases)
    return parse_tensors(data, aliases, max_tensor_bytes=CAP)


def bits(tensor: Tensor) -> bytes:
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).tolist()) if flat.numel() else b""


@st.composite
def built_tensors(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    count = int(torch.Size(shape).numel()) * dtype.itemsize
    limit = 1 if dtype is torch.bool else 255
    raw = draw(st.lists(st.integers(0, limit), min_size=count, max_size=count))
    tensor = torch.tensor(raw, dtype=torch.uint8).view(dtype).reshape(shape)
    return tensor.transpose(0, -1) if draw(st.booleans()) and shape else tensor


@given(st.dictionaries(NAMES, built_tensors(), max_size=4))
def test_any_bits_of_any_dtype_and_layout_round_trip(tensors: dict[str, Tensor]) -> None:
    loaded = round_trip(tensors)
    assert list(loaded) == sorted(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert bits(loaded[name]) == bits(tensor)
        assert loaded[name].is_contiguous()


def test_tied_tensors_are_stored_once_and_tied_again() -> None:
    weight = torch.nn.Parameter(torch.randn(8, 4))
    data, aliases = encode_tensors({"b": weight, "a": weight.detach()}, max_tensor_bytes=8 * 4 * 4)
    assert aliases == {"a": "b"}
    loaded = parse_tensors(data, aliases, max_tensor_bytes=8 * 4 * 4)
    assert loaded["a"] is loaded["b"]
    assert torch.equal(loaded["a"], weight)


def test_views_that_only_overlap_are_stored_by_value() -> None:
    base = torch.arange(12.0)
    tensors = {"all": base, "matrix": base.view(3, 4), "turned": base.view(3, 4).t(), "tail": base[4:]}
    data, aliases = encode_tensors(tensors, max_tensor_bytes=CAP)
    assert aliases == {}
    loaded = parse_tensors(data, aliases, max_tensor_bytes=CAP)
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor)


def test_empty_tensors_are_never_taken_for_tied() -> None:
    loaded = round_trip({"a": torch.zeros(0, 3), "b": torch.zeros(0, 3), "c": torch.zeros(3, 0)})
    assert loaded["a"] is not loaded["b"]
    assert loaded["c"].shape == (3, 0)


def test_lazy_conjugation_and_negation_are_resolved() -> None:
    value = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)
    tensors = {"plain": value, "conj": value.conj(), "neg": value.conj().imag}
    loaded = round_trip(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor)


def test_nan_payloads_and_negative_zero_keep_their_bits() -> None:
    tensor = torch.tensor([0x7FC00001, -0x80000000, 0x7F800000], dtype=torch.int32).view(torch.float32)
    assert bits(round_trip({"x": tensor})["x"]) == bits(tensor)


def test_saving_does_not_change_or_keep_the_tensors() -> None:
    tensor = torch.randn(4, 3).t()
    before = tensor.clone()
    data, _ = encode_tensors({"x": tensor}, max_tensor_bytes=CAP)
    tensor.zero_()
    assert torch.equal(parse_tensors(data, {}, max_tensor_bytes=CAP)["x"], before)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("", torch.zeros(1), "tensor name '' must match"),
        ("a b", torch.zeros(1), "tensor name 'a b' must match"),
        ("x" * 257, torch.zeros(1), "must match"),
        ("__metadata__", torch.zeros(1), "not be __metadata__"),
        ("x", torch.zeros(1, dtype=torch.complex128), "complex128.* cannot be saved"),
        ("x", torch.zeros(2, 2).to_sparse(), "sparse_coo.* cannot be saved"),
        ("x", torch.zeros(2, device="meta"), "meta.* cannot be saved"),
        ("x", torch.zeros(CAP // 4 + 1), "max_tensor_bytes is 1048576"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name(name: str, tensor: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_tensors({name: tensor}, max_tensor_bytes=CAP)


def test_too_many_tensors_are_refused_before_anything_is_copied() -> None:
    one = torch.zeros(1)
    with pytest.raises(ValueError, match="100001 tensors, at most 100000"):
        encode_tensors({str(index): one for index in range(MAX_TENSORS + 1)}, max_tensor_bytes=CAP)


WHOLE = build_entry(0, 4, [1])
HOSTILE = {
    "no length": (b"\0" * 7, "too few for a header length"),
    "length 2**63": (build_tensor_bytes(b"{}", length=2**63), "header of 9223372036854775808 bytes"),
    "length beyond the file": (build_tensor_bytes(b"{}", length=3), "header of 3 bytes in a file of 10"),
    "not JSON": (build_tensor_bytes(b"pickle"), "Expecting value"),
    "not an object": (build_tensor_bytes(b"[]"), "not an object"),
    "deep": (build_tensor_bytes(b"[" * 300_000), "nested deeper"),
    "brackets": (build_tensor_bytes(b"[" * 300_003), "objects and arrays, at most"),
    "strings": (build_tensor_bytes(b"{" + b'"":0,' * 500_501 + b"}"), "more strings than 100000 tensors"),
    "duplicate key": (
        build_tensor_bytes(b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{}}'),
        "duplicate key 'a'",
    ),
    "duplicate inner key": (
        build_tensor_bytes(b'{"a":{"dtype":"F32","dtype":"F64","shape":[0],"data_offsets":[0,0]}}'),
        "duplicate key 'dtype'",
    ),
    "overlap": (build_tensor_bytes({"a": WHOLE, "b": build_entry(2, 6, [1])}, b"123456"), "hole or overlap"),
    "same range": (build_tensor_bytes({"a": WHOLE, "b": WHOLE}, b"1234"), "hole or overlap"),
    "hole": (build_tensor_bytes({"a": WHOLE, "b": build_entry(5, 9, [1])}, b"123456789"), "hole or overlap"),
    "hole at the start": (build_tensor_bytes({"a": build_entry(4, 8, [1])}, b"12345678"), "hole or overlap"),
    "rest at the end": (build_tensor_bytes({"a": WHOLE}, b"12345"), "hole or overlap"),
    "outside the file": (build_tensor_bytes({"a": build_entry(0, 8, [2])}, b"1234"), "hole or overlap"),
    "backwards": (build_tensor_bytes({"a": build_entry(4, 0, [1])}, b"1234"), "data_offsets say otherwise"),
    "wrong size": (build_tensor_bytes({"a": build_entry(0, 4, [2])}, b"1234"), "needs 8 bytes"),
    "overflow": (
        build_tensor_bytes({"a": build_entry(0, 0, [2**62, 2**62])}),
        "product of its shape overflows",
    ),
    "overflow to zero": (build_tensor_bytes({"a": build_entry(0, 0, [2**32, 2**32])}), "overflows"),
    "overflow of empty": (build_tensor_bytes({"a": build_entry(0, 0, [0, 2**62, 2**62])}), "overflows"),
    "size 2**63": (build_tensor_bytes({"a": build_entry(0, 0, [2**63])}), r"integers in \[0, 2\*\*63\)"),
    "negative size": (build_tensor_bytes({"a": build_entry(0, 4, [-1])}, b"1234"), "integers in"),
    "boolean size": (build_tensor_bytes({"a": build_entry(0, 4, [True])}, b"1234"), "integers in"),
    "fractional size": (build_tensor_bytes({"a": build_entry(0, 4, [1.0])}, b"1234"), "integers in"),
    "rank 33": (build_tensor_bytes({"a": build_entry(0, 4, [1] * 33)}, b"1234"), "at most 32 sizes"),
    "shape is no list": (
        build_tensor_bytes({"a": {"dtype": "F32", "shape": {}, "data_offsets": [0, 0]}}),
        "shape must be a list",
    ),
    "unknown dtype": (build_tensor_bytes({"a": build_entry(0, 4, [1], "O")}, b"1234"), "unknown dtype 'O'"),
    "dtype is a list": (
        build_tensor_bytes({"a": {"dtype": ["F32"], "shape": [], "data_offsets": [0, 4]}}, b"1234"),
        "unknown dtype",
    ),
    "missing key": (build_tensor_bytes({"a": {"dtype": "F32", "shape": []}}), "must have dtype, shape and"),
    "entry is a number": (build_tensor_bytes({"a": 1}), "must have dtype, shape and"),
    "name": (build_tensor_bytes({"../a": WHOLE, "a\n": WHOLE}, b"1234"), "tensor name"),
    "metadata": (build_tensor_bytes({"__metadata__": {"a": 1}}), "must map strings to strings"),
    "metadata is a list": (build_tensor_bytes({"__metadata__": []}), "must map strings to strings"),
    "too much data": (build_tensor_bytes(b"{}", bytes(CAP + 1)), "max_tensor_bytes is 1048576"),
}


@pytest.mark.battery("T09")
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers_are_refused_without_allocating(case: str) -> None:
    data, message = HOSTILE[case]
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            parse_tensors(data, {}, max_tensor_bytes=CAP)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.battery("T09")
def test_a_header_of_100_megabytes_is_refused_by_its_length() -> None:
    data = build_tensor_bytes(bytes(100_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="header of 100000000 bytes"):
            parse_tensors(data, {}, max_tensor_bytes=2**30)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.battery("T09")
def test_a_million_tensors_are_refused_before_they_are_parsed() -> None:
    entries = b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(10**6))
    with pytest.raises(ValueError, match="header of 57888891 bytes"):
        parse_tensors(build_tensor_bytes(b"{" + entries + b"}"), {}, max_tensor_bytes=CAP)
    fewer = b",".join(b'"%d":{"shape":[],"dtype":"U8"}' % n for n in range(MAX_TENSORS + 1))
    with pytest.raises(ValueError, match="100001 tensors, at most 100000"):
        parse_tensors(build_tensor_bytes(b"{" + fewer + b"}"), {}, max_tensor_bytes=CAP)


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        ({"b": "gone"}, "'b' cannot stand for 'gone'"),
        ({"a": "a"}, "'a' cannot stand for 'a'"),
        ({"b": "a", "c": "b"}, "'c' cannot stand for 'b'"),
        ({"b c": "a"}, "tensor name 'b c'"),
        ({str(index): "a" for index in range(MAX_TENSORS)}, "100001 tensors, at most"),
    ],
)
def test_aliases_that_lead_nowhere_are_refused(aliases: dict[str, str], message: str) -> None:
    data, _ = encode_tensors({"a": torch.zeros(1)}, max_tensor_bytes=CAP)
    with pytest.raises(ValueError, match=message):
        parse_tensors(data, aliases, max_tensor_bytes=CAP)


def test_the_library_agrees_with_what_the_check_lets_through() -> None:
    data = build_tensor_bytes({"b": build_entry(4, 8, [1]), "a": WHOLE, "__metadata__": {"k": "v"}}, bytes(8))
    assert check_header(data, max_tensor_bytes=CAP) == 2
    assert safetensors.torch.load(data).keys() == {"a", "b"}


@pytest.mark.battery("T10")
@given(st.binary(max_size=300))
def test_any_bytes_parse_or_raise_value_error(data: bytes) -> None:
    for candidate in (data, build_tensor_bytes(data), build_tensor_bytes({"a": WHOLE}, data)):
        try:
            parse_tensors(candidate, {}, max_tensor_bytes=CAP)
        except ValueError:
            continue
