"""A worker's own handler and ComfyUI backend in this process, a client's own session with it, and stock models."""

from __future__ import annotations

import gc
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from comfy_gpu_offload.client.session import Session
from comfy_gpu_offload.comfyui.worker.backend import ComfyUIBackend
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.transport.loopback import LoopbackTransport

ROOT = Path(sys.argv[1])
_FOLDER = tempfile.TemporaryDirectory(prefix="matrix-")
FOLDER = Path(_FOLDER.name)
for kind in ("diffusion_models", "checkpoints"):  # before the backend, which looks for them
    (FOLDER / kind).mkdir()
BACKEND = ComfyUIBackend(ROOT, models_dir=FOLDER, cpu=not torch.cuda.is_available())

# Before nodes, which puts a folder in front of the path that has a utils too.
import utils.install_util  # noqa: E402, F401, I001

import comfy.model_management  # noqa: E402
import nodes  # noqa: E402, F401

from comfy_gpu_offload.comfyui.client.patcher import RemoteModelPatcher, remote_patcher  # noqa: E402
from comfy_gpu_offload.comfyui.installation import diffusion_model_files  # noqa: E402
from small_models import SmallModel  # noqa: E402

HANDLER = Handler(BACKEND)
SESSION = Session(LoopbackTransport(HANDLER))


@dataclass
class Pair:
    """One file, as ComfyUI itself loads it, and at the worker."""

    stock: Any
    remote: RemoteModelPatcher


def load(model: SmallModel) -> Pair:
    """Write the model's file, and load it on both sides.

    Raises:
        NotHereError: this release does not have it.
        OffloadError: the worker or the client cannot load it.
    """
    name = model.write(FOLDER)
    stock = diffusion_model_files.load_patcher(diffusion_model_files.DIFFUSION_MODELS.find_file(name), "default")
    with torch.inference_mode():
        return Pair(stock, remote_patcher(SESSION.model(name)))


def release(model: SmallModel) -> None:
    """Free the memory and the disk of a model that is done with."""
    BACKEND.close()
    comfy.model_management.unload_all_models()
    comfy.model_management.cleanup_models()
    gc.collect()
    (FOLDER / model.folder / f"{model.config}.safetensors").unlink(missing_ok=True)
