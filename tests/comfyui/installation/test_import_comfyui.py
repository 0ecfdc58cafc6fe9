"""Registering folders of models in a stand-in for ComfyUI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.comfy_stand_in.fixtures import StandIn

from comfy_gpu_offload.errors import ConfigError


def import_comfyui() -> Any:
    from comfy_gpu_offload.comfyui.installation import import_comfyui

    return import_comfyui


def add_models_dir(folder: Path) -> None:
    from comfy_gpu_offload.comfyui.worker.modules.kinds import KINDS

    import_comfyui().add_models_dir(folder, [kind.files for kind in KINDS])


def folders(kind: str, below: Path) -> list[str]:
    import folder_paths

    paths = [Path(path) for path in folder_paths.get_folder_paths(kind)]
    return [path.relative_to(below).as_posix() for path in paths if path.is_relative_to(below)]


@pytest.mark.parametrize(
    ("found", "diffusion", "checkpoints", "nets"),
    [
        (["diffusion_models", "checkpoints"], ["diffusion_models"], ["checkpoints"], ["controlnet"]),
        (["unet", "diffusion_models"], ["unet", "diffusion_models"], ["checkpoints"], ["controlnet"]),
        (["unet"], ["unet", "diffusion_models"], ["checkpoints"], ["controlnet"]),
        (["checkpoints"], ["diffusion_models"], ["checkpoints"], ["controlnet"]),
        (["controlnet", "t2i_adapter"], ["."], [], ["t2i_adapter", "controlnet"]),
        (["anything"], ["."], [], ["controlnet"]),
        (["lost+found", ".cache"], ["diffusion_models"], ["checkpoints"], ["controlnet"]),
        ([], ["diffusion_models"], ["checkpoints"], ["controlnet"]),
    ],
)
def test_a_models_folder_gives_its_subfolders_or_itself(
    comfy_stand_in: StandIn,
    tmp_path: Path,
    found: list[str],
    diffusion: list[str],
    checkpoints: list[str],
    nets: list[str],
) -> None:
    more = tmp_path / "more"
    for name in ("", *found):
        (more / name).mkdir()
    add_models_dir(more)
    listed = [folders(kind, more) for kind in ("diffusion_models", "checkpoints", "controlnet")]
    assert listed == [diffusion, checkpoints, nets]


@pytest.mark.parametrize("found", [[], ["checkpoints"], ["vae"]])
def test_new_files_go_into_the_models_folder(comfy_stand_in: StandIn, tmp_path: Path, found: list[str]) -> None:
    from comfy_gpu_offload.comfyui.worker.modules.kinds import KINDS

    more = tmp_path / "more"
    for name in ("", *found):
        (more / name).mkdir()
    add_models_dir(more)
    new = {folder: kind.files.folder_for_new(folder).path for kind in KINDS for folder in kind.files.folders}
    if found == ["vae"]:  # with an entry, and without a folder of models: it is one itself
        assert (new.pop("diffusion_models"), new.pop("checkpoints").parent) == (more, comfy_stand_in.models)
    assert all(path == more / folder for folder, path in new.items())


def test_files_of_model_paths_are_read_the_roots_own_first(comfy_stand_in: StandIn, tmp_path: Path) -> None:
    own, other = tmp_path / "extra_model_paths.yaml", tmp_path / "other.yaml"
    own.write_text(f"diffusion_models: {tmp_path}/own\n")
    other.write_text(f"diffusion_models: {tmp_path}/other\n")
    import_comfyui().add_model_paths(tmp_path, [other])
    assert folders("diffusion_models", tmp_path)[-2:] == ["own", "other"]


def test_a_file_of_another_form_is_named(comfy_stand_in: StandIn, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("no mapping")
    with pytest.raises(ConfigError, match=f"{path} is not a file of extra model paths"):
        import_comfyui().add_model_paths(tmp_path, [path])


def test_a_missing_dependency_is_named_with_the_interpreter(
    comfy_stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    # None makes an import fail as one of a module that is not installed.
    monkeypatch.setitem(sys.modules, "comfy.sd", None)
    path = list(sys.path)
    with pytest.raises(ConfigError, match=r"does not start: comfy\.sd is not installed for .*COMFYUI_PYTHON"):
        import_comfyui().enter(comfy_stand_in.root, cpu=True)
    sys.path[:] = path


def test_the_version_is_the_checkouts(comfy_stand_in: StandIn) -> None:
    import comfy.cli_args

    assert import_comfyui().enter(comfy_stand_in.root, cpu=True) == "0.0.0+stand-in"
    assert comfy.cli_args.args.cpu is True
