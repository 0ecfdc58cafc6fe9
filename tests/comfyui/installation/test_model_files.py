"""Files of models on a stand-in for ComfyUI: listed and found by name, loaded, and errors that name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.comfy_stand_in.fixtures import StandIn

from comfy_gpu_offload.backends.base import ModelFileError, ModelNotFoundError, ModelRunError, OutOfMemoryError
from comfy_gpu_offload.backends.model_folders import Skips


def diffusion_models() -> Any:
    from comfy_gpu_offload.comfyui.installation import diffusion_model_files

    return diffusion_model_files


def names(skips: Skips | None = None) -> list[str]:
    return [file.name for file in diffusion_models().DIFFUSION_MODELS.list_files(skips)]


def test_files_are_listed_by_their_paths(comfy_stand_in: StandIn) -> None:
    comfy_stand_in.write_model("b.safetensors")
    comfy_stand_in.write_model("deep/a.SAFETENSORS")
    (comfy_stand_in.models / "diffusion_models" / "notes.txt").touch()
    comfy_stand_in.write_control_net("edges.safetensors")
    assert names() == ["b.safetensors", "deep/a.SAFETENSORS"]


def test_a_name_in_two_kinds_of_folder_is_told_apart(comfy_stand_in: StandIn) -> None:
    for folder in ("diffusion_models", "checkpoints"):
        comfy_stand_in.write_model("same.safetensors", folder)
    assert names() == ["diffusion_models/same.safetensors", "checkpoints/same.safetensors"]
    find = diffusion_models().DIFFUSION_MODELS.find_file
    assert find("checkpoints/same.safetensors").folder == "checkpoints"
    with pytest.raises(ModelNotFoundError, match=r"two models 'same\.safetensors': ask for diffusion_models/same"):
        find("same.safetensors")


def test_a_name_in_two_folders_of_one_kind_is_the_first_ones(comfy_stand_in: StandIn, tmp_path: Path) -> None:
    import folder_paths

    comfy_stand_in.write_model("same.safetensors")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "same.safetensors").write_bytes(b"12345")
    folder_paths.add_model_folder_path("diffusion_models", str(tmp_path / "other"), True)
    (file,) = diffusion_models().DIFFUSION_MODELS.list_files()
    assert (file.path.parent, file.size_bytes) == (tmp_path / "other", 5)


def test_a_file_is_found_by_either_slash_and_with_its_folder(comfy_stand_in: StandIn) -> None:
    path = comfy_stand_in.write_model("deep/a.safetensors")
    find = diffusion_models().DIFFUSION_MODELS.find_file
    for name in ("deep/a.safetensors", "deep\\a.safetensors", "diffusion_models/deep/a.safetensors"):
        assert find(name).path == path


@pytest.mark.parametrize("name", ["../loras/l.safetensors", "", "/etc/passwd", "a.safetensors/..", "x" * 9999])
def test_what_is_not_listed_is_not_found(comfy_stand_in: StandIn, name: str) -> None:
    comfy_stand_in.write_model("a.safetensors")
    comfy_stand_in.write("loras", "l.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(
        ModelNotFoundError, match=r"There is no model .*Looked in .*diffusion_models, .*checkpoints"
    ):
        diffusion_models().DIFFUSION_MODELS.find_file(name)


def test_entries_that_cannot_be_read_are_passed_over(comfy_stand_in: StandIn) -> None:
    comfy_stand_in.write_model("a.safetensors")
    folder = comfy_stand_in.models / "diffusion_models"
    (folder / "gone.safetensors").symlink_to("nowhere")
    (folder / "round").symlink_to(folder)
    skips = Skips()
    assert names(skips) == ["a.safetensors"]
    assert set(skips.entries) == {"gone.safetensors", "round"}


@pytest.mark.parametrize(
    ("weight_dtype", "options"),
    [
        ("default", {}),
        ("fp8_e4m3fn", {"dtype": torch.float8_e4m3fn}),
        ("fp8_e4m3fn_fast", {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True}),
        ("fp8_e5m2", {"dtype": torch.float8_e5m2}),
    ],
)
@pytest.mark.parametrize("folder", ["diffusion_models", "checkpoints"])
def test_a_file_is_loaded_by_its_folders_loader(
    comfy_stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, weight_dtype: str, options: Any, folder: str
) -> None:
    import comfy.sd

    called: list[Any] = []
    loader = "load_diffusion_model" if folder == "diffusion_models" else "load_checkpoint_guess_config"
    load = getattr(comfy.sd, loader)

    def noting(path: str, **given: Any) -> Any:
        called.append((Path(path).name, given["model_options"], torch.is_inference_mode_enabled()))
        return load(path, **given)

    comfy_stand_in.write_model("a.safetensors", folder)
    files = diffusion_models()
    monkeypatch.setattr(comfy.sd, loader, noting)
    patcher = files.load_patcher(files.DIFFUSION_MODELS.find_file("a.safetensors"), weight_dtype)
    assert patcher.model.diffusion_model.layer.weight.shape == (4, 4)
    assert called == [("a.safetensors", options, True)]


def test_a_weight_dtype_that_comfyuis_loader_does_not_offer_is_refused(comfy_stand_in: StandIn) -> None:
    with pytest.raises(
        ModelRunError, match="weight_dtype 'float16' is unknown to ComfyUI: choose default, fp8_e4m3fn"
    ):
        diffusion_models().load_options("float16")


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (RuntimeError("size mismatch"), ModelFileError, "ComfyUI cannot load {path}. RuntimeError: size mismatch"),
        (KeyError("x" * 999), ModelFileError, "ComfyUI cannot load {path}. KeyError: 'xxx"),
        (torch.OutOfMemoryError("no room"), OutOfMemoryError, "too little memory to load 'a.safetensors'"),
        (MemoryError(), OutOfMemoryError, "too little memory to load 'a.safetensors'"),
    ],
)
def test_errors_of_loading_name_the_file(
    comfy_stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception], said: str
) -> None:
    import comfy.sd

    def fails(*_: Any, **__: Any) -> None:
        raise error

    path = comfy_stand_in.write_model("a.safetensors")
    files = diffusion_models()
    monkeypatch.setattr(comfy.sd, "load_diffusion_model", fails)
    with pytest.raises(kind) as raised:
        files.load_patcher(files.DIFFUSION_MODELS.find_file("a.safetensors"), "default")
    assert said.format(path=path) in str(raised.value)
    assert len(str(raised.value)) < 900


def test_a_cancel_while_loading_stays_comfyuis(comfy_stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.model_management
    import comfy.sd

    def cancelled(*_: Any, **__: Any) -> None:
        raise comfy.model_management.InterruptProcessingException

    comfy_stand_in.write_model("a.safetensors")
    files = diffusion_models()
    monkeypatch.setattr(comfy.sd, "load_diffusion_model", cancelled)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        files.load_patcher(files.DIFFUSION_MODELS.find_file("a.safetensors"), "default")


def test_a_damaged_file_is_refused_before_comfyui_reads_it(comfy_stand_in: StandIn) -> None:
    import comfy.sd

    path = comfy_stand_in.write_model("a.safetensors")
    path.write_bytes(path.read_bytes()[:-8])
    files = diffusion_models()
    comfy.sd.loaded.clear()
    with pytest.raises(ModelFileError, match=f"{path} is cut off"):
        files.load_patcher(files.DIFFUSION_MODELS.find_file("a.safetensors"), "default")
    assert comfy.sd.loaded == []


def test_a_new_file_goes_into_the_folder_that_has_its_kinds_name(comfy_stand_in: StandIn, tmp_path: Path) -> None:
    import folder_paths

    kind = diffusion_models().DIFFUSION_MODELS
    by_default = kind.folder_for_new("diffusion_models")
    assert by_default.path.name == "diffusion_models"
    assert ".safetensors" in by_default.suffixes
    folder_paths.add_model_folder_path("diffusion_models", str(tmp_path / "volume"), True)
    assert kind.folder_for_new("diffusion_models").path == tmp_path / "volume"
    assert kind.folder_for_new("checkpoints").path == comfy_stand_in.models / "checkpoints"
