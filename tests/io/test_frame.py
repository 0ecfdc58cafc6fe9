from __future__ import annotations

import contextlib
import itertools
import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
import torch
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as stock_load
from torch.utils._python_dispatch import TorchDispatchMode

from comfy_gpu_offload.errors import FrameError
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.buffers import ALIGNMENT, allocate, tensor_bytes
from comfy_gpu_offload.io.dtypes import DTYPES
from comfy_gpu_offload.io.frame import MAGIC, PRELUDE, EncodedFrame, FrameLimits, Part, decode, encode, frame_size

GOLDEN = Path(__file__).parent / "golden"
LIMITS = FrameLimits(frame_bytes=1 << 20, header_bytes=1 << 16, tensor_bytes=1 << 20, tensors=16, rank=8)


def random_tensor(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Every bit pattern of the dtype may come up, NaNs included; a bool is 0 or 1."""
    generator = torch.Generator().manual_seed(hash(shape) & 0xFFFF)
    high = 2 if dtype is torch.bool else 256
    count = torch.Size(shape).numel() * dtype.itemsize
    raw = torch.randint(0, high, (count,), generator=generator, dtype=torch.uint8)
    return raw.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)


SHAPES: dict[str, Callable[[torch.dtype], torch.Tensor]] = {
    "0-d": lambda dtype: random_tensor(dtype, 1).reshape(()),
    "1-d": lambda dtype: random_tensor(dtype, 7),
    "empty": lambda dtype: random_tensor(dtype, 3, 0, 2),
    "sliced": lambda dtype: random_tensor(dtype, 6, 8)[1::2, 2:7:2],
    "transposed": lambda dtype: random_tensor(dtype, 3, 4, 5).transpose(0, 2),
    "zero stride": lambda dtype: random_tensor(dtype, 1, 4).expand(3, 4),
    "one expanded": lambda dtype: random_tensor(dtype, 1, 4)[:, :1].expand(1, 1),
    "5-d": lambda dtype: random_tensor(dtype, 1, 2, 3, 2, 2),
}


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor_bytes(tensor))


@pytest.mark.parametrize(
    "codec", [codecs.RAW, codecs.ZSTD, codecs.PLANES, codecs.AUTO], ids=lambda codec: codec.name
)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_dtype_and_layout_comes_back_bit_for_bit(
    dtype: torch.dtype, shape: str, codec: codecs.Codec | codecs.Chooser
) -> None:
    if shape == "sliced" and dtype.itemsize == 1 and "float4" in str(dtype):
        pytest.skip("torch cannot stride over packed 4-bit floats")
    tensor = SHAPES[shape](dtype)
    (received,) = decode(encode({}, None, [Part("x", tensor)], codec).joined()).tensors
    assert received.tensor is not None
    assert received.tensor.dtype == tensor.dtype
    assert received.tensor.shape == tensor.shape
    assert received.tensor.stride() == tensor.stride()
    assert bits(received.tensor) == bits(tensor)


def test_gradients_and_lazy_conjugates_travel_as_their_values() -> None:
    z = torch.randn(3, dtype=torch.complex64).conj()
    w = torch.randn(3, requires_grad=True)
    first, second = decode(encode({}, None, [Part("z", z), Part("w", w)]).joined()).tensors
    assert first.tensor is not None
    assert second.tensor is not None
    assert torch.equal(first.tensor, z.resolve_conj())
    assert torch.equal(second.tensor, w.detach())


class Copies(TorchDispatchMode):
    """Counts what torch copies meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket in {torch.ops.aten.clone, torch.ops.aten._to_copy, torch.ops.aten.copy_}
        return func(*args, **(kwargs or {}))


def address(buffer: Any) -> int:
    return torch.frombuffer(buffer, dtype=torch.uint8).data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_encoding_raw_copies_what_is_strided_once_and_nothing_else(dtype: torch.dtype) -> None:
    dense = random_tensor(dtype, 64, 96)
    with Copies() as copies:
        last = encode({"type": "x"}, None, [Part("x", dense)]).buffers[-1]
    assert (address(last), len(last), copies.count) == (dense.data_ptr(), dense.nbytes, 0)
    with Copies() as copies:
        frame = encode({"type": "x"}, None, [Part("x", dense.t())])
    assert copies.count == 1
    assert len(frame.buffers) == 2  # what was copied once goes out from there


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_decoding_raw_copies_nothing_and_the_first_tensor_is_aligned(dtype: torch.dtype) -> None:
    frame = encode({"type": "x"}, None, [Part(name, random_tensor(dtype, 64, 96)) for name in "ab"])
    buffer = allocate(frame.size_bytes)
    buffer[:] = frame.joined()
    with Copies() as copies:
        tensors = [received.tensor for received in decode(buffer).tensors]
    assert copies.count == 0
    start = address(buffer)
    places = [tensor.data_ptr() - start for tensor in tensors if tensor is not None]
    size = 64 * 96 * dtype.itemsize
    assert places == [frame.size_bytes - 2 * size, frame.size_bytes - size]
    assert (start + places[0]) % ALIGNMENT == 0


def test_decoding_copies_what_is_strided_once() -> None:
    frame = encode({}, None, [Part("x", torch.randn(64, 96).t())]).joined()
    with Copies() as copies:
        (received,) = decode(frame).tensors
    assert copies.count == 1
    assert received.tensor is not None
    assert received.tensor.stride() == received.strides == (1, 96)


def test_data_begins_aligned_and_wider_dtypes_come_first() -> None:
    parts = [Part("b", torch.ones(3, dtype=torch.bool)), Part("d", torch.ones(5, dtype=torch.float64))]
    frame = encode({}, None, parts)
    assert len(frame.buffers[0]) % 64 == 0
    decoded = {received.name: received.tensor for received in decode(frame.joined()).tensors}
    assert all(tensor is not None and tensor.data_ptr() % tensor.element_size() == 0 for tensor in decoded.values())


@pytest.mark.parametrize("codec", [codecs.RAW, codecs.ZSTD], ids=lambda codec: codec.name)
def test_the_stock_library_reads_the_section(codec: codecs.Codec) -> None:
    tensors = {"a": torch.randn(4, 5).bfloat16(), "b": torch.zeros(5000), "c": torch.arange(3)}
    frame = bytes(encode({}, None, [Part(*item) for item in tensors.items()], codec).joined())
    _, _, _, header_bytes, _, _ = PRELUDE.unpack_from(frame)
    read = stock_load(frame[PRELUDE.size + header_bytes :])
    assert read.keys() == tensors.keys()
    assert torch.equal(read["a"], tensors["a"])
    if codec == codecs.ZSTD:
        assert read["b"].dtype is torch.uint8
        assert len(read["b"]) < 100
    else:
        assert torch.equal(read["b"], tensors["b"])


def test_a_held_tensor_leaves_only_its_digest() -> None:
    digest = bytes(range(32))
    frame = encode({}, ["T", 0], [Part("x", torch.randn(10_000), digest, held=True)])
    assert frame.size_bytes < 200
    (received,) = decode(frame.joined()).tensors
    assert (received.tensor, received.digest, received.shape) == (None, digest, (10_000,))


# --- golden frames: these bytes are the format ---------------------------------------------------------------

GOLDEN_FRAMES: dict[str, tuple[dict[str, Any], Any, list[Part]]] = {
    "empty": ({"type": "nothing"}, None, []),
    "tensors": (
        {"type": "forward", "n": 3},
        ["t", ["t", ["T", 0], ["T", 1]], ["d", "context", ["T", 2]]],
        [
            Part("args[0]", torch.arange(6, dtype=torch.float32).reshape(2, 3).bfloat16()),
            Part("args[1]", torch.tensor(0.5, dtype=torch.float64)),
            Part("kwargs['context']", torch.zeros(4, 4), bytes(32), held=True),
        ],
    ),
}


@pytest.mark.parametrize("name", GOLDEN_FRAMES)
def test_encoding_gives_the_golden_bytes(name: str) -> None:
    message, skeleton, parts = GOLDEN_FRAMES[name]
    assert bytes(encode(message, skeleton, parts).joined()) == (GOLDEN / f"{name}.bin").read_bytes()


@pytest.mark.parametrize("name", GOLDEN_FRAMES)
def test_golden_bytes_give_what_was_encoded(name: str) -> None:
    message, skeleton, parts = GOLDEN_FRAMES[name]
    frame = decode((GOLDEN / f"{name}.bin").read_bytes())
    assert (frame.message, frame.skeleton) == (message, skeleton)
    for part, received in zip(parts, frame.tensors, strict=True):
        assert (received.name, received.digest) == (part.name, part.digest)
        assert (received.tensor is None) == part.held
        assert received.tensor is None or torch.equal(received.tensor, part.tensor)


def test_a_golden_zstd_frame_decodes() -> None:
    (received,) = decode((GOLDEN / "zstd.bin").read_bytes()).tensors
    assert received.tensor is not None
    assert torch.equal(received.tensor, torch.arange(2000, dtype=torch.int32) // 100)


def test_a_golden_packed_frame_decodes() -> None:
    frame = decode((GOLDEN / "packed.bin").read_bytes())
    assert frame.message == {"type": "long", "names": [f"block.{number}.weight" for number in range(200)]}
    (received,) = frame.tensors
    assert received.tensor is not None
    assert torch.equal(received.tensor, torch.arange(8, dtype=torch.int32))


def test_a_long_header_is_packed_where_that_is_asked_for() -> None:
    message = {"type": "long", "names": [f"block.{number}.weight" for number in range(200)]}
    parts = [Part("x", torch.arange(8, dtype=torch.int32))]
    plain, packed = (encode(message, ["T", 0], parts, packs_header=packs) for packs in (False, True))
    assert plain.size_bytes > 4 * packed.size_bytes
    frame = decode(bytes(packed.joined()))
    assert (frame.message, frame.skeleton) == (message, ["T", 0])
    data = frame.tensors[0].tensor
    assert data is not None
    assert data.data_ptr() % 64 == 0
    assert bytes(encode({"type": "short"}, packs_header=True).joined()) == bytes(encode({"type": "short"}).joined())


# --- malformations: every name in docs/frame.md ---------------------------------------------------------------


def build(
    table: list[Any] | Any,
    section: bytes = b"",
    message: Any = None,
    header: bytes | None = None,
    **prelude: int,
) -> bytes:
    """Return a frame with this content and a right checksum."""
    if header is None:
        header = msgpack.packb({"message": message or {}, "tree": None, "tensors": table})
    values = {"version": 1, "flags": 0, "header": len(header), "section": len(section)} | prelude
    checksum = values.pop("checksum", xxhash.xxh3_64(header + section).intdigest())
    return PRELUDE.pack(MAGIC, *values.values(), checksum) + header + section


def section(text: Any, data: bytes = b"") -> bytes:
    head = text if isinstance(text, bytes) else json.dumps(text).encode()
    return struct.pack("<Q", len(head)) + head + data


def row(**changed: Any) -> dict[str, Any]:
    return {"name": "x", "dtype": "U8", "shape": [4], "codec": "raw"} | changed


ENTRY = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
GOOD = section({"x": ENTRY}, b"abcd")
GOOD_FRAME = build([row()], GOOD)

HEADER = msgpack.packb({"message": {}, "tree": None, "tensors": []})

MALFORMED: list[tuple[str, bytes]] = [
    ("truncated", b""),
    ("truncated", GOOD_FRAME[:31]),
    ("truncated", GOOD_FRAME[:-1]),
    ("trailing_bytes", GOOD_FRAME + b"x"),
    ("bad_magic", b"X" + GOOD_FRAME[1:]),
    ("unsupported_version", build([row()], GOOD, version=2)),
    ("unsupported_version", build([row()], GOOD, flags=2)),
    ("header_too_large", PRELUDE.pack(MAGIC, 1, 0, (1 << 16) + 1, 0, 0)),
    ("frame_too_large", PRELUDE.pack(MAGIC, 1, 0, 10, 1 << 40, 0)),
    ("bad_checksum", build([row()], GOOD, checksum=1)),
    ("bad_header", build([], header=b"\xc1")),
    ("bad_header", build([], header=msgpack.packb([1]))),
    ("bad_header", build([], header=msgpack.packb({"message": {}, "tree": None}))),
    ("bad_header", build([], header=msgpack.packb({"message": 1, "tree": None, "tensors": []}))),
    (
        "bad_header",
        build([], header=msgpack.packb({"message": {}, "tree": msgpack.ExtType(1, b""), "tensors": []})),
    ),
    ("bad_header", build([], header=b"\x91" * 5000)),
    ("bad_header", build([], header=msgpack.packb({"message": {}, "tree": None, "tensors": []}) + b"\x00")),
    ("bad_header", build([], header=b"no zstd", flags=1)),
    ("bad_header", build([], header=HEADER, flags=1)),
    ("bad_header", build([], header=zstandard.ZstdCompressor().compress(HEADER)[:-4], flags=1)),
    ("bad_header", build([], header=zstandard.ZstdCompressor().compress(HEADER) * 2, flags=1)),
    ("bad_header", build([], header=zstandard.ZstdCompressor(write_content_size=False).compress(HEADER), flags=1)),
    ("bad_header", build([], header=zstandard.ZstdCompressor().compress(b"\x91" * 5000), flags=1)),
    ("header_too_large", build([], header=zstandard.ZstdCompressor().compress(bytes((1 << 16) + 1)), flags=1)),
    ("too_many_tensors", build([row(name=str(i)) for i in range(17)])),
    ("tensors_too_large", build([row(shape=[1 << 21])])),
    ("repeated_tensor", build([row(), row()], GOOD)),
    ("bad_tensor", build(["x"])),
    ("bad_tensor", build([row(surprise=1)])),
    ("bad_tensor", build([row(name=7)])),
    ("bad_tensor", build([{"name": "x", "dtype": "U8", "shape": [4]}])),
    ("unknown_dtype", build([row(dtype="F128")])),
    ("unknown_dtype", build([row(dtype=["U8"])])),
    ("unknown_dtype", build([row()], section({"x": ENTRY | {"dtype": "Q4"}}, b"abcd"))),
    ("bad_shape", build([row(shape=4)])),
    ("bad_shape", build([row(shape=[-4])])),
    ("bad_shape", build([row(shape=[2.0])])),
    ("bad_shape", build([row(shape=[True])])),
    ("bad_shape", build([row(shape=[1] * 9)])),
    ("bad_shape", build([row(shape=[1 << 40, 1 << 40])])),
    ("bad_strides", build([row(strides=4)], GOOD)),
    ("bad_strides", build([row(strides=[1, 1])], GOOD)),
    ("bad_strides", build([row(strides=[-1])], GOOD)),
    ("bad_strides", build([row(strides=[1.0])], GOOD)),
    ("bad_strides", build([row(strides=[True])], GOOD)),
    ("bad_strides", build([row(strides=[1 << 62])], GOOD)),
    ("bad_strides", build([row(strides=[1 << 40])], GOOD)),
    ("bad_strides", build([row(shape=[0], strides=[1])], GOOD)),
    ("bad_digest", build([row(digest=b"short")])),
    ("bad_digest", build([row(digest="x" * 32)])),
    ("unknown_codec", build([row(codec="middle-out")])),
    ("unknown_codec", build([row(codec="auto")])),
    ("unknown_codec", build([row(codec="fp8", dtype="F16", shape=[1, 4, 512], parameters={"block": 64})], GOOD)),
    ("unknown_codec", build([row(codec="int8-channel", dtype="F16", shape=[1, 4, 512])], GOOD)),
    ("unknown_codec", build([row(codec=1)])),
    ("unknown_codec", build([row(parameters={"level": 3})])),
    ("unknown_codec", build([row(codec="int8-block", parameters={"block": 5})])),
    ("unknown_codec", build([row(parameters=[])])),
    ("bad_section", build([row()], b"short")),
    ("bad_section", build([row()], struct.pack("<Q", 1 << 60) + b"{}")),
    ("bad_section", build([row()], section(b"not json"))),
    ("bad_section", build([row()], section(b"[" * 60_000))),
    ("bad_section", build([row()], section([1]))),
    ("bad_section", build([row()], section(b'{"x":1,"x":2}'))),
    ("bad_section", build([row()], section({"x": 1}))),
    ("bad_section", build([row()], section({"x": ENTRY | {"shape": [5], "data_offsets": [0, 5]}}, b"abcd"))),
    ("bad_section", build([row()], section({"x": ENTRY | {"data_offsets": [3, 2]}}, b"abcd"))),
    ("bad_section", build([row()], section({"x": ENTRY | {"data_offsets": [0, 4, 4]}}, b"abcd"))),
    ("bad_section", build([row()], section({"x": ENTRY}, b"abcdefgh"))),
    ("bad_section", build([row()], section({"x": ENTRY, "y": ENTRY}, b"abcd"))),
    ("bad_section", build([row()], section({"x": ENTRY | {"data_offsets": [4, 8]}}, b"abcdefgh"))),
    ("shape_mismatch", build([row()], section({"x": ENTRY | {"shape": [5]}}, b"abcd"))),
    ("missing_tensor", build([row()])),
    ("missing_tensor", build([row(name="y")], GOOD)),
    ("surplus_tensor", build([], GOOD)),
    ("contradiction", build([row(shape=[2, 2])], GOOD)),
    ("contradiction", build([row(dtype="I8")], GOOD)),
    ("bad_payload", build([row(codec="zstd", shape=[100])], GOOD)),
    ("bad_payload", build([row(codec="planes", shape=[100])], GOOD)),
    ("bad_payload", build([row(codec="int8-block", dtype="F16", shape=[1, 4, 512])], GOOD)),
]


@pytest.mark.parametrize(("name", "frame"), MALFORMED, ids=[f"{i}-{name}" for i, (name, _) in enumerate(MALFORMED)])
def test_every_malformation_has_its_name(name: str, frame: bytes) -> None:
    with pytest.raises(FrameError) as caught:
        decode(frame, LIMITS)
    assert caught.value.malformation == name


@pytest.mark.parametrize("codec", ["fp8", "int8-channel"])
def test_a_frame_of_an_earlier_release_is_refused_with_what_to_use(codec: str) -> None:
    with pytest.raises(FrameError, match=f"{codec!r} was removed .* set COMFY_GPU_OFFLOAD_COMPRESSION to auto"):
        decode(build([row(codec=codec)], GOOD))


def test_the_specification_names_what_the_code_can_raise_and_nothing_else() -> None:
    text = (Path(__file__).parents[2] / "docs" / "frame.md").read_text()
    table = text.split("## Malformations")[1].split("\n## ")[0]
    specified = {line.split("`")[1] for line in table.splitlines() if line.startswith("| `")}
    # These two arise above the frame: tests/io/test_tree.py and tests/protocol/test_envelope.py.
    assert specified == {name for name, _ in MALFORMED} | {"bad_tree", "unsupported_protocol"}


def test_every_truncation_and_every_altered_byte_is_noticed() -> None:
    message, skeleton, parts = GOLDEN_FRAMES["tensors"]
    frame = bytes(encode(message, skeleton, parts).joined())
    for end in range(len(frame)):
        with pytest.raises(FrameError):
            decode(frame[:end], LIMITS)
    for position in range(len(frame)):
        altered = bytearray(frame)
        altered[position] ^= 0x40
        with pytest.raises(FrameError):
            decode(altered, LIMITS)


def test_re_ordered_pieces_are_noticed() -> None:
    frame = bytes(encode({}, None, [Part("x", torch.randn(4096))]).joined())
    pieces = [frame[i : i + 1000] for i in range(0, len(frame), 1000)]
    pieces[3], pieces[7] = pieces[7], pieces[3]
    with pytest.raises(FrameError, match="bad_checksum"):
        decode(b"".join(pieces))


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_random_bytes_raise_nothing_else(data: bytes) -> None:
    for frame in (
        data,
        MAGIC + data,
        PRELUDE.pack(MAGIC, 1, 0, len(data), 0, xxhash.xxh3_64(data).intdigest()) + data,
    ):
        with pytest.raises(FrameError):
            decode(frame, LIMITS)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
ROWS = st.fixed_dictionaries(
    {
        "name": PLAIN | st.just("x"),
        "dtype": PLAIN | st.sampled_from(sorted(DTYPES)),
        "shape": PLAIN | st.lists(st.integers(0, 9)),
    },
    optional={
        "codec": PLAIN | st.sampled_from(codecs.names()),
        "digest": PLAIN,
        "parameters": PLAIN,
        "strides": PLAIN | st.lists(st.integers(0, 9)),
    },
)


@given(
    st.lists(ROWS | PLAIN, max_size=3), PLAIN | st.dictionaries(st.text(max_size=4), PLAIN), st.binary(max_size=64)
)
@settings(max_examples=400, deadline=None)
def test_a_right_checksum_over_arbitrary_headers_raises_nothing_else(table: Any, message: Any, tail: bytes) -> None:
    header = msgpack.packb({"message": message, "tree": None, "tensors": table})
    with contextlib.suppress(FrameError):
        decode(build([], tail, header=header), LIMITS)


@pytest.mark.parametrize("order", list(itertools.permutations(["message", "tree", "tensors"])), ids="-".join)
def test_a_headers_keys_may_come_in_any_order(order: tuple[str, ...]) -> None:
    fields = {"message": {"type": "x"}, "tree": ["T", 0], "tensors": [row()]}
    frame = decode(build([], GOOD, header=msgpack.packb({key: fields[key] for key in order})), LIMITS)
    assert (frame.message, frame.skeleton) == ({"type": "x"}, ["T", 0])
    assert frame.tensors[0].tensor is not None
    assert bits(frame.tensors[0].tensor) == b"abcd"


@pytest.mark.parametrize("first", ["message", "tree"])
@pytest.mark.parametrize("depth", [400, 600, 3000])
def test_a_deep_header_raises_nothing_else(first: str, depth: int) -> None:
    deep = msgpack.packb("tree") + b"\x91" * depth + b"\x90"
    message, tensors = msgpack.packb("message") + b"\x80", msgpack.packb("tensors") + b"\x90"
    header = b"\x83" + (message + deep if first == "message" else deep + message) + tensors
    with contextlib.suppress(FrameError):
        decode(build([], header=header), LIMITS)


def test_equal_headers_with_other_data_give_their_own_data() -> None:
    """A cached header keeps neither data, nor message, nor limits of the frame that it came from."""
    frames = [encode({"n": n}, ["T", 0], [Part("x", torch.full((4,), n))]).joined() for n in range(3)]
    for n, frame in enumerate(frames):
        decoded = decode(frame, LIMITS)
        assert decoded.message == {"n": n}
        assert decoded.tensors[0].tensor is not None
        assert decoded.tensors[0].tensor.tolist() == [n] * 4
    with pytest.raises(FrameError, match="tensors_too_large"):
        decode(frames[0], LIMITS._replace(tensor_bytes=8))
    with pytest.raises(FrameError, match="tensors_too_large"):
        decode(frames[0], LIMITS._replace(tensor_bytes=8))
    decode(frames[0], LIMITS)


def test_lengths_are_checked_before_anything_is_allocated() -> None:
    claims = [
        frame
        for name, frame in MALFORMED
        if name in {"frame_too_large", "tensors_too_large", "bad_shape", "bad_strides", "truncated"}
    ]
    tracemalloc.start()
    for frame in claims:
        with pytest.raises(FrameError):
            decode(frame)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_memory_between_a_tensors_elements_counts() -> None:
    frame = build([row(strides=[1 << 19])], GOOD)
    (received,) = decode(frame).tensors
    assert received.tensor is not None
    assert received.tensor.untyped_storage().nbytes() == (3 << 19) + 1
    with pytest.raises(FrameError, match="tensors_too_large"):
        decode(frame, LIMITS)


def test_a_frames_size_is_known_from_its_first_bytes() -> None:
    frame = encode({}, None, [Part("x", torch.randn(100))]).joined()
    assert frame_size(frame[: PRELUDE.size]) == len(frame)
    with pytest.raises(FrameError, match="truncated"):
        frame_size(frame[:10])


@given(sizes=st.lists(st.integers(0, 9), max_size=5), begin=st.integers(0, 40), size=st.integers(0, 40))
def test_a_part_of_a_frame_is_a_copy_of_its_bytes(sizes: list[int], begin: int, size: int) -> None:
    buffers = tuple(bytes(range(10 * number, 10 * number + size)) for number, size in enumerate(sizes))
    frame = EncodedFrame(buffers)
    assert bytes(frame.part(begin, size)) == b"".join(buffers)[begin : begin + size]
