"""Model files of their real sizes that take no disk: headers by ComfyUI's own networks, and nothing behind them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import comfy.ldm.flux.model
import comfy.ldm.models.autoencoder
import comfy.ldm.wan.vae
import comfy.ops
import comfy.sd1_clip
import comfy.text_encoders.sd3_clip
import torch

FLUX, CLIP_L, T5, AE = "flux1-dev.safetensors", "clip_l.safetensors", "t5xxl_fp16.safetensors", "ae.safetensors"
WAN_VAE = "wan_2.1_vae.safetensors"
_FLUX = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "mlp_ratio": 4.0,
    "num_heads": 24,
    "depth": 19,
    "depth_single_blocks": 38,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],  # of later releases
}
_AE = {
    "double_z": True,
    "z_channels": 16,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}
_WAN = {
    "dim": 96,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
    "dropout": 0.0,
}
_NAMES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}


def _autoencoder() -> torch.nn.Module:
    parts = "comfy.ldm.modules.diffusionmodules.model."
    return comfy.ldm.models.autoencoder.AutoencodingEngine(
        regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
        encoder_config={"target": f"{parts}Encoder", "params": _AE},
        decoder_config={"target": f"{parts}Decoder", "params": _AE},
    )


def _flux() -> torch.nn.Module:
    known = {field.name for field in fields(comfy.ldm.flux.model.FluxParams)}
    config = {name: value for name, value in _FLUX.items() if name in known}
    return comfy.ldm.flux.model.Flux(device="meta", operations=comfy.ops.disable_weight_init, **config)


# By its place, what a file holds, and in which dtype.
_FILES: Mapping[str, tuple[Callable[[], Any], torch.dtype]] = {
    f"diffusion_models/{FLUX}": (_flux, torch.bfloat16),
    f"text_encoders/{CLIP_L}": (lambda: comfy.sd1_clip.SDClipModel(device="meta").transformer, torch.float16),
    f"text_encoders/{T5}": (
        lambda: comfy.text_encoders.sd3_clip.T5XXLModel(device="meta").transformer,
        torch.float16,
    ),
    f"vae/{AE}": (_autoencoder, torch.float32),
    f"vae/{WAN_VAE}": (lambda: comfy.ldm.wan.vae.WanVAE(**_WAN), torch.float32),
}


def write(folder: Path) -> None:
    """Write all of them into ComfyUI's folders."""
    for place, (build, dtype) in _FILES.items():
        with torch.device("meta"):
            shapes = {key: tuple(tensor.shape) for key, tensor in build().state_dict().items()}
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_sparse(path, shapes, dtype)


def _write_sparse(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> None:
    header, end = {}, 0
    for key, shape in shapes.items():
        begin, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        header[key] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)  # a hole, which reads as zeros
