from __future__ import annotations

from typing import Any

import pytest

from comfy_gpu_offload.errors import FrameError, MessageError
from comfy_gpu_offload.io.frame import Part, decode, encode
from comfy_gpu_offload.protocol.envelope import ProtocolSkewError, open_frame, seal
from comfy_gpu_offload.protocol.messages import (
    MAX_HOOK_GROUPS,
    Cancel,
    Cancelled,
    Fault,
    FaultCode,
    Forward,
    Hello,
    HookRef,
    Message,
    ModelDescription,
    ModelEntry,
    ModelRef,
    PatchRef,
    Result,
    Welcome,
    WorkerLimits,
    WorkerTimings,
    expect,
    parse,
)

REF = ModelRef(name="model.safetensors")
MESSAGES: list[Message] = [
    Hello(client="c" * 8, package="1", torch="2", codecs=("raw",), model=REF),
    Welcome(
        instance="i" * 8,
        package="1",
        torch="2",
        comfyui=None,
        backend="b",
        device="d",
        codecs=("raw", "zstd"),
        limits=WorkerLimits(frame_bytes=1, store_bytes=0),
        models=(ModelEntry(name="m", folder="f", size_bytes=3),),
        model=ModelDescription(ref=REF, fingerprint="f" * 8, compute_dtype="bfloat16"),
    ),
    Forward(request="r" * 8, client="c" * 8, model=REF, fingerprint="f" * 8, reply_codec="raw"),
    Result(request="r" * 8, instance="i" * 8, timings=WorkerTimings(compute_s=0.5)),
    Fault(code=FaultCode.MISSING_TENSORS, message="m", retryable=True, missing=(bytes(32),), traceback="t"),
    Cancel(request="r" * 8),
    Cancelled(request="r" * 8, state="queued"),
    Forward(
        request="r" * 8,
        client="c" * 8,
        model=REF,
        fingerprint="f" * 8,
        reply_codec="raw",
        hooks=HookRef(
            patches=PatchRef(template=bytes(32), strengths=((0.5, 1.0), (0.25, 1.0))), single=(1,), group=0
        ),
    ),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_out_of_a_frame_as_it_went_in(message: Message) -> None:
    assert open_frame(seal(message).joined()).message == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_an_unknown_field_or_a_missing_one_is_refused(message: Message) -> None:
    fields = message.model_dump()
    with pytest.raises(MessageError):
        parse(fields | {"surprise": 1})
    if fields.get("request") is not None:
        del fields["request"]
        with pytest.raises(MessageError, match="request"):
            parse(fields)


@pytest.mark.parametrize(
    "changed",
    [
        {"request": "short"},
        {"request": "with space 123"},
        {"request": "x" * 65},
        {"request": 12345678},
        {"model": None},
        {"model": {"name": "n" * 300}},
        {"reply_codec": "x" * 300},
        {"type": None},
        {"type": ["forward"]},
    ],
    ids=str,
)
def test_wrong_values_are_refused_and_not_repeated(changed: dict[str, Any]) -> None:
    fields = MESSAGES[2].model_dump() | changed
    with pytest.raises(MessageError) as caught:
        parse(fields)
    (value,) = changed.values()
    assert not isinstance(value, str) or value not in str(caught.value)


@pytest.mark.parametrize(
    "timings", [{"compute_s": -1.0}, {"compute_s": float("nan")}, {"compute_s": float("inf")}], ids=str
)
def test_times_are_times(timings: dict[str, float]) -> None:
    with pytest.raises(MessageError):
        parse(MESSAGES[3].model_dump() | {"timings": timings})


def test_what_a_call_does_not_have_is_left_out_for_sides_that_do_not_know_of_it() -> None:
    plain = decode(seal(MESSAGES[2]).joined()).message
    assert plain.keys().isdisjoint({"hooks", "prediction"})
    assert "hooks" in decode(seal(MESSAGES[-1]).joined()).message


@pytest.mark.parametrize(
    "changed",
    [{"group": MAX_HOOK_GROUPS}, {"group": -1}, {"single": (-1,)}, {"single": 1}, {"surprise": 1}],
    ids=str,
)
def test_hooks_are_of_their_form(changed: dict[str, Any]) -> None:
    fields = MESSAGES[-1].model_dump()
    with pytest.raises(MessageError, match="hooks"):
        parse(fields | {"hooks": fields["hooks"] | changed})


def test_a_dtype_that_is_none_is_refused() -> None:
    fields = MESSAGES[1].model_dump()
    fields["model"]["compute_dtype"] = "load"
    with pytest.raises(MessageError):
        parse(fields)


def test_another_protocol_is_refused_before_its_fields_are_read() -> None:
    frame = encode({"type": "hello", "protocol": 2, "whatever": "comes"}).joined()
    with pytest.raises(ProtocolSkewError, match="same release") as caught:
        open_frame(frame)
    assert caught.value.malformation == "unsupported_protocol"


def test_what_was_expected_and_what_came_are_named() -> None:
    with pytest.raises(MessageError, match="a Cancel came where a Result belongs"):
        expect(MESSAGES[5], Result)


def test_a_tensor_that_came_as_a_digest_only_cannot_be_unpacked_unresolved() -> None:
    import torch

    part = Part("x", torch.ones(4), bytes(32), held=True)
    envelope = open_frame(encode(MESSAGES[5].model_dump(), ["T", 0], [part]).joined())
    with pytest.raises(FrameError, match="missing_tensor"):
        envelope.unpack()
