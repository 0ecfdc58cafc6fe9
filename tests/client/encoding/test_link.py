from __future__ import annotations

import threading

import torch
from tests.support.backend import FunctionBackend

from comfy_gpu_offload import Session


def test_a_probe_carries_what_it_says_and_waits_its_turn(session: Session, backend: FunctionBackend) -> None:
    assert session.probe(up_bytes=100_000, down_bytes=200_000) >= 0
    running = threading.Thread(target=lambda: session.model("wait")(torch.ones(1)), daemon=True)
    running.start()
    assert backend.started.wait(60)
    done = threading.Event()
    threading.Thread(target=lambda: (session.probe(down_bytes=1), done.set()), daemon=True).start()
    assert not done.wait(0.2)
    assert session.probe() >= 0  # for nothing there is nothing to wait for
    backend.release.set()
    assert done.wait(10)
    running.join(60)
