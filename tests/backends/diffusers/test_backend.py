"""The diffusers backend, on a copy of the bundled model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfy_gpu_offload.backends.base import ModelMismatchError, ModelNotFoundError, ModuleCall
from comfy_gpu_offload.backends.diffusers.backend import DiffusersBackend
from comfy_gpu_offload.backends.diffusers.weight_choice import taken
from comfy_gpu_offload.digits.model import WEIGHTS
from comfy_gpu_offload.protocol.messages import ModelRef

MINE, DEFAULT = ModelRef(name="mine", weight_dtype="float32"), ModelRef(name="mine")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder of models, with one in it that the test may change."""
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
    first = backend.forward(ModuleCall(MINE, before, (), call())).result.sample
    file = folder / "mine" / WEIGHTS.name
    save_file({name: tensor * 1.5 for name, tensor in load_file(file).items()}, file)
    with pytest.raises(ModelMismatchError, match="load the model again"):
        backend.forward(ModuleCall(MINE, before, (), call()))
    after = backend.describe(MINE).description.fingerprint
    assert after != before
    assert not torch.equal(backend.forward(ModuleCall(MINE, after, (), call())).result.sample, first)


def test_a_file_that_is_gone_is_named_with_where_it_was_looked_for(folder: Path) -> None:
    backend = DiffusersBackend(folder, device=torch.device("cpu"))
    fingerprint = backend.describe(MINE).description.fingerprint
    shutil.rmtree(folder / "mine")
    with pytest.raises(ModelNotFoundError, match=str(folder)):
        backend.forward(ModuleCall(MINE, fingerprint, (), call()))
    assert [entry.name for entry in backend.listing().models] == ["digits"]


def test_a_file_of_another_name_is_loaded_where_links_are_not_allowed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows lets only some users make links."""

    def refuse(*_: object) -> None:
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    odd = (folder / "mine" / WEIGHTS.name).rename(folder / "mine" / "odd.safetensors")
    backend = DiffusersBackend(odd, device=torch.device("cpu"))
    named = ModelRef(name="odd", weight_dtype="float32")
    whole = ModelRef(name="digits", weight_dtype="float32")
    found, expected = (
        backend.forward(ModuleCall(ref, backend.describe(ref).description.fingerprint, (), call())).result.sample
        for ref in (named, whole)
    )
    assert torch.equal(found, expected)


def _files(folder: Path, **dtypes: torch.dtype) -> None:
    """Put the model's weights there, in each of the dtypes under its name, and doubled where that is float16."""
    weights = load_file(WEIGHTS)
    for name, dtype in dtypes.items():
        factor = 2.0 if dtype is torch.float16 else 1.0
        made = {key: (tensor.float() * factor).to(dtype) for key, tensor in weights.items()}
        save_file(made, folder / f"diffusion_pytorch_model{name.replace('_', '.')}.safetensors")


def test_a_folder_with_files_of_two_dtypes_has_the_dtype_of_the_one_that_is_loaded(folder: Path) -> None:
    mine = folder / "mine"
    (mine / WEIGHTS.name).unlink(missing_ok=True)
    _files(mine, **{"": torch.float32, "_fp16": torch.float16})
    backend = DiffusersBackend(folder, device=torch.device("cpu"))
    found = backend.describe(ModelRef(name="mine"))
    assert found.description.compute_dtype == "float32"
    (entry,) = (entry for entry in backend.listing().models if entry.name == "mine")
    assert entry.size_bytes == (mine / "diffusion_pytorch_model.safetensors").stat().st_size
    both = backend.forward(ModuleCall(DEFAULT, found.description.fingerprint, (), call())).result.sample
    (mine / "diffusion_pytorch_model.fp16.safetensors").unlink()
    alone = DiffusersBackend(folder, device=torch.device("cpu"))
    fingerprint = alone.describe(ModelRef(name="mine")).description.fingerprint
    assert fingerprint == found.description.fingerprint
    assert torch.equal(alone.forward(ModuleCall(DEFAULT, fingerprint, (), call())).result.sample, both)


def test_a_sharded_model_beside_another_file_has_the_dtype_of_its_shards(folder: Path) -> None:
    whole = DiffusersBackend(folder, device=torch.device("cpu"))
    expected = whole.describe(MINE).description.fingerprint
    result = whole.forward(ModuleCall(MINE, expected, (), call())).result.sample
    mine = folder / "mine"
    loaded = whole._load(MINE)[0].module
    (mine / WEIGHTS.name).unlink()
    loaded.save_pretrained(mine, max_shard_size="1MB")  # type: ignore[operator]
    assert len(list(mine.glob("*-of-*.safetensors"))) > 1
    _files(mine, **{"": torch.float16})
    backend = DiffusersBackend(folder, device=torch.device("cpu"))
    found = backend.describe(ModelRef(name="mine"))
    assert found.description.compute_dtype == "float32"
    fingerprint = found.description.fingerprint
    assert torch.equal(backend.forward(ModuleCall(DEFAULT, fingerprint, (), call())).result.sample, result)


@pytest.mark.parametrize("index", ["[]", "{", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none_leaves_the_standard_file(tmp_path: Path, index: str) -> None:
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(index)
    names = ["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors"]
    assert taken(tmp_path, names) == ["diffusion_pytorch_model.safetensors"]
    assert taken(tmp_path, names[:1]) == names[:1]
