"""The example workflows, run from a page with small models in place of the real ones.

The worker's models are small, and of the architecture of the real ones. ComfyUI builds text encoders and VAEs at
full size only, so nodes of the tests' own pack take the places of their loaders, remote ones too, in the prompt
that leaves the page. What a checkpoint holds is real. The workflow on the page stays as it is, and has the lines
under its nodes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from playwright.sync_api import Route
from tests.comfyui.harness.fixtures import run_script
from tests.comfyui.harness.installation import Installation
from tests.comfyui.harness.site import REPOSITORY, Worker

from .screen import Screen

FOLDER = REPOSITORY / "example_workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
# Remote loaders that stay in the prompt.
_RUN = ("RemoteModelLoader", "RemoteControlNetLoader", "RemoteCheckpointLoader")
_MODULE = "comfy-gpu-offload"
_EMPTY_FILE = b"\x02\x00\x00\x00\x00\x00\x00\x00{}"  # safetensors without a tensor: listed, and not read

_Node = dict[str, Any]
# Inputs of the stand-ins, by the loader's `type` and by the file's name.
_TEXT_ENCODERS = {
    "qwen_image": {"width": 3584, "pooled": 0},
    "flux": {"width": 4096, "pooled": 768},
    "sdxl": {"width": 2048, "pooled": 1280},
    "stable_diffusion": {"width": 768, "pooled": 0},
    "wan": {"width": 4096, "pooled": 0},
}
_VAES = {
    "ae.safetensors": {"channels": 16, "factor": 8, "video": False},
    "qwen_image_vae.safetensors": {"channels": 16, "factor": 8, "video": True},
    "sdxl_vae.safetensors": {"channels": 4, "factor": 8, "video": False},
    "vae-ft-mse-840000-ema-pruned.safetensors": {"channels": 4, "factor": 8, "video": False},
    "wan_2.1_vae.safetensors": {"channels": 16, "factor": 8, "video": True},
    "wan2.2_vae.safetensors": {"channels": 48, "factor": 16, "video": True},
}

_SHRUNK = {"width": 64, "height": 64, "length": 5, "steps": 3, "megapixels": 0.01}


@dataclass(frozen=True)
class Template:
    """One example workflow.

    Attributes:
        workflow: its file, read.
    """

    name: str
    workflow: dict[str, Any]

    @classmethod
    def read(cls, name: str) -> Template:
        return cls(name, json.loads((FOLDER / f"{name}.json").read_text()))

    @classmethod
    def served(cls, name: str, installation: Installation) -> Template:
        """Return it as the template browser gets it."""
        reply = requests.get(f"{installation.url}/api/workflow_templates/{_MODULE}/{name}.json", timeout=60)
        reply.raise_for_status()
        return cls(name, reply.json())

    @property
    def nodes(self) -> list[dict[str, Any]]:
        nodes: list[dict[str, Any]] = self.workflow["nodes"]
        return nodes

    @property
    def remote_loaders(self) -> list[int]:
        """Return the ids of the nodes that load from the worker when it runs."""
        return [node["id"] for node in self.nodes if node["type"] in _RUN]

    @property
    def sampler(self) -> int:
        """Return the id of the Remote Sampler."""
        (sampler,) = (node["id"] for node in self.nodes if node["type"] == "RemoteSampler")
        return int(sampler)

    @property
    def remote_files(self) -> list[str]:
        """Return the names of the files that the worker must have when it runs."""
        return [model["name"] for node in self.nodes if node["type"] in _RUN for model in _models(node)]

    @property
    def local_models(self) -> list[dict[str, str]]:
        """Return the `name`, `directory` and `url` of each file that this machine must have."""
        return [model for node in self.nodes if not node["type"].startswith("Remote") for model in _models(node)]


def _models(node: dict[str, Any]) -> list[dict[str, str]]:
    models: list[dict[str, str]] = node["properties"].get("models", [])
    return models


@contextmanager
def local_files(template: Template, installation: Installation) -> Iterator[None]:
    """Have files on this machine by the names that the template's local loaders name."""
    folder = installation.comfyui.base / "models"
    paths = [folder / model["directory"] / model["name"] for model in template.local_models]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_EMPTY_FILE)
    try:
        yield
    finally:
        for path in paths:
            path.unlink()


@contextmanager
def remote_models(template: Template, worker: Worker) -> Iterator[None]:
    """Have small models at the worker by the names that the template asks for."""
    folder = worker.models_yaml.parent
    run_script(worker.python, "build_template_models.py", worker.checkout.root, folder, *template.remote_files)
    try:
        yield
    finally:
        for name in template.remote_files:
            for path in folder.rglob(name):
                path.unlink()


def run_small(screen: Screen, shrunk: bool = True) -> None:
    """Let each prompt of the page run with stand-ins, and `shrunk`: three steps of a picture of 64 x 64 pixels."""

    def replace(route: Route) -> None:
        body = route.request.post_data_json
        for node in body["prompt"].values():
            if shrunk:
                node["inputs"].update({name: value for name, value in _SHRUNK.items() if name in node["inputs"]})
            if shrunk and node["class_type"] == "TextEncodeQwenImageEditPlus":
                del node["inputs"]["vae"]  # it would have a picture of 1024 x 1024 beside the latent
            _stand_in(node)
        route.continue_(post_data=json.dumps(body))

    screen.page.route("**/api/prompt", replace)


def _stand_in(node: _Node) -> None:
    inputs = node["inputs"]
    kind = node["class_type"].removeprefix("Remote")
    if kind in {"CLIPLoader", "DualCLIPLoader"}:
        node.update(class_type="OffloadTestTextEncoder", inputs=_TEXT_ENCODERS[inputs["type"]])
    elif kind == "VAELoader":
        node.update(class_type="OffloadTestVAE", inputs=_VAES[inputs["vae_name"]])


def give_input_picture(installation: Installation, checkout_root: Path) -> None:
    """Give ComfyUI the picture that its own installation has among its inputs."""
    (installation.comfyui.base / "input" / "example.png").write_bytes(
        (checkout_root / "input" / "example.png").read_bytes()
    )
