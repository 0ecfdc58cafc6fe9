"""Predictions at the worker: whose they are, what is kept of them, and what frames may not do with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tests.support.backend import FINGERPRINT, FunctionBackend
from tests.support.frames import CLIENT
from tests.support.histories import Ends, seen

from comfy_gpu_offload.io import frame
from comfy_gpu_offload.io.buffers import tensor_from
from comfy_gpu_offload.io.frame import Part
from comfy_gpu_offload.io.tree import pack_call
from comfy_gpu_offload.protocol.envelope import open_frame
from comfy_gpu_offload.protocol.messages import Coded, Fault, FaultCode, Forward, ModelRef, Prediction, Result
from comfy_gpu_offload.server.faults import RefusedError
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.server.prediction_histories import Histories

X = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
HISTORY = "history-1"
# Of one call: what was received, its state, two outputs.
ONE_BYTES = 4096 * (2 + 4 + 2 * 2)


@pytest.fixture
def backend() -> FunctionBackend:
    return FunctionBackend()


@pytest.fixture
def handler(backend: FunctionBackend) -> Iterator[Handler]:
    made = Handler(backend)
    yield made
    made.close(10)


class Client:
    """Sends calls by hand; `changed` of a message is sent in place of what is right."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._requests = 0
        self.ends = Ends.of(torch.cat([X, X]))

    def ask(
        self, first: torch.Tensor | None, prediction: dict[str, Any] | None, *, client: str = CLIENT
    ) -> Result | Fault:
        self._requests += 1
        message = Forward(
            request=f"request-{self._requests}",
            client=client,
            model=ModelRef(name="double"),
            fingerprint=FINGERPRINT,
            reply_codec="raw",
        ).model_dump()
        packed = pack_call((torch.cat([X, X]),) if first is not None else (), {})
        parts = [] if first is None else [Part(packed.paths[0], first)]
        encoded = frame.encode(message | {"prediction": prediction}, packed.skeleton, parts)
        answer = open_frame(self._handler.handle(encoded.joined()).joined()).message
        assert isinstance(answer, Result | Fault)
        return answer

    def begin(self, name: str = HISTORY, client: str = CLIENT) -> Result | Fault:
        """Make a history's first call, after which its second one can be predicted."""
        x = torch.cat([X, X])
        calls = self.ends.ask(x)
        self.ends.answer(calls, x * 2)
        return self.ask(x, Prediction(history=name, call=0, parts=2).model_dump(), client=client)

    def second(self) -> tuple[Coded, bytes]:
        given = seen(torch.cat([X, X]) * 0.5)
        match = self.ends.client.match(given)
        assert match is not None
        _, found = self.ends.client.encode_input(given, match)
        assert found is not None
        return found.coded, found.payload


def as_bytes(payload: bytes) -> torch.Tensor:
    return tensor_from(memoryview(bytearray(payload)), torch.uint8, (len(payload),))


def prediction(coded: Any, **fields: Any) -> dict[str, Any]:
    return {"history": HISTORY, "call": 1, "parts": 2, "coded": coded, **fields}


def code(answer: Result | Fault) -> FaultCode | None:
    return answer.code if isinstance(answer, Fault) else None


def test_a_foretold_input_reaches_the_model_as_it_was(handler: Handler, backend: FunctionBackend) -> None:
    client = Client(handler)
    client.begin()
    coded, payload = client.second()
    answer = client.ask(as_bytes(payload), prediction(coded.model_dump()))
    assert isinstance(answer, Result)
    assert answer.prediction is not None
    assert torch.equal(backend.calls[-1][1][0], torch.cat([X, X]) * 0.5)


def with_coded(**fields: Any) -> Callable[[Coded, bytes], tuple[dict[str, Any], bytes]]:
    return lambda coded, payload: (prediction(coded.model_dump() | fields), payload)


BAD, WRONG, UNKNOWN = FaultCode.BAD_MESSAGE, FaultCode.WRONG_PREDICTION, FaultCode.UNKNOWN_HISTORY
MALFORMED: dict[str, tuple[FaultCode, Callable[[Coded, bytes], tuple[dict[str, Any], bytes]]]] = {
    "a dtype that cannot be foretold": (BAD, with_coded(dtype="I64")),
    "no shape": (BAD, with_coded(shape=[])),
    "a dimension of none": (BAD, with_coded(shape=[4, 0, 16, 16])),
    "a dimension that is no number": (BAD, with_coded(shape=[4, "8", 16, 16])),
    "of too many dimensions": (BAD, with_coded(shape=[1] * 65)),
    "a digest too short": (BAD, with_coded(digest=b"short")),
    "a mask too long": (BAD, with_coded(kept=bytes(65_537))),
    "coefficients too long": (BAD, with_coded(coefficients=[bytes(1028)])),
    "too many payloads": (BAD, with_coded(sizes=[1] * 9)),
    "a payload of negative size": (BAD, with_coded(sizes=[-1])),
    "a field that is not known": (BAD, with_coded(codec="planes")),
    "no parts": (BAD, lambda coded, payload: (prediction(coded.model_dump(), parts=0), payload)),
    "too many parts": (BAD, lambda coded, payload: (prediction(coded.model_dump(), parts=9), payload)),
    "a history of no name": (BAD, lambda coded, payload: (prediction(coded.model_dump(), history=""), payload)),
    "another history": (
        UNKNOWN,
        lambda coded, payload: (prediction(coded.model_dump(), history="history-2"), payload),
    ),
    "another call": (UNKNOWN, lambda coded, payload: (prediction(coded.model_dump(), call=2), payload)),
    "another shape": (WRONG, with_coded(shape=[4, 8, 16, 32])),
    "a shape that fits no memory": (WRONG, with_coded(shape=[2**47, 2**47])),
    "another digest": (WRONG, with_coded(digest=bytes(16))),
    "sizes that fit no memory": (WRONG, with_coded(sizes=[2**47])),
    "no coefficients": (WRONG, with_coded(coefficients=[])),
    "other coefficients": (WRONG, with_coded(coefficients=[bytes(12)])),
    "a payload cut off": (WRONG, lambda coded, payload: (prediction(coded.model_dump()), payload[:-1])),
    "a payload of noise": (WRONG, lambda coded, payload: (prediction(coded.model_dump()), b"\x01" * len(payload))),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_prediction_is_a_typed_fault_and_the_history_stays(
    handler: Handler, backend: FunctionBackend, what: str
) -> None:
    client = Client(handler)
    client.begin()
    coded, payload = client.second()
    wanted, change = MALFORMED[what]
    sent, data = change(coded, payload)
    assert code(client.ask(as_bytes(data), sent)) is wanted
    assert len(backend.calls) == 1
    assert isinstance(client.ask(as_bytes(payload), prediction(coded.model_dump())), Result)


@pytest.mark.parametrize(
    ("what", "first"),
    {
        "of floats": torch.zeros(64),
        "of two dimensions": torch.zeros(8, 8, dtype=torch.uint8),
        "missing": None,
    }.items(),
    ids=str,
)
def test_a_payload_must_be_bytes(handler: Handler, what: str, first: torch.Tensor | None) -> None:
    client = Client(handler)
    client.begin()
    coded, _ = client.second()
    assert code(client.ask(first, prediction(coded.model_dump()))) is BAD, what


@pytest.mark.parametrize(
    ("what", "first", "parts"),
    [
        ("parts that are not equal", X[:1], 2),
        ("of integers", X.int(), 1),
        ("a scalar", X[0, 0, 0, 0], 1),
        ("of nothing", X[:0], 1),
    ],
)
def test_a_history_begins_with_what_can_be_foretold(
    handler: Handler, what: str, first: torch.Tensor, parts: int
) -> None:
    begun = Prediction(history=HISTORY, call=0, parts=parts).model_dump()
    assert code(Client(handler).ask(first, begun)) is BAD, what


def test_a_plain_call_must_be_like_its_history(handler: Handler) -> None:
    client = Client(handler)
    client.begin()
    assert code(client.ask(X, Prediction(history=HISTORY, call=1, parts=1).model_dump())) is BAD


def test_a_history_is_its_clients_alone(handler: Handler) -> None:
    client = Client(handler)
    client.begin(client="another-client")
    coded, payload = client.second()
    assert code(client.ask(as_bytes(payload), prediction(coded.model_dump()))) is UNKNOWN


def test_a_call_that_failed_is_not_in_the_history(handler: Handler, backend: FunctionBackend) -> None:
    client = Client(handler)
    client.begin()
    coded, payload = client.second()
    double = backend.functions["double"]
    backend.functions["double"] = lambda _: 1 / 0
    assert code(client.ask(as_bytes(payload), prediction(coded.model_dump()))) is FaultCode.MODEL_FAILED
    backend.functions["double"] = double
    assert isinstance(client.ask(as_bytes(payload), prediction(coded.model_dump())), Result)


def begin(histories: Histories, name: str, client: str = CLIENT) -> None:
    x = torch.cat([X, X])
    tracked, _ = histories.take(client, Prediction(history=name, call=0, parts=2), (x,))
    histories.finish(tracked, [Part("result", x * 2)])


def known(histories: Histories, name: str, client: str = CLIENT) -> bool:
    asked = Prediction(history=name, call=1, parts=2)
    try:
        histories.take(client, asked, (torch.cat([X, X]),))
    except RefusedError as error:
        return error.fault.code is not UNKNOWN
    return True


def names(count: int) -> list[str]:
    return [f"history-{index}" for index in range(count)]


def test_a_client_keeps_its_last_ones() -> None:
    histories = Histories(for_each=3)
    begin(histories, "history-x", "another-client")
    for name in names(5):
        begin(histories, name)
    assert [known(histories, name) for name in names(5)] == [False, False, True, True, True]
    assert known(histories, "history-x", "another-client")


def test_all_together_keep_to_the_budget_and_what_was_used_last_stays() -> None:
    histories = Histories(budget_bytes=3 * ONE_BYTES)
    for name in names(3):
        begin(histories, name)
    assert known(histories, "history-0")  # and is used last by that
    begin(histories, "history-3", "another-client")
    assert [known(histories, name) for name in names(3)] == [True, False, True]


def test_one_that_is_over_the_budget_alone_is_not_kept() -> None:
    histories = Histories(budget_bytes=ONE_BYTES - 1)
    begin(histories, "history-0")
    assert not known(histories, "history-0")


def test_a_history_that_grows_is_counted_anew() -> None:
    histories = Histories(budget_bytes=4 * ONE_BYTES)
    for name in names(3):
        begin(histories, name)
    x = torch.cat([X, X])
    for call in (1, 2):
        tracked, _ = histories.take(CLIENT, Prediction(history="history-2", call=call, parts=2), (x,))
        histories.finish(tracked, [Part("result", x * 2)])
    assert [known(histories, name) for name in names(2)] == [False, True]
