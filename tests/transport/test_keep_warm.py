"""Connections that are kept from slowing down while the worker computes."""

from __future__ import annotations

from time import sleep

import torch
from tests.support.backend import FunctionBackend
from tests.support.breaking_proxy import BreakingProxy
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import Session
from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.transport.http_transport import HttpTransport

X = torch.ones(2)
CALLS = 2


def slow(x: torch.Tensor) -> torch.Tensor:
    sleep(0.6)
    return x


def crossed(worker: ThreadWorker, *, keep_warm: bool) -> tuple[int, int]:
    """Bytes up and down of some calls, the first left out: its reply says that empty lines are welcome."""
    with (
        BreakingProxy(worker.port) as proxy,
        Session(HttpTransport(Address.parse(proxy.url), keep_warm=keep_warm)) as session,
    ):
        model = session.model("slow")
        model(X)
        up, down = proxy.up, proxy.down
        for _ in range(CALLS):
            assert torch.equal(model(X), X)
        return proxy.up - up, proxy.down - down


def test_a_call_that_computes_long_is_kept_warm_both_ways() -> None:
    with ThreadWorker(FunctionBackend(slow=slow)) as worker:
        warm = crossed(worker, keep_warm=True)
        plain = crossed(worker, keep_warm=False)
    asking, offering = len("Keep-Warm: 102\r\n"), len("Keep-Warm: crlf\r\n")
    lines = (warm[0] - plain[0] - CALLS * asking) / len("\r\n")
    interims = (warm[1] - plain[1] - CALLS * offering) / len("HTTP/1.1 102 Processing\r\n\r\n")
    # Six or so on a quiet machine; on a loaded one calls take longer, or fewer are sent.
    assert CALLS <= lines <= 20 * CALLS
    assert CALLS <= interims <= 20 * CALLS
