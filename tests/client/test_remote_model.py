from __future__ import annotations

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.worker import ThreadWorker
from torch import nn

from comfy_gpu_offload import RemoteModel, connect


@pytest.fixture(scope="module")
def model() -> RemoteModel:  # type: ignore[misc]
    with ThreadWorker(FunctionBackend()) as worker, connect(worker.url) as session:
        yield session.model("echo")


def test_it_is_a_module_without_weights(model: RemoteModel) -> None:
    assert isinstance(model, nn.Module)
    assert not list(model.parameters())
    assert not model.state_dict()


def test_dtype_device_and_config_answer_as_a_models_would(model: RemoteModel) -> None:
    assert model.dtype is torch.float32
    assert model.device == torch.device("cpu")
    assert model.config.in_channels == 4
    assert model.config["in_channels"] == 4
    assert model.config.get("absent") is None


def test_it_moves_with_a_pipeline_and_results_stay_with_the_callers_tensors(model: RemoteModel) -> None:
    moved = model.to("cpu", torch.float16).eval().requires_grad_(False)
    assert moved is model
    assert model.dtype is torch.float32
    assert model(torch.ones(2)).device == torch.device("cpu")


def test_what_is_on_the_worker_is_said_to_be_there(model: RemoteModel) -> None:
    with pytest.raises(AttributeError, match="on the worker"):
        model.transformer_blocks  # noqa: B018
    with model.cache_context("cond"):
        pass


def test_results_are_fit_to_compute_with(model: RemoteModel) -> None:
    value = model([torch.ones(3), torch.ones(5), torch.ones(7)])
    assert all(tensor.data_ptr() % 64 == 0 for tensor in value)


def test_timings_of_the_calls_since(model: RemoteModel) -> None:
    before = model.calls
    model(torch.ones(1))
    model(torch.ones(2))
    assert len(model.timings_since(before)) == 2
    assert model.timings_since(model.calls) == []
