"""A file goes into a folder of the worker's list, under a name that is one everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfy_gpu_offload.backends.base import ModelFolder
from comfy_gpu_offload.server.model_store.placement import check_name, place_of
from comfy_gpu_offload.server.model_store.refusals import RefusedFileError

FOLDERS = {"vae": ModelFolder(Path("/models/vae"), frozenset({".safetensors", ".ckpt"}))}


def test_a_file_lies_in_its_folder() -> None:
    place = place_of(FOLDERS, "vae", "ae.SafeTensors")
    assert place.path == Path("/models/vae/ae.SafeTensors")
    assert place.suffix == ".safetensors"


@pytest.mark.parametrize("folder", ["", "loras", "../vae", "/models/vae", "vae/", "VAE"])
def test_another_folder_is_refused_with_those_that_there_are(folder: str) -> None:
    with pytest.raises(RefusedFileError, match="it has vae"):
        place_of(FOLDERS, folder, "ae.safetensors")


def test_a_backend_without_folders_says_so() -> None:
    with pytest.raises(RefusedFileError, match="takes no single files"):
        place_of({}, "vae", "ae.safetensors")


def test_a_file_that_the_backend_does_not_list_is_refused() -> None:
    with pytest.raises(RefusedFileError, match=r"cannot load \.gguf files from vae, only \.safetensors"):
        place_of(FOLDERS, "vae", "ae.gguf")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".safetensors",
        "..",
        "../ae.safetensors",
        "a/b.safetensors",
        "a\\b.safetensors",
        "/etc/x.safetensors",
        "C:x.safetensors",
        "x.safetensors:stream.safetensors",
        "x\0.safetensors",
        "x\n.safetensors",
        "\u202ex.safetensors",
        "x.safetensors ",
        "x.safetensors.",
        "con.safetensors",
        "NUL.x.safetensors",
        "x.ckpt",
        "x.safetensors.pt",
        "x.safetensors.0123456789abcdef.part",
        "ä" * 120 + ".safetensors",
        "x\ud800.safetensors",
    ],
)
def test_a_name_that_leads_elsewhere_or_is_no_models_is_refused(name: str) -> None:
    with pytest.raises(RefusedFileError, match="cannot be a model's name"):
        check_name(name)


@pytest.mark.parametrize("name", ["x.safetensors", "flux1-dev (fp8).sft", "模型.gguf", "console.safetensors"])
def test_other_names_are_taken(name: str) -> None:
    check_name(name)
