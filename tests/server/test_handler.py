from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
import torch
import xxhash
import zstandard
from tests.support.backend import FINGERPRINT, FunctionBackend
from tests.support.frames import CLIENT, forward_frame, malformed_frames

from comfy_gpu_offload.io.digests import digest
from comfy_gpu_offload.io.frame import MAGIC, PRELUDE, FrameLimits, Part, encode
from comfy_gpu_offload.io.tree import pack
from comfy_gpu_offload.protocol.envelope import open_frame, seal
from comfy_gpu_offload.protocol.messages import (
    Cancel,
    Cancelled,
    Fault,
    FaultCode,
    Forward,
    Hello,
    ModelRef,
    Result,
    Welcome,
)
from comfy_gpu_offload.server.handler import Handler, HandlerOptions


@pytest.fixture
def backend() -> FunctionBackend:
    return FunctionBackend()


@pytest.fixture
def handler(backend: FunctionBackend) -> Iterator[Handler]:
    options = HandlerOptions(FrameLimits(frame_bytes=1 << 20, tensor_bytes=1 << 20), store_bytes=1 << 16)
    made = Handler(backend, options)
    yield made
    backend.release.set()
    made.close(10)


def ask(handler: Handler, frame: Any) -> Any:
    return open_frame(handler.handle(frame if isinstance(frame, bytes) else frame.joined()).joined())


def fault(handler: Handler, frame: Any) -> Fault:
    message = ask(handler, frame).message
    assert isinstance(message, Fault)
    return message


def test_hello_describes_the_worker_and_the_model(handler: Handler) -> None:
    hello = Hello(client=CLIENT, package="1", torch="2", codecs=("raw",), model=ModelRef(name="echo"))
    answer = ask(handler, seal(hello))
    assert isinstance(answer.message, Welcome)
    assert answer.message.model is not None
    assert answer.message.model.fingerprint == FINGERPRINT
    assert answer.message.limits.frame_bytes == 1 << 20
    assert answer.unpack() == {"config": {"in_channels": 4}}


def test_forward_calls_the_model_with_the_call_as_it_was(handler: Handler, backend: FunctionBackend) -> None:
    x = torch.randn(2, 3)
    answer = ask(handler, forward_frame(x, None, model="double", scale=[1, (2.5, "a")]))
    assert isinstance(answer.message, Result)
    assert torch.equal(answer.unpack(), x * 2)
    assert backend.calls[0][2] == {"scale": [1, (2.5, "a")]}


def test_a_tensor_sent_once_is_found_by_digest(handler: Handler) -> None:
    x = torch.randn(8, 8)
    named = {0: digest(x)}
    ask(handler, forward_frame(x, digests=named))
    answer = ask(handler, forward_frame(x, digests=named, held=True, request="request-2"))
    assert torch.equal(answer.unpack(), x)


def test_a_model_that_changes_its_input_does_not_change_what_is_kept(
    handler: Handler, backend: FunctionBackend
) -> None:
    backend.functions["spoil"] = lambda x: x.zero_()
    x = torch.ones(64)
    named = {0: digest(x)}
    ask(handler, forward_frame(x, digests=named))
    ask(handler, forward_frame(x, model="spoil", digests=named, held=True, request="request-2"))
    answer = ask(handler, forward_frame(x, digests=named, held=True, request="request-3"))
    assert torch.equal(answer.unpack(), torch.ones(64))


def test_what_is_missing_is_listed_and_the_call_not_made(handler: Handler, backend: FunctionBackend) -> None:
    x, y = torch.ones(64), torch.zeros(64)
    named = {0: digest(x), 1: digest(y)}
    answer = fault(handler, forward_frame(x, y, digests=named, held=True))
    assert answer.code is FaultCode.MISSING_TENSORS
    assert answer.missing == (digest(x), digest(y))
    assert not backend.calls


def test_a_tensor_under_a_false_name_is_refused(handler: Handler) -> None:
    x = torch.ones(64)
    assert fault(handler, forward_frame(x, digests={0: digest(x + 1)})).code is FaultCode.WRONG_DIGEST
    held = fault(handler, forward_frame(x + 1, digests={0: digest(x + 1)}, held=True))
    assert held.code is FaultCode.MISSING_TENSORS


@pytest.mark.parametrize("claimed", [torch.ones(8, 8), torch.ones(64, dtype=torch.int32)], ids=["shape", "dtype"])
def test_a_tensor_that_is_only_named_is_what_it_is_said_to_be(
    handler: Handler, backend: FunctionBackend, claimed: torch.Tensor
) -> None:
    x = torch.ones(64)
    named = {0: digest(x)}
    ask(handler, forward_frame(x, digests=named))
    answer = fault(handler, forward_frame(claimed, digests=named, held=True, request="request-2"))
    assert answer.code is FaultCode.BAD_FRAME
    assert "contradiction" in answer.message
    assert len(backend.calls) == 1


def test_a_request_asked_for_again_is_not_computed_again(handler: Handler, backend: FunctionBackend) -> None:
    x = torch.randn(4)
    first = ask(handler, forward_frame(x, model="double")).unpack()
    second = ask(handler, forward_frame(x, model="double")).unpack()
    assert torch.equal(first, second)
    assert len(backend.calls) == 1


def test_a_request_that_failed_is_computed_again(handler: Handler, backend: FunctionBackend) -> None:
    def moody(x: torch.Tensor) -> torch.Tensor:
        if len(backend.calls) == 1:
            raise RuntimeError("not today")
        return x

    backend.functions["moody"] = moody
    assert fault(handler, forward_frame(torch.ones(2), model="moody")).code is FaultCode.MODEL_FAILED
    assert torch.equal(ask(handler, forward_frame(torch.ones(2), model="moody")).unpack(), torch.ones(2))


def test_a_request_asked_for_again_while_it_runs_joins_it(handler: Handler, backend: FunctionBackend) -> None:
    frame = forward_frame(torch.ones(2), model="wait").joined()
    first = handler.submit(frame)
    assert backend.started.wait(60)
    second = handler.submit(bytes(frame))
    backend.release.set()
    assert first.result(10).joined() == second.result(10).joined()
    assert len(backend.calls) == 1


@pytest.mark.parametrize(("name", "frame"), malformed_frames().items())
def test_malformed_bytes_get_a_fault_and_the_worker_lives_on(handler: Handler, name: str, frame: bytes) -> None:
    answer = fault(handler, frame)
    assert answer.code in {FaultCode.BAD_FRAME, FaultCode.TOO_LARGE}, name
    assert torch.equal(ask(handler, forward_frame(torch.ones(3))).unpack(), torch.ones(3))


def crafted(tensors: list[dict[str, Any]], section: bytes = b"", tree: Any = None, **fields: Any) -> bytes:
    """Return a frame of any content with a right checksum."""
    message = {
        "type": "forward",
        "request": "request-1",
        "client": CLIENT,
        "model": {"name": "echo", "weight_dtype": "default"},
        "fingerprint": FINGERPRINT,
        "reply_codec": "raw",
        **fields,
    }
    skeleton = ["t", ["t", ["T", 0]], ["d"]] if tree is None else tree
    header = msgpack.packb({"message": message, "tree": skeleton, "tensors": tensors})
    checksum = xxhash.xxh3_64(header + section).intdigest()
    return PRELUDE.pack(MAGIC, 1, 0, len(header), len(section), checksum) + header + section


def section_of(name: str, dtype: str, data: bytes) -> bytes:
    text = json.dumps({name: {"dtype": dtype, "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_a_decompression_bomb_is_refused_before_anything_is_allocated(handler: Handler) -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    row = {"name": "x", "dtype": "U8", "shape": [1 << 28], "codec": "zstd"}
    assert fault(handler, crafted([row], section_of("x", "U8", bomb))).code is FaultCode.TOO_LARGE
    row["shape"] = [1024]
    assert fault(handler, crafted([row], section_of("x", "U8", bomb))).code is FaultCode.BAD_FRAME


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"name": "x", "dtype": "F128", "shape": [4], "codec": "raw"}, "unknown_dtype"),
        ({"name": "x", "dtype": "U8", "shape": [5], "codec": "raw"}, "contradiction"),
        ({"name": "x", "dtype": "U8", "shape": [4], "codec": "middle-out"}, "unknown_codec"),
        ({"name": "x", "dtype": "U8", "shape": [-1], "codec": "raw"}, "bad_shape"),
        ({"name": "y", "dtype": "U8", "shape": [4], "codec": "raw"}, "missing_tensor"),
    ],
)
def test_a_frame_that_contradicts_itself_is_refused_by_name(
    handler: Handler, row: dict[str, Any], says: str
) -> None:
    answer = fault(handler, crafted([row], section_of("x", "U8", b"abcd")))
    assert answer.code is FaultCode.BAD_FRAME
    assert says in answer.message


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"type": "cake"}, FaultCode.BAD_MESSAGE),
        ({"request": "!"}, FaultCode.BAD_MESSAGE),
        ({"surprise": 1}, FaultCode.BAD_MESSAGE),
        ({"protocol": 99}, FaultCode.UNSUPPORTED_PROTOCOL),
        ({"reply_codec": "middle-out"}, FaultCode.BAD_MESSAGE),
        ({"model": {"name": "nobody", "weight_dtype": "default"}}, FaultCode.UNKNOWN_MODEL),
        ({"fingerprint": "g" * 16}, FaultCode.MODEL_CHANGED),
    ],
)
def test_a_message_that_cannot_be_served_says_why(
    handler: Handler, fields: dict[str, Any], code: FaultCode
) -> None:
    row = {"name": "x", "dtype": "U8", "shape": [4], "codec": "raw"}
    assert fault(handler, crafted([row], section_of("x", "U8", b"abcd"), **fields)).code is code


@pytest.mark.parametrize("name", ["middle-out", "", "RAW", "predicted"])
def test_a_reply_by_a_codec_that_is_not_known_is_refused_by_name_and_nothing_is_computed(
    handler: Handler, backend: FunctionBackend, name: str
) -> None:
    row = {"name": "x", "dtype": "U8", "shape": [4], "codec": "raw"}
    answer = fault(handler, crafted([row], section_of("x", "U8", b"abcd"), reply_codec=name))
    assert answer.code is FaultCode.BAD_MESSAGE
    assert repr(name) in answer.message or not name
    assert not answer.retryable
    assert not backend.calls


@pytest.mark.parametrize("tree", [["t", ["T", 0], ["d"]], ["T", 0], None, ["t", ["t"], ["d", 1, 2]], ["q"]])
def test_a_tree_that_is_no_call_is_refused(handler: Handler, tree: Any) -> None:
    row = {"name": "x", "dtype": "U8", "shape": [4], "codec": "raw"}
    frame = crafted([row], section_of("x", "U8", b"abcd"), tree=tree if tree is not None else ["l"])
    assert fault(handler, frame).code in {FaultCode.BAD_MESSAGE, FaultCode.BAD_FRAME}


def test_a_reply_is_nothing_a_client_sends(handler: Handler) -> None:
    assert fault(handler, seal(Cancelled(request="request-1", state="queued"))).code is FaultCode.BAD_MESSAGE


def test_what_a_model_raises_is_told_with_its_place_but_the_place_holds_no_values(
    handler: Handler, backend: FunctionBackend
) -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        raise ValueError("shapes do not fit")

    backend.functions["broken"] = broken
    answer = fault(handler, forward_frame(torch.ones(1), model="broken"))
    assert answer.code is FaultCode.MODEL_FAILED
    assert "shapes do not fit" in answer.message
    assert answer.traceback is not None
    assert "in broken" in answer.traceback
    assert "shapes do not fit" not in answer.traceback


def allocation_on_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def kernel_on_a_gpu() -> None:
    raise RuntimeError("CUDA error: out of memory")


def allocation_here() -> None:
    torch.empty(2**60, dtype=torch.uint8)


@pytest.mark.parametrize("allocate", [allocation_on_a_gpu, kernel_on_a_gpu, allocation_here])
def test_out_of_memory_is_its_own_fault_and_says_what_to_do(
    handler: Handler, backend: FunctionBackend, allocate: Callable[[], None]
) -> None:
    def large(x: torch.Tensor) -> torch.Tensor:
        allocate()
        return x

    backend.functions["large"] = large
    answer = fault(handler, forward_frame(torch.ones(1), model="large"))
    assert answer.code is FaultCode.OUT_OF_MEMORY
    assert "Sample a smaller latent" in answer.message


def test_a_result_that_cannot_travel_is_named(handler: Handler, backend: FunctionBackend) -> None:
    backend.functions["odd"] = lambda x: {"sample": x, "extra": object()}
    answer = fault(handler, forward_frame(torch.ones(1), model="odd"))
    assert answer.code is FaultCode.UNSUPPORTED_RESULT
    assert "extra" in answer.message


def test_cancel_ends_a_running_call(handler: Handler, backend: FunctionBackend) -> None:
    running = handler.submit(forward_frame(torch.ones(1), model="wait").joined())
    assert backend.started.wait(60)
    answer = ask(handler, seal(Cancel(request="request-1"))).message
    assert answer == Cancelled(request="request-1", state="running")
    ended = open_frame(running.result(10).joined()).message
    assert isinstance(ended, Fault)
    assert ended.code is FaultCode.CANCELLED
    assert torch.equal(ask(handler, forward_frame(torch.ones(3), request="request-2")).unpack(), torch.ones(3))


def test_cancel_takes_a_waiting_call_out(handler: Handler, backend: FunctionBackend) -> None:
    running = handler.submit(forward_frame(torch.ones(1), model="wait").joined())
    assert backend.started.wait(60)
    waiting = handler.submit(forward_frame(torch.ones(1), request="request-2").joined())
    assert ask(handler, seal(Cancel(request="request-2"))).message.state == "queued"
    ended = open_frame(waiting.result(10).joined()).message
    assert isinstance(ended, Fault)
    backend.release.set()
    running.result(10)
    assert [name for name, _, _ in backend.calls] == ["wait"]


def test_stopping_finishes_the_running_call_and_refuses_the_rest(backend: FunctionBackend) -> None:
    handler = Handler(backend)
    running = handler.submit(forward_frame(torch.ones(1), model="wait").joined())
    assert backend.started.wait(60)
    assert not handler.close(0.01)
    refused = fault(handler, forward_frame(torch.ones(1), request="request-2"))
    assert (refused.code, refused.retryable) == (FaultCode.STOPPING, True)
    backend.release.set()
    assert isinstance(open_frame(running.result(10).joined()).message, Result)
    assert handler.close(10)
    assert backend.closed


def test_results_are_coded_as_asked(handler: Handler) -> None:
    x = torch.zeros(10_000)
    packed = pack(((x,), {}), "call")
    message = Forward(
        request="request-1", client=CLIENT, model=ModelRef(name="echo"), fingerprint=FINGERPRINT, reply_codec="zstd"
    )
    frame = encode(message.model_dump(), packed.skeleton, [Part("x", x)])
    reply = handler.handle(frame.joined())
    assert reply.size_bytes < 2000
    assert torch.equal(open_frame(reply.joined()).unpack(), x)
