"""Modules besides models: their methods are called by name, and releases that have none are told of none."""

from __future__ import annotations

import pytest
import torch
from tests.support.backend import FunctionBackend

from comfy_gpu_offload.backends.base import Listing
from comfy_gpu_offload.client.session import Session
from comfy_gpu_offload.errors import ModelFailedError, UnsupportedModuleError
from comfy_gpu_offload.protocol.envelope import open_frame, seal
from comfy_gpu_offload.protocol.messages import Hello, ModelEntry, ModelRef, Welcome, expect
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.transport.loopback import LoopbackTransport

REF = ModelRef(name="echo", files=("second",), options=(("type", "flux"),))
ENCODER = ModelEntry(name="clip_l.safetensors", folder="text_encoders", size_bytes=1)
X = torch.arange(3.0)


class ModuleBackend(FunctionBackend):
    def __init__(self) -> None:
        super().__init__(**{"echo.twice": lambda x, scale=2.0: {"cond": x * scale, "ids": [1, 2]}})

    def listing(self) -> Listing:
        return Listing(super().listing().models, modules=(ENCODER,))


class ModelsAlone(FunctionBackend):
    has_modules = False


def session(backend: FunctionBackend) -> Session:
    return Session(LoopbackTransport(Handler(backend)))


def test_a_method_is_called_by_its_name() -> None:
    with session(ModuleBackend()) as opened:
        module = opened.module(REF)
        assert module.description.ref == REF
        called = module.patched(None, (X,), {"scale": 3.0}, method="twice", device=torch.device("cpu"))
        assert torch.equal(called["cond"], X * 3)
        assert called["ids"] == [1, 2]
        assert torch.equal(module(X), X)


def test_modules_are_listed_for_those_who_know_them() -> None:
    handler = Handler(ModuleBackend())
    with Session(LoopbackTransport(handler)) as opened:
        assert ENCODER in opened.welcome.models
    # A client of a release that takes what it does not know for a model.
    hello = Hello(client="c" * 8, package="0", torch="2", codecs=("raw",), capabilities=("strides",))
    welcome = expect(open_frame(handler.handle(seal(hello).joined()).joined()).message, Welcome)
    assert welcome.models
    assert ENCODER not in welcome.models


def test_a_worker_of_a_release_without_them_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comfy_gpu_offload.server.answers.hello.CAPABILITIES", ("strides",))
    backend = ModuleBackend()
    with session(backend) as opened:
        with pytest.raises(UnsupportedModuleError, match="lacks the capability 'modules'"):
            opened.module(REF)
        with pytest.raises(UnsupportedModuleError):
            opened.model("echo").patched(None, (X,), {}, method="twice")
    assert backend.calls == []


def test_a_backend_with_models_alone_refuses_them_by_name() -> None:
    backend = ModelsAlone()
    with session(backend) as opened:
        with pytest.raises(ModelFailedError, match=r"backend \(function\) has models alone"):
            opened.module(REF)
        model = opened.module(ModelRef(name="echo"))
        with pytest.raises(ModelFailedError, match="calls nothing but their forward pass"):
            model.patched(None, (X,), {}, method="twice")
        assert torch.equal(model(X), X)
    assert len(backend.calls) == 1
