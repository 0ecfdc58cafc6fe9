"""A reply is taken for the request that it answers, and for no other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.mixed_replies import ALL_KINDS, mix_replies_up, use_everything
from tests.support.runpod_edge import LoadBalancerEdge
from tests.support.runpod_gateway import ENDPOINT, KEY
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import Session, connect
from comfy_gpu_offload.client.connect import connect_from
from comfy_gpu_offload.client.exchanges import Exchanges
from comfy_gpu_offload.config.settings import given_settings
from comfy_gpu_offload.errors import WrongReplyError
from comfy_gpu_offload.io.frame import DEFAULT_LIMITS
from comfy_gpu_offload.protocol.envelope import seal
from comfy_gpu_offload.protocol.messages import Cancel, Fault, FaultCode
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.transport.base import Timeouts
from comfy_gpu_offload.transport.loopback import LoopbackTransport


@contextmanager
def within_the_process() -> Iterator[Session]:
    handler = Handler(FunctionBackend())
    with Session(LoopbackTransport(handler)) as session:
        yield session
    handler.close(10)


@contextmanager
def over_http() -> Iterator[Session]:
    with ThreadWorker(FunctionBackend()) as worker, connect(worker.url, retry_s=10) as session:
        yield session


@contextmanager
def through_a_load_balancer() -> Iterator[Session]:
    with ThreadWorker(FunctionBackend()) as worker, LoadBalancerEdge(worker.url) as edge:
        settings = given_settings(
            url=edge.url,
            endpoint="load-balancer",
            runpod_api_key=KEY,
            runpod_endpoint_id=ENDPOINT,
            runpod_base_url=edge.base_url,
            retry_s=10,
        )
        with connect_from(settings) as session:
            yield session


CARRIERS = [within_the_process, over_http, through_a_load_balancer]


@pytest.mark.parametrize("carrier", CARRIERS, ids=lambda carrier: carrier.__name__)
def test_anothers_reply_of_any_kind_is_noticed_and_the_right_one_asked_for(carrier: object) -> None:
    with carrier() as session:  # type: ignore[operator]
        mixing = mix_replies_up(session)
        use_everything(session, "double", 1)
        mixing.armed = True
        use_everything(session, "double", 2)
        assert sorted(mixing.mixed) == ALL_KINDS


def test_a_cancel_is_answered_under_its_name_too() -> None:
    handler = Handler(FunctionBackend())
    exchanges = Exchanges(LoopbackTransport(handler), DEFAULT_LIMITS)
    frame = seal(Cancel(request="one-request"))
    assert exchanges.ask("cancel", "one-request", frame, Timeouts())[0].request == "one-request"
    with pytest.raises(WrongReplyError, match="another request"):
        exchanges.ask("cancel", "another-request", frame, Timeouts())


def test_a_fault_names_what_it_answers_where_that_could_be_read() -> None:
    handler = Handler(FunctionBackend())
    exchanges = Exchanges(LoopbackTransport(handler), DEFAULT_LIMITS)
    with Session(LoopbackTransport(handler)) as session:
        model = session.model("echo")
        model.description = model.description.model_copy(update={"fingerprint": "g" * 16})
        asked: list[str] = []
        ask = exchanges.ask
        session._exchanges.ask = lambda route, request, *rest: (  # type: ignore[method-assign]
            asked.append(request),
            ask(route, request, *rest),
        )[1]
        with pytest.raises(Exception, match="changed"):
            model(torch.ones(2))
        assert asked
    (unread,) = (bytes(handler.handle(b"no frame").joined()),)
    exchanges._transport.exchange = lambda *_: memoryview(bytearray(unread))  # type: ignore[method-assign]
    fault = exchanges.ask("cancel", "one-request", seal(Cancel(request="one-request")), Timeouts())[0].message
    assert isinstance(fault, Fault)
    assert fault.code is FaultCode.BAD_FRAME
    handler.close(10)
