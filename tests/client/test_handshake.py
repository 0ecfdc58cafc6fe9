from __future__ import annotations

import logging

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import Session, connect
from comfy_gpu_offload.errors import (
    UnauthorizedError,
    VersionSkewError,
)


def test_it_lists_models_anew(session: Session, backend: FunctionBackend) -> None:
    backend.functions["later"] = lambda x: x
    assert "later" in {entry.name for entry in session.models()}


def test_a_wrong_token_is_said_at_once() -> None:
    with ThreadWorker(FunctionBackend(), token="right") as worker:
        with pytest.raises(UnauthorizedError, match="COMFY_GPU_OFFLOAD_TOKEN"):
            connect(worker.url, "wrong")
        with connect(worker.url, "right") as session:
            assert session.model("echo")(torch.ones(1)).item() == 1


def test_another_protocol_is_refused_by_name(worker: ThreadWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    from comfy_gpu_offload.client import handshake as module

    class Future(module.Hello):
        protocol: int = 99

    monkeypatch.setattr(module, "Hello", Future)
    with pytest.raises(VersionSkewError, match="99"):
        connect(worker.url)


def test_other_releases_on_the_two_sides_are_warned_of(
    worker: ThreadWorker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfy_gpu_offload.client.skew.__version__", "9.9.9")
    with caplog.at_level(logging.WARNING), connect(worker.url):
        assert "9.9.9" in caplog.text
