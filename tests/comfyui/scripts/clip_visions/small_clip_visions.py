"""CLIP vision models of every family, small: ComfyUI's own classes with other sizes and random weights.

The number of layers, by which ComfyUI tells the families apart, stays; layers are narrow. Where the width
tells them apart too (SigLIP), all layers but one are norms alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.ops
import comfy.supported_models
import torch
from safetensors.torch import save_file

_NARROW = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "projection_dim": 32}
# Of ComfyUI's files of configurations, by the name of the small model; and what SigLIP's are besides.
_FILES = {
    "vit_l": "clip_vision_config_vitl.json",
    "vit_h": "clip_vision_config_h.json",
    "vit_g": "clip_vision_config_g.json",
    "llava": "clip_vision_config_vitl_336_llava.json",
    "siglip": "clip_vision_siglip_384.json",
    "siglip2": "clip_vision_siglip2_base_naflex.json",
    "dino2": "image_encoders/dino2_large.json",
}


class _Norm(torch.nn.Module):
    """A layer that hardly takes time, with a key by which ComfyUI counts layers."""

    def __init__(self, width: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.layer_norm1 = comfy.ops.manual_cast.LayerNorm(width, dtype=dtype, device=device)

    def forward(self, x: torch.Tensor, *_: object) -> torch.Tensor:
        return x + self.layer_norm1(x)


def _narrow(kind: Callable[..., Any]) -> Callable[..., Any]:
    def make(config: dict[str, Any], *others: Any) -> Any:
        return kind({**config, **{name: size for name, size in _NARROW.items() if name in config}}, *others)

    return make


def _thin(kind: Callable[..., Any]) -> Callable[..., Any]:
    def make(config: dict[str, Any], dtype: torch.dtype, device: torch.device, operations: Any) -> Any:
        made = kind({**config, "intermediate_size": 64, "num_hidden_layers": 23}, dtype, device, operations)
        layers = made.vision_model.encoder.layers
        for at in range(1, len(layers)):
            layers[at] = _Norm(config["hidden_size"], dtype, device)
        return made

    return make


def shrink() -> None:
    """Have ComfyUI build small image encoders in this process."""
    encoders = comfy.clip_vision.IMAGE_ENCODERS
    for name, kind in list(encoders.items()):
        encoders[name] = _thin(kind) if name.startswith("siglip") else _narrow(kind)


def names() -> list[str]:
    """Return the names of those that this ComfyUI knows."""
    folder = Path(str(comfy.clip_vision.__file__)).parent
    return [name for name, file in _FILES.items() if (folder / file).exists() and _is_known(folder / file)]


def _is_known(path: Path) -> bool:
    kinds = (f'"{kind}"' for kind in comfy.clip_vision.IMAGE_ENCODERS)
    text = path.read_text(encoding="utf-8")
    return any(kind in text for kind in kinds)


def _weights(name: str) -> dict[str, torch.Tensor]:
    folder = Path(str(comfy.clip_vision.__file__)).parent
    generator = torch.Generator().manual_seed(len(name))
    made = {}
    for key, like in comfy.clip_vision.ClipVisionModel(str(folder / _FILES[name])).model.state_dict().items():
        values = torch.randn(like.shape, generator=generator)
        gain = key.endswith("weight") and like.dim() == 1
        made[key] = (1 + 0.1 * values if gain else 0.15 * values).to(torch.float16)
    return made


def write(folder: Path) -> None:
    """Write all of them, and a checkpoint of SD 2.1 unCLIP with an image encoder in it."""
    (folder / "clip_vision").mkdir()
    for name in names():
        save_file(_weights(name), folder / "clip_vision" / f"{name}.safetensors")
    (folder / "checkpoints").mkdir()
    save_file({**_unclip_keys(), **_open_clip(_weights("vit_l"))}, folder / "checkpoints" / "unclip.safetensors")
    save_file(_unclip_keys(), folder / "checkpoints" / "without.safetensors")


def _open_clip(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights under OpenCLIP's keys, which checkpoints have."""
    prefix, made = "embedder.model.visual.", {}
    single = {
        "embeddings.class_embedding": "class_embedding",
        "embeddings.patch_embedding.weight": "conv1.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "post_layernorm": "ln_post",
        "pre_layrnorm": "ln_pre",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
        "encoder.layers": "transformer.resblocks",
    }
    for key, value in weights.items():
        own = key.removeprefix("vision_model.")
        if own == "visual_projection.weight":
            made[f"{prefix}proj"] = value.T.contiguous()
        elif ".self_attn.q_proj." in own:
            parts = [weights[key.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            own = own.replace("encoder.layers", "transformer.resblocks")
            made[prefix + own.replace("self_attn.q_proj.", "attn.in_proj_")] = torch.cat(parts)
        elif ".k_proj." not in own and ".v_proj." not in own:
            for theirs, name in single.items():
                own = own.replace(theirs, name)
            made[prefix + own] = value
    return made


def _unclip_keys() -> dict[str, torch.Tensor]:
    """Return what ComfyUI recognises SD 2.1 unCLIP's network by: keys and shapes, most of them cut short."""
    config = {
        **comfy.supported_models.SD21UnclipL.unet_config,
        "in_channels": 4,
        "out_channels": 4,
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "transformer_depth_middle": 1,
        "num_head_channels": 64,
        "num_classes": "sequential",
        "image_size": 32,
        "use_spatial_transformer": True,
        "legacy": False,
    }
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    network = UNetModel(**config, device=torch.device("meta"), operations=comfy.ops.disable_weight_init)
    read = ("attn2.to_k.weight", "label_emb.0.0.weight", "input_blocks.0.0.weight")
    made = {}
    for key, like in network.state_dict().items():
        kept = 2 if key.endswith(read) else 1
        shape = [size if at < kept else 1 for at, size in enumerate(like.shape)]
        made[f"model.diffusion_model.{key}"] = torch.zeros(shape, dtype=torch.float8_e4m3fn)
    return made
