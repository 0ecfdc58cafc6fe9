from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from comfy_gpu_offload.errors import CodecError
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.buffers import Buffer
from comfy_gpu_offload.io.codecs import registry
from comfy_gpu_offload.io.frame import Part, decode, encode


@dataclass(frozen=True)
class Xor:
    """A codec from elsewhere, with a parameter."""

    name: ClassVar[str] = "xor"
    lossless: ClassVar[bool] = True
    key: int = 1

    def encode(self, data: memoryview, dtype: str, shape: tuple[int, ...]) -> Buffer | None:
        return bytes(byte ^ self.key for byte in data)

    def decode(self, payload: memoryview, size_bytes: int, dtype: str, shape: tuple[int, ...]) -> memoryview:
        return memoryview(bytearray(byte ^ self.key for byte in payload))


@pytest.fixture
def _registered() -> Iterator[None]:
    codecs.register(Xor)
    yield
    del registry._CODECS["xor"]


@pytest.mark.usefixtures("_registered")
def test_another_codec_joins_and_its_parameters_travel() -> None:
    assert "xor" in codecs.names()
    frame = encode({}, None, [Part("x", torch.arange(5))], Xor(key=77)).joined()
    (received,) = decode(frame).tensors
    assert received.tensor is not None
    assert torch.equal(received.tensor, torch.arange(5))
    with pytest.raises(ValueError, match="xor"):
        codecs.register(Xor)


@pytest.mark.parametrize("name", ["middle-out", "auto"])  # auto is a choice, and no tensor is stored by it
def test_what_is_not_known_is_named(name: str) -> None:
    with pytest.raises(CodecError, match=name):
        codecs.named(name)


@pytest.mark.parametrize("name", codecs.names())
def test_parameters_that_are_not_its_own_are_refused(name: str) -> None:
    for values in ({"level": 99}, {"": 1}, {"name": "raw"}):
        with pytest.raises(CodecError, match=name):
            codecs.named(name, values)


@pytest.mark.parametrize("name", codecs.names())
def test_a_codec_is_made_again_from_its_name_and_parameters(name: str) -> None:
    codec = codecs.named(name)
    assert codecs.named(codec.name, codecs.parameters(codec)) == codec


def test_a_choice_can_be_asked_for_by_name_as_a_codec_can() -> None:
    assert codecs.wanted("auto") is codecs.AUTO
    assert codecs.wanted("planes") == codecs.PLANES
    for name, values in (("middle-out", None), ("auto", {"level": 1})):
        with pytest.raises(CodecError, match=name):
            codecs.wanted(name, values)
