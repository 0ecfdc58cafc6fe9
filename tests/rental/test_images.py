from __future__ import annotations

import re
from pathlib import Path

import pytest
import requests
import requests_mock
from tests.support.runpod_cloud.containers import script_of

from comfy_gpu_offload.errors import ConfigError
from comfy_gpu_offload.rental.images import IMAGE_COMFYUI, STOCK_IMAGE, chosen_image, published_name
from comfy_gpu_offload.version import __version__

ROOT = Path(__file__).parents[2]
TOKEN = "https://ghcr.io/token"
MANIFEST = f"https://ghcr.io/v2/comfy-gpu-offload/comfy-gpu-offload/manifests/{__version__}"


def registry(mock: requests_mock.Mocker, status: int) -> None:
    mock.get(TOKEN, json={"token": "a-pass"})
    mock.head(MANIFEST, status_code=status)


def test_the_projects_image_is_taken_where_it_is_published(requests_mock: requests_mock.Mocker) -> None:
    registry(requests_mock, 200)
    image = chosen_image(None, IMAGE_COMFYUI, None, None)
    assert (image.name, image.args, image.installs) == (published_name(), "", False)
    assert image.name == f"ghcr.io/comfy-gpu-offload/comfy-gpu-offload:{__version__}"


@pytest.mark.parametrize("fault", [404, 401, 500, requests.ConnectionError, requests.Timeout, "no token"])
def test_else_a_stock_image_installs_the_same_releases(requests_mock: requests_mock.Mocker, fault: object) -> None:
    registry(requests_mock, fault if isinstance(fault, int) else 200)
    if isinstance(fault, type):
        requests_mock.head(MANIFEST, exc=fault)
    elif isinstance(fault, str):
        requests_mock.get(TOKEN, text="<html>")
    image = chosen_image(None, None, None, None)
    assert (image.name, image.installs) == (STOCK_IMAGE, True)
    assert f"=={__version__}" in script_of(image.args)


def test_another_comfyui_here_is_installed_there(requests_mock: requests_mock.Mocker) -> None:
    registry(requests_mock, 200)
    image = chosen_image(None, "0.3.64", None, None)
    assert "START_COMFYUI=0.3.64" in script_of(image.args)
    assert not requests_mock.called


def test_an_image_of_the_users_own_runs_its_own_command() -> None:
    image = chosen_image("docker.io/me/worker:1", None, None, None)
    assert (image.name, image.args) == ("docker.io/me/worker:1", "")
    for wrong in ("me worker", "-x", "$(id)", ""):
        with pytest.raises(ConfigError, match="--image"):
            chosen_image(wrong, None, None, None)


def test_the_release_of_comfyui_in_the_image_is_the_dockerfiles() -> None:
    found = re.search(r"^ARG COMFYUI_VERSION=(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert found is not None
    assert found[1] == IMAGE_COMFYUI
