"""Sizes that several architectures have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from architecture import Architecture
from drawn import Drawn
from small_models import SmallModel

FLUX = {
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 1,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "qkv_bias": True,
}
# Where its width is taken for granted.
FLUX_WIDTH = {"hidden_size": 3072, "num_heads": 24}
FLUX_NEW = {"txt_ids_dims": []}
HUNYUAN = {
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "vec_in_dim": 768,
    "context_in_dim": 64,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 1,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "theta": 256,
    "qkv_bias": True,
    "guidance_embed": True,
    "byt5": False,
    "meanflow": False,
}
HUNYUAN_NEW = {"use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False}
HUNYUAN15 = {
    "out_channels": 32,
    "patch_size": [1, 1, 1],
    "vec_in_dim": None,
    "guidance_embed": False,
    "use_cond_type_embedding": True,
    "vision_in_dim": 1152,
    "meanflow_sum": True,
    "byt5": True,
}
PREDICT2 = {
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "concat_padding_mask": True,
    "crossattn_emb_channels": 1024,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop",
    "use_adaln_lora": True,
    "adaln_lora_dim": 256,
    "model_channels": 2048,
    "num_heads": 16,
    "num_blocks": 1,
    "extra_per_block_abs_pos_emb": False,
    "rope_enable_fps_modulation": False,
}
WAN = {
    "dim": 128,
    "out_dim": 16,
    "in_dim": 16,
    "num_heads": 1,
    "ffn_dim": 256,
    "num_layers": 2,
    "patch_size": (1, 2, 2),
    "freq_dim": 256,
    "window_size": (-1, -1),
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
}


def flux(config: str, sizes: Mapping[str, Any], **further: Any) -> Architecture:
    given = {
        "latent": (1, 16, 8, 8),
        "context": (7, 4096),
        "always": {"pooled_output": Drawn(1, 768)},
        "sampling": "ModelSamplingFlux",
        **further,
    }
    model = SmallModel(
        config, {**FLUX, "guidance_embed": True, **sizes}, newer=FLUX_NEW, fixed=FLUX_WIDTH, dtype=torch.bfloat16
    )
    return Architecture(model, "image", **given)


def hunyuan(config: str, sizes: Mapping[str, Any], media: str = "video", **further: Any) -> Architecture:
    given = {
        "latent": (1, 16, 2, 8, 8),
        "context": (7, 64),
        "always": {"pooled_output": Drawn(1, 768)},
        **further,
    }
    return Architecture(SmallModel(config, {**HUNYUAN, **sizes}, newer=HUNYUAN_NEW), media, **given)


def wan(config: str, sizes: Mapping[str, Any], **further: Any) -> Architecture:
    given = {"latent": (1, 16, 3, 4, 4), "context": (7, 4096), **further}
    told = given.pop("told", None)
    metadata = {} if told is None else {"config": json.dumps({"transformer": told})}
    return Architecture(
        SmallModel(config, {**WAN, **sizes}, dtype=torch.bfloat16, metadata=metadata), "video", **given
    )
