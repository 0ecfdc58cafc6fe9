"""Torch's state around a call: what of it a remote model follows, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import Session, connect
from comfy_gpu_offload.errors import UnsupportedStateError
from comfy_gpu_offload.protocol.messages import Forward

WEIGHT = torch.randn(40, 30, generator=torch.Generator().manual_seed(1))


def product(x: torch.Tensor) -> torch.Tensor:
    return x @ WEIGHT


@contextmanager
def autocast_on(device_type: str) -> Iterator[None]:
    """Stand for `torch.autocast`, which turns itself off for a device that is not there."""
    torch.set_autocast_enabled(device_type, True)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device_type, False)


@pytest.fixture
def backend() -> FunctionBackend:
    return FunctionBackend(product=product)


@pytest.fixture
def default_dtype() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_goes_with_the_call(session: Session, dtype: torch.dtype) -> None:
    x = torch.randn(8, 40)
    model = session.model("product")
    with torch.autocast("cpu", dtype=dtype):
        expected, found = product(x), model(x)
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(model(x), product(x))
    assert expected.dtype is dtype
    assert found.dtype is dtype
    assert torch.equal(found, expected)
    assert torch.equal(model(x), product(x)), "it stayed on at the worker"


def test_autocast_for_another_device_changes_nothing(session: Session) -> None:
    x = torch.randn(8, 40)
    with autocast_on("cuda"):
        assert torch.equal(session.model("product")(x), product(x))


def test_autocast_around_a_whole_loop_is_refused(session: Session, backend: FunctionBackend) -> None:
    fields = {"sampler": "double", "scheduler": "normal", "seed": 1, "steps": 2, "cfg": 1.0}
    model = session.model("product")
    with torch.autocast("cpu"), pytest.raises(UnsupportedStateError, match="run each step"):
        model.sample(fields, {"latent": torch.ones(1, 2), "positive": [], "negative": []})
    assert not backend.calls


def test_autocast_is_refused_where_the_worker_knows_of_none(
    worker: ThreadWorker, backend: FunctionBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfy_gpu_offload.server.answers.hello.CAPABILITIES", ("predicted", "strides"))
    with connect(worker.url) as session:
        model = session.model("product")
        with torch.autocast("cpu"), pytest.raises(UnsupportedStateError, match="lacks the capability 'autocast'"):
            model(torch.ones(2, 40))
        assert not backend.calls
        model(torch.ones(2, 40))


@pytest.mark.parametrize(
    "changed",
    [{"dtype": "float32"}, {"dtype": "Tensor"}, {"caches": 1}, {"gradients": ""}, {"gradients": None}, {"more": 1}],
    ids=str,
)
def test_an_autocast_that_is_none_is_refused(changed: dict[str, Any]) -> None:
    fields = {"request": "r" * 8, "client": "c" * 8, "fingerprint": "f" * 8, "reply_codec": "raw"}
    autocast = {"dtype": "bfloat16", "caches": True, "gradients": "off"}
    call = {**fields, "model": {"name": "m"}}
    assert Forward.model_validate({**call, "autocast": autocast}).autocast is not None
    with pytest.raises(ValueError, match="autocast"):
        Forward.model_validate({**call, "autocast": {**autocast, **changed}})


@pytest.mark.usefixtures("default_dtype")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_another_default_dtype_is_refused(session: Session, backend: FunctionBackend, dtype: torch.dtype) -> None:
    model = session.model("product")
    torch.set_default_dtype(dtype)
    with pytest.raises(UnsupportedStateError, match=f"default dtype is {dtype}"):
        model(torch.ones(2, 40))
    torch.set_default_dtype(torch.float32)
    assert not backend.calls


@pytest.mark.parametrize("compression", ["none", "planes"])
def test_a_default_device_without_memory_is_no_matter_of_the_wire(worker: ThreadWorker, compression: str) -> None:
    x = torch.randn(8, 40)
    expected = product(x)
    with torch.device("meta"), connect(worker.url, compression=compression) as session:
        found = session.model("product")(x)
        assert found.device.type == "cpu"
    assert torch.equal(found, expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_modes_that_only_save_work_change_nothing(session: Session, mode: type) -> None:
    x = torch.randn(8, 40)
    with mode():
        assert torch.equal(session.model("product")(x), product(x))
