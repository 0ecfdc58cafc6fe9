"""The table of requests: a worker answers every message that a client sends, and no other."""

from __future__ import annotations

from typing import Literal

import pytest
from tests.protocol.examples import EXAMPLES
from tests.support.backend import FunctionBackend

from comfy_gpu_offload.protocol.capabilities import PACKED_HEADERS
from comfy_gpu_offload.protocol.envelope import open_frame, seal
from comfy_gpu_offload.protocol.messages import (
    KINDS,
    Cancel,
    Cancelled,
    ClientMessage,
    Fault,
    FaultCode,
    Hello,
    Message,
    WorkerMessage,
)
from comfy_gpu_offload.server.answers import ANSWERS, Asked, answers
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.server.replies import Finish
from comfy_gpu_offload.server.worker_parts import WorkerParts


def kinds_of(base: type[Message]) -> list[type[Message]]:
    return [kind for kind in KINDS.values() if issubclass(kind, base)]


def test_every_message_that_a_client_sends_has_an_answer() -> None:
    assert ANSWERS.keys() == set(kinds_of(ClientMessage))


@pytest.mark.parametrize("kind", kinds_of(WorkerMessage), ids=lambda kind: kind.__name__)
def test_a_reply_is_not_taken_for_a_request(kind: type[Message]) -> None:
    reply = open_frame(Handler(FunctionBackend()).handle(seal(EXAMPLES[kind]).joined()).joined())
    assert isinstance(reply.message, Fault)
    assert reply.message.code is FaultCode.BAD_MESSAGE
    assert kind.__name__ in reply.message.message
    assert reply.request == getattr(EXAMPLES[kind], "request", None)


def test_a_long_welcome_is_packed_for_those_who_read_that() -> None:
    models = {f"a model with a long name {number}": lambda x: x for number in range(100)}
    handler = Handler(FunctionBackend(**models))
    hello = EXAMPLES[Hello]
    assert isinstance(hello, Hello)
    welcomes = {}
    for known in ((), (PACKED_HEADERS,)):
        asked = hello.model_copy(update={"capabilities": known, "model": None})
        welcomes[known] = handler.handle(seal(asked).joined())
    plain, packed = (bytes(each.joined()) for each in welcomes.values())
    assert 4 * len(packed) < len(plain)
    assert open_frame(packed).message == open_frame(plain).message


def test_a_message_has_one_answer() -> None:
    def other(worker: WorkerParts, message: Cancel, asked: Asked) -> Finish:
        raise NotImplementedError

    with pytest.raises(TypeError, match="two functions answer a Cancel"):
        answers(Cancel)(other)


def test_a_new_message_takes_its_class_and_its_answer() -> None:
    class Greet(ClientMessage):
        type: Literal["greet"] = "greet"
        request: str

    try:

        @answers(Greet)
        def begin_greet(worker: WorkerParts, message: Greet, asked: Asked) -> Finish:
            return lambda: seal(Cancelled(request=message.request, state="unknown"))

        reply = Handler(FunctionBackend()).handle(seal(Greet(request="r" * 8)).joined())
        assert open_frame(reply.joined()).message == Cancelled(request="r" * 8, state="unknown")
    finally:
        ANSWERS.pop(Greet, None)
        KINDS.pop("greet", None)
