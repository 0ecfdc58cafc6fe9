from __future__ import annotations

import subprocess
import sys

from tests.support.backend import FunctionBackend
from tests.support.breaking_proxy import BreakingProxy
from tests.support.process import environment
from tests.support.worker import ThreadWorker

_INTERRUPTED = """
import sys, torch
from comfy_gpu_offload import connect

class Stop(BaseException):
    pass

waits = iter(range(5))

def check():
    if begun and next(waits, None) is None:
        raise Stop

begun = False
model = connect(sys.argv[1], compression="none").model("wait", check=check)
begun = True
try:
    model(torch.ones(3))
except Stop:
    pass
"""


def test_the_worker_is_told_of_an_interrupt_with_which_the_script_ends() -> None:
    backend = FunctionBackend()
    with ThreadWorker(backend) as worker, BreakingProxy(worker.port) as slow:
        slow.rate = 1500
        command = [sys.executable, "-c", _INTERRUPTED, slow.url]
        assert subprocess.run(command, env=environment(), timeout=120, check=False).returncode == 0
        told = backend.interrupted.is_set()
        backend.release.set()
    assert told
