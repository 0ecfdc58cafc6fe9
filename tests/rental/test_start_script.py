"""The start script as a pod's argument: its values, its size, and that no secret gets into it."""

from __future__ import annotations

import shutil
import subprocess
from importlib.resources import files
from typing import Any

import pytest

from comfy_gpu_offload.errors import ConfigError
from comfy_gpu_offload.rental.start_script import StartOptions, start_args, start_script
from comfy_gpu_offload.version import __version__

STOCK: dict[str, Any] = {"pack_version": "0.1.0", "comfyui_version": "0.33.0", "image_is_ours": False}


def values(**given: Any) -> dict[str, str]:
    """Return the assignments in front of the script."""
    lines = start_script(StartOptions(**{**STOCK, **given})).splitlines()
    assigned = [line.removeprefix("START_").split("=", 1) for line in lines if line.startswith("START_")]
    return dict(assigned)


def test_a_stock_image_gets_the_pack_of_the_same_release_and_the_clients_comfyui() -> None:
    found = values(pack_version=__version__)
    assert found["INSTALL"] == "yes"
    assert found["PACK"] == f"comfy-gpu-offload=={__version__}"
    assert found["PACK_ELSE"].strip("'").endswith(f"comfy-gpu-offload@v{__version__}")
    assert found["COMFYUI"] == "0.33.0"


def test_a_given_source_is_the_only_one() -> None:
    found = values(pack_source="https://example.org/comfy_gpu_offload-0.1.0-py3-none-any.whl", backend="diffusers")
    assert found["PACK"].startswith("'comfy-gpu-offload[worker] @ https://example.org/")
    assert found["PACK_ELSE"] == "''"
    assert "COMFYUI" not in found


def test_an_image_of_ours_installs_nothing() -> None:
    found = values(image_is_ours=True, comfyui_version=None)
    assert found["INSTALL"] == "no"
    assert not {"PACK", "COMFYUI", "BACKEND"} & found.keys()


@pytest.mark.parametrize(
    "wrong",
    [
        {"pack_version": "0.1.0; rm -rf /"},
        {"comfyui_version": "master"},
        {"comfyui_version": None},
        {"pack_source": "./here.whl"},
        {"pack_source": "http://example.org/pack.whl"},
        {"pack_source": "https://user:secret@example.org/pack.whl"},
        {"pack_source": "git+https://ghp_secret@github.com/a/b"},
        {"pack_source": "https://example.org/a b"},
        {"comfyui_repository": "git@github.com:a/b"},
        {"worker_options": ("--allow-host", "$(id)")},
        {"worker_options": ("two words",)},
        {"folder": "relative"},
        {"volume": "/with'quote"},
        {"api": "http://api.example.org/v2"},
        {"graphql": "ftp://api.example.org"},
        {"api": "https://key@api.example.org"},
    ],
    ids=str,
)
def test_what_cannot_stand_in_a_script_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="cannot be started") as raised:
        start_args(StartOptions(**{**STOCK, **wrong}))
    assert "secret" not in str(raised.value)


def test_an_argument_that_is_too_long_is_refused() -> None:
    import random

    names = random.Random(1)
    source = "https://example.org/" + "".join(names.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=20_000))
    with pytest.raises(ConfigError, match="bytes"):
        start_args(StartOptions(**STOCK, pack_source=source))


def test_there_is_room_left_in_the_argument() -> None:
    assert len(start_args(StartOptions(**STOCK))) < 8192


def test_the_same_options_make_the_same_argument() -> None:
    assert start_args(StartOptions(**STOCK)) == start_args(StartOptions(**STOCK))


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    script = str(files("comfy_gpu_offload.rental") / "start.sh")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
