"""A worker of real models' shapes that computes nothing: its files are holes, its networks return random values.

    PYTHON worker.py COMFYUI_ROOT FOLDER

Pictures and videos that its VAEs decode have the statistics of real ones. It computes in bfloat16, as on a GPU.
Prints one line, ``listening on URL``, and runs until it is terminated.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

ROOT, FOLDER = map(Path, sys.argv[1:3])
sys.path.insert(0, str(ROOT))

from comfy.cli_args import args  # noqa: E402

args.cpu = args.bf16_unet = args.bf16_vae = True

import torch  # noqa: E402

from comfy_gpu_offload.comfyui.worker.backend import ComfyUIBackend  # noqa: E402

BACKEND = ComfyUIBackend(ROOT, models_dir=FOLDER, cpu=True)

# Before nodes, which puts a folder in front of the path that has a utils too.
import utils.install_util  # noqa: E402, F401, I001

import comfy.ldm.flux.model  # noqa: E402
import comfy.ldm.models.autoencoder  # noqa: E402
import comfy.ldm.wan.vae  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.text_encoders.flux  # noqa: E402
import folder_paths  # noqa: E402
import sparse_files  # noqa: E402

sys.path.append(str(Path(__file__).parents[4] / "benchmarks"))
from comfy_gpu_offload.io.frame import FrameLimits  # noqa: E402
from comfy_gpu_offload.server.handler import HandlerOptions  # noqa: E402
from comfy_gpu_offload.server.http.routes import WorkerState  # noqa: E402
from comfy_gpu_offload.server.serve import ServeOptions, serve_until_signalled  # noqa: E402
from synthetic_pictures import picture, video  # noqa: E402

# Tokens of T5 that Flux's tokenizer pads to.
_T5_TOKENS = 256


def _drawn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def _load_nothing(_: Any, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
    return torch.nn.modules.module._IncompatibleKeys([], [])


def _encode(_: Any, tokens: Any) -> Any:
    return _drawn(1, _T5_TOKENS, 4096), _drawn(1, 768)


def _denoise(_: Any, x: torch.Tensor, *__: Any, **___: Any) -> torch.Tensor:
    return _drawn(*x.shape, dtype=x.dtype)


def _decode_picture(_: Any, z: torch.Tensor, **__: Any) -> torch.Tensor:
    height, width = (8 * size for size in z.shape[-2:])
    return picture(height, width, torch.Generator().manual_seed(1))[None].to(z.dtype)


def _decode_video(_: Any, z: torch.Tensor, **__: Any) -> torch.Tensor:
    frames, height, width = 4 * z.shape[2] - 3, *(8 * size for size in z.shape[-2:])
    return video(frames, height, width, torch.Generator().manual_seed(1))[None].to(z.dtype)


def _without_weights() -> None:
    """Have ComfyUI load the files' shapes alone, and its networks return values of the right shapes."""
    torch.nn.Module.load_state_dict = _load_nothing  # type: ignore[method-assign,assignment]
    comfy.model_management.unet_manual_cast = lambda *_, **__: None
    comfy.text_encoders.flux.FluxClipModel.encode_token_weights = _encode
    comfy.ldm.flux.model.Flux.forward = _denoise
    comfy.ldm.models.autoencoder.AutoencodingEngine.decode = _decode_picture
    comfy.ldm.wan.vae.WanVAE.decode = _decode_video


if __name__ == "__main__":
    sparse_files.write(FOLDER)
    for kind in ("diffusion_models", "text_encoders", "vae"):
        folder_paths.add_model_folder_path(kind, str(FOLDER / kind), is_default=True)
    _without_weights()
    asyncio.run(
        serve_until_signalled(
            WorkerState(FrameLimits()),
            lambda: BACKEND,
            ServeOptions("127.0.0.1", 0, HandlerOptions(), lambda found: print("listening on", found, flush=True)),
        )
    )
