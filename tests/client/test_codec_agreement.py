"""Both sides name their codecs in the handshake, and a session whose own the worker cannot read does not begin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tests.support.backend import FunctionBackend

from comfy_gpu_offload import Session, connect
from comfy_gpu_offload.client.encoding.step_time import EncodingKind
from comfy_gpu_offload.client.session import SessionOptions
from comfy_gpu_offload.errors import UnsupportedCodecError
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.frame import EncodedFrame
from comfy_gpu_offload.io.tree import pack
from comfy_gpu_offload.protocol.envelope import open_frame, seal
from comfy_gpu_offload.protocol.messages import Hello, Welcome
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.transport.base import Check, Route, Timeouts
from comfy_gpu_offload.transport.loopback import LoopbackTransport


class Knowing(LoopbackTransport):
    """A worker of another release, which knows just these codecs; keeps what was said to it."""

    def __init__(self, handler: Handler, *names: str) -> None:
        super().__init__(handler)
        self.names = names
        self.hellos: list[Hello] = []

    def exchange(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> memoryview:
        asked = open_frame(frame.joined()).message
        if isinstance(asked, Hello):
            self.hellos.append(asked)
        envelope = open_frame(super().exchange(route, frame, timeouts, check))
        if not isinstance(envelope.message, Welcome):
            return memoryview(seal(envelope.message, pack(envelope.unpack(), "result")).joined())
        welcome = envelope.message.model_copy(update={"codecs": self.names, "package": "0.0.7"})
        return memoryview(seal(welcome, pack(envelope.unpack(), "details")).joined())


@pytest.fixture
def backend() -> FunctionBackend:
    return FunctionBackend()


@pytest.fixture
def handler(backend: FunctionBackend) -> Iterator[Handler]:
    made = Handler(backend)
    yield made
    made.close(10)


def test_the_client_names_all_it_knows(handler: Handler) -> None:
    transport = Knowing(handler, "raw")
    with Session(transport):
        assert set(transport.hellos[0].codecs) >= set(codecs.names())


@pytest.mark.parametrize(
    ("codec", "known", "unknown"),
    [
        (codecs.ZSTD, ("raw",), ("zstd",)),
        (codecs.PLANES, ("raw", "zstd"), ("planes",)),
        (codecs.AUTO, ("raw", "zstd"), ("planes",)),
        (codecs.AUTO, (), ("raw", "zstd", "planes")),
        (codecs.named("int8-block"), ("raw", "zstd", "planes"), ("int8-block",)),
        # What it does not take goes as by auto.
        (codecs.named("int4-block"), ("raw", "zstd", "int4-block"), ("planes",)),
    ],
    ids=str,
)
def test_a_codec_that_the_worker_does_not_know_ends_the_session_by_name(
    handler: Handler,
    backend: FunctionBackend,
    codec: codecs.Codec | codecs.Chooser,
    known: tuple[str, ...],
    unknown: tuple[str, ...],
) -> None:
    transport = Knowing(handler, *known)
    with pytest.raises(UnsupportedCodecError) as caught:
        Session(transport, SessionOptions(codec=codec))
    assert caught.value.unknown == unknown
    assert ", ".join(unknown) in str(caught.value)
    assert "0.0.7" in str(caught.value)
    assert len(transport.hellos) == 1
    assert not backend.calls


def test_it_says_what_the_worker_would_read(handler: Handler) -> None:
    known = Knowing(handler, "raw", "zstd", "int4-block", "middle-out")
    with pytest.raises(UnsupportedCodecError, match=r"COMFY_GPU_OFFLOAD_COMPRESSION to none or zstd\.$"):
        Session(known, SessionOptions(codec=codecs.PLANES))


@pytest.mark.parametrize(
    ("codec", "known"),
    [
        (codecs.RAW, ("raw",)),
        (codecs.ZSTD, ("raw", "zstd")),
        (codecs.AUTO, ("planes", "raw", "zstd", "middle-out")),
        (codecs.named("int8-block", {"block": 16}), ("raw", "zstd", "planes", "int8-block")),
    ],
    ids=str,
)
def test_what_both_know_is_used(
    handler: Handler, codec: codecs.Codec | codecs.Chooser, known: tuple[str, ...]
) -> None:
    with Session(Knowing(handler, *known), SessionOptions(codec=codec)) as session:
        assert torch.equal(session.model("double")(torch.ones(5)), torch.full((5,), 2.0))


def test_a_session_that_chooses_by_itself_chooses_among_what_both_know(handler: Handler) -> None:
    options = SessionOptions(codec=codecs.AUTO, begin_with=EncodingKind.PREDICTED)
    x = torch.zeros(1, 16, 32, 32)
    with Session(Knowing(handler, "raw"), options) as session:
        model = session.model("double")
        assert torch.equal(model(x), x)
        assert model.last_timings is not None
        assert model.last_timings.bytes_up > x.nbytes


def test_a_frame_names_no_codec_but_those_that_were_agreed_on() -> None:
    from comfy_gpu_offload.io.buffers import tensor_bytes
    from comfy_gpu_offload.io.dtypes import NAMES

    tensors = [
        torch.randn(1, 16, 32, 32).bfloat16(),
        torch.randint(0, 2**40, (16,))[torch.randint(0, 16, (5000,))],
        torch.full((1, 16, 32, 32), float("nan")),
        torch.randint(0, 256, (9999,), dtype=torch.uint8),
        torch.ones(3),
    ]
    for codec in [codecs.AUTO, *map(codecs.named, codecs.names())]:
        for tensor in tensors:
            used, _ = codecs.encode(codec, tensor_bytes(tensor), NAMES[tensor.dtype], tuple(tensor.shape))
            assert used.name in codecs.used_by(codec)


def test_a_session_that_does_not_begin_leaves_no_connection(
    handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []

    class Closing(Knowing):
        def close(self) -> None:
            closed.append(self)
            super().close()

    transport = Closing(handler, "raw")
    monkeypatch.setattr("comfy_gpu_offload.client.connect.transport_for", lambda *_: transport)
    with pytest.raises(UnsupportedCodecError):
        connect("http://127.0.0.1:8288", compression="planes")
    assert closed == [transport]
