"""The registry of codecs: the listed ones, others that join, and names of earlier releases."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from comfy_gpu_offload.codec_names import CODECS, REMOVED
from comfy_gpu_offload.errors import CodecError
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.buffers import Buffer, tensor_bytes
from comfy_gpu_offload.io.codecs import registry
from comfy_gpu_offload.io.frame import Part, decode, encode


@dataclass(frozen=True)
class Xor:
    """A codec from elsewhere, with a parameter."""

    name: ClassVar[str] = "xor"
    lossless: ClassVar[bool] = True
    typical_share: ClassVar[float] = 1.0
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


def test_the_registry_has_the_listed_codecs() -> None:
    assert codecs.names() == tuple(CODECS)


@pytest.mark.parametrize("name", codecs.names())
def test_a_listed_codec_states_what_the_interface_asks_for(name: str) -> None:
    codec = codecs.named(name)
    assert isinstance(codec, codecs.Codec)
    assert re.fullmatch("[a-z][a-z0-9-]{1,30}", name)
    assert isinstance(codec.lossless, bool)
    assert hash(codec) == hash(codecs.named(name))
    with pytest.raises(FrozenInstanceError):
        codec.anything = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("codec", [codecs.AUTO, *map(codecs.named, codecs.names())], ids=lambda codec: codec.name)
def test_a_typical_share_is_what_is_left_of_a_latent(codec: codecs.Codec | codecs.Chooser) -> None:
    latent = torch.randn(1, 16, 128, 128, generator=torch.Generator().manual_seed(0)).bfloat16()
    payload = codecs.encode(codec, tensor_bytes(latent), "BF16", tuple(latent.shape)).payload
    assert len(payload) / latent.nbytes == pytest.approx(codec.typical_share, abs=0.05)


@pytest.mark.parametrize("name", REMOVED)
def test_a_removed_codec_is_refused_by_name_with_what_to_use(name: str) -> None:
    with pytest.raises(CodecError, match=f"{name!r} was removed .* {REMOVED[name]}"):
        codecs.named(name)
    assert REMOVED[name] in CODECS
    assert name not in CODECS

    class Again(Xor):
        pass

    Again.name = name
    with pytest.raises(ValueError, match=name):
        codecs.register(Again)


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


def test_the_specification_has_a_row_for_every_codec_and_says_which_are_lossless() -> None:
    text = (Path(__file__).parents[3] / "docs" / "codecs.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| (?:`(\w+)`, \d+)? ?\| ([^|]+) \|", text, re.MULTILINE)
    specified = {name: (parameter, loss.strip() == "none") for name, parameter, loss in rows}
    known = map(codecs.named, codecs.names())
    assert specified == {codec.name: ("".join(codecs.parameters(codec)), codec.lossless) for codec in known}
