from __future__ import annotations

import pytest

from comfy_gpu_offload.errors import CodecError
from comfy_gpu_offload.io import codecs


def test_raw_takes_exactly_its_size() -> None:
    with pytest.raises(CodecError):
        codecs.RAW.decode(memoryview(b"abc"), 4, "U8", (4,))


def test_raw_copies_neither_way() -> None:
    data = memoryview(bytearray(10_000))
    assert codecs.RAW.encode(data, "U8", (10_000,)) is data
    assert codecs.RAW.decode(data, 10_000, "U8", (10_000,)) is data
