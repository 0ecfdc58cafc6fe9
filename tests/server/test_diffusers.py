"""The diffusers backend, on a copy of the bundled model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfy_gpu_offload.digits.model import WEIGHTS
from comfy_gpu_offload.protocol.messages import ModelRef
from comfy_gpu_offload.server.backends.base import ModelMismatchError, ModelNotFoundError
from comfy_gpu_offload.server.backends.diffusers import DiffusersBackend

MINE = ModelRef(name="mine", weight_dtype="float32")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of models, with one in it that is this test's to change."""
    mine = tmp_path / "mine"
    mine.mkdir()
    for file in (WEIGHTS, WEIGHTS.parent / "config.json"):
        shutil.copy(file, mine)
    return tmp_path


def call() -> dict[str, torch.Tensor]:
    return {
        "hidden_states": torch.zeros(1, 16, 8, 8),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.zeros(1, 1, 48),
        "pooled_projections": torch.zeros(1, 64),
    }


def test_a_file_that_was_changed_is_another_model(folder: Path) -> None:
    backend = DiffusersBackend(folder, device=torch.device("cpu"))
    before = backend.describe(MINE).description.fingerprint
    first = backend.forward(MINE, before, (), call()).result.sample
    file = folder / "mine" / WEIGHTS.name
    save_file({name: tensor * 1.5 for name, tensor in load_file(file).items()}, file)
    with pytest.raises(ModelMismatchError, match="load the model again"):
        backend.forward(MINE, before, (), call())
    after = backend.describe(MINE).description.fingerprint
    assert after != before
    assert not torch.equal(backend.forward(MINE, after, (), call()).result.sample, first)


def test_a_file_that_is_gone_is_named_with_where_it_was_looked_for(folder: Path) -> None:
    backend = DiffusersBackend(folder, device=torch.device("cpu"))
    fingerprint = backend.describe(MINE).description.fingerprint
    shutil.rmtree(folder / "mine")
    with pytest.raises(ModelNotFoundError, match=str(folder)):
        backend.forward(MINE, fingerprint, (), call())
    assert [entry.name for entry in backend.listing().models] == ["digits"]
