from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.frames import forward_frame
from tests.support.process import environment

from comfy_gpu_offload.errors import ExchangeTimeoutError
from comfy_gpu_offload.protocol.envelope import open_frame
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.transport.base import Timeouts
from comfy_gpu_offload.transport.loopback import LoopbackTransport

_INTERRUPTED_IN_TORCH = """
import torch
from tests.support.backend import FunctionBackend
from tests.support.frames import forward_frame
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.transport.base import Timeouts
from comfy_gpu_offload.transport.loopback import LoopbackTransport

class Stop(BaseException):
    pass

def stop():
    raise Stop

def compute(x):
    for _ in range(20):
        x = x @ x
    return x

frame = forward_frame(torch.eye(1000), model="compute")
try:
    LoopbackTransport(Handler(FunctionBackend(compute=compute))).exchange("forward", frame, Timeouts(), stop)
except Stop:
    pass
"""


def test_no_thread_of_a_call_is_left_when_its_reply_is_there() -> None:
    before = threading.active_count()
    transport = LoopbackTransport(Handler(FunctionBackend()))
    for number in range(50):
        frame = forward_frame(torch.ones(3), request=f"request-{number}")
        assert torch.equal(open_frame(transport.exchange("forward", frame, Timeouts())).unpack(), torch.ones(3))
        assert threading.active_count() == before


def test_a_process_ends_well_though_a_call_was_interrupted_in_the_middle_of_the_model() -> None:
    root = Path(__file__).resolve().parents[2]
    env = environment()
    env["PYTHONPATH"] += f"{os.pathsep}{root}"
    done = subprocess.run([sys.executable, "-c", _INTERRUPTED_IN_TORCH], env=env, timeout=120, check=False)
    assert done.returncode == 0


def test_a_call_that_takes_too_long_is_given_up() -> None:
    backend = FunctionBackend()
    transport = LoopbackTransport(Handler(backend))
    with pytest.raises(ExchangeTimeoutError):
        transport.exchange("forward", forward_frame(torch.ones(3), model="wait"), Timeouts(exchange_s=0.1))
    backend.release.set()
