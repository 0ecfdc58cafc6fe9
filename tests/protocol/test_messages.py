from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
import torch
from tests.protocol.examples import EXAMPLES, example_of

from comfy_gpu_offload.errors import FrameError, MessageError
from comfy_gpu_offload.io.frame import Part, decode, encode
from comfy_gpu_offload.protocol.envelope import ProtocolSkewError, open_frame, seal
from comfy_gpu_offload.protocol.messages import (
    KINDS,
    MAX_HOOK_GROUPS,
    Cancel,
    ClientMessage,
    Forward,
    Hello,
    Message,
    Result,
    Welcome,
    WorkerMessage,
    expect,
    parse,
)
from comfy_gpu_offload.protocol.messages.base import LATER

each_message = pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)


@each_message
def test_every_message_has_an_example_and_a_sender(kind: type[Message]) -> None:
    assert kind in EXAMPLES
    assert issubclass(kind, ClientMessage) != issubclass(kind, WorkerMessage)


@each_message
def test_a_message_comes_out_of_a_frame_as_it_went_in(kind: type[Message]) -> None:
    message = example_of(kind)
    assert open_frame(seal(message).joined()).message == message


@each_message
def test_an_unknown_field_is_refused_outside_of_the_handshake(kind: type[Message]) -> None:
    fields = example_of(kind).fields()
    if kind in {Hello, Welcome}:
        assert parse(fields | {"of_tomorrow": 1}) == example_of(kind)
    else:
        with pytest.raises(MessageError, match="surprise"):
            parse(fields | {"surprise": 1})


@each_message
def test_a_missing_field_is_refused_by_name(kind: type[Message]) -> None:
    required = [name for name, field in kind.model_fields.items() if field.is_required()]
    assert required
    for name in required:
        fields = example_of(kind).fields()
        del fields[name]
        with pytest.raises(MessageError, match=name):
            parse(fields)


@each_message
def test_later_fields_are_left_out_while_they_hold_nothing(kind: type[Message]) -> None:
    """A peer of an earlier release refuses their names."""
    example = example_of(kind)
    full = decode(seal(example).joined()).message
    bare = decode(seal(example.model_copy(update=dict.fromkeys(kind.later_fields))).joined()).message
    assert full.keys() - bare.keys() == set(kind.later_fields)


def test_later_fields_of_parts_are_left_out_too() -> None:
    fields = example_of(Welcome).fields()
    assert "warnings" in fields["model"]
    fields["model"]["warnings"] = ()
    assert "warnings" not in parse(fields).fields()["model"]


def test_what_a_side_says_of_itself_may_grow_at_any_depth_but_never_what_it_asks_for() -> None:
    fields = example_of(Welcome).fields()
    for part in (fields, fields["limits"], fields["models"][0], fields["skipped"], fields["model"]):
        part["of_tomorrow"] = [1, {"x": None}]
    assert parse(fields) == example_of(Welcome)
    hello = example_of(Hello).fields()
    hello["model"]["of_tomorrow"] = 1  # says which model is meant
    with pytest.raises(MessageError, match="of_tomorrow"):
        parse(hello)


def test_two_messages_of_one_type_are_refused() -> None:
    with pytest.raises(TypeError, match="Cancel and Twice are both messages of the type 'cancel'"):

        class Twice(ClientMessage):
            type: Literal["cancel"] = "cancel"

    assert KINDS["cancel"] is Cancel


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
    fields = example_of(Forward).fields() | changed
    with pytest.raises(MessageError) as caught:
        parse(fields)
    (value,) = changed.values()
    assert not isinstance(value, str) or value not in str(caught.value)


@pytest.mark.parametrize(
    "timings", [{"compute_s": -1.0}, {"compute_s": float("nan")}, {"compute_s": float("inf")}], ids=str
)
def test_times_are_finite_and_not_negative(timings: dict[str, float]) -> None:
    with pytest.raises(MessageError):
        parse(example_of(Result).fields() | {"timings": timings})


@pytest.mark.parametrize(
    "changed",
    [{"group": MAX_HOOK_GROUPS}, {"group": -1}, {"single": (-1,)}, {"single": 1}, {"surprise": 1}],
    ids=str,
)
def test_malformed_hooks_are_refused(changed: dict[str, Any]) -> None:
    fields = example_of(Forward).fields()
    with pytest.raises(MessageError, match="hooks"):
        parse(fields | {"hooks": fields["hooks"] | changed})


def test_a_name_that_is_no_dtype_is_refused() -> None:
    fields = example_of(Welcome).fields()
    fields["model"]["compute_dtype"] = "load"
    with pytest.raises(MessageError):
        parse(fields)


@pytest.mark.parametrize(
    ("kind", "protocol", "says"),
    [
        ("hello", 2, "the client speaks version 2 .* and the worker version 1: .* on the worker"),
        ("hello", 0, "the client speaks version 0 .* and the worker version 1: .* on the client"),
        ("welcome", 2, "the worker speaks version 2 .* and the client version 1: .* on the client"),
        ("welcome", "x" * 50, "the worker speaks version 'xxxxxxxxxxxxxxxxxxx of"),
    ],
)
def test_another_protocol_is_refused_before_its_fields_are_read(kind: str, protocol: Any, says: str) -> None:
    frame = encode({"type": kind, "protocol": protocol, "whatever": "comes"}).joined()
    with pytest.raises(ProtocolSkewError, match=says) as caught:
        open_frame(frame)
    assert caught.value.malformation == "unsupported_protocol"


def test_the_expected_and_the_received_message_are_named() -> None:
    with pytest.raises(MessageError, match="expected a Result, received a Cancel"):
        expect(example_of(Cancel), Result)


def test_a_tensor_that_came_as_a_digest_cannot_be_unpacked_before_it_is_found() -> None:
    part = Part("x", torch.ones(4), bytes(32), held=True)
    envelope = open_frame(encode(example_of(Cancel).fields(), ["T", 0], [part]).joined())
    with pytest.raises(FrameError, match="missing_tensor"):
        envelope.unpack()


def test_a_part_that_would_send_an_empty_later_field_cannot_be_defined() -> None:
    with pytest.raises(TypeError, match="derive it from MessagePart"):

        class Grown(Message):
            field: Annotated[int | None, LATER] = None
