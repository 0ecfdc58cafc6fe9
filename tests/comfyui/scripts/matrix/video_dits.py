"""Transformers that make videos, with sound or without."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from architecture import Architecture
from drawn import Bits, Drawn, Ones, Vision
from families import HUNYUAN15, PREDICT2, hunyuan, wan
from small_models import SmallModel

_I2V = {
    "image to video": {"concat_latent_image": Drawn(1, 16, 3, 4, 4), "concat_mask": Bits(1, 1, 3, 4, 4)},
    "clip vision": {"clip_vision_output": Vision(width=1280, tokens=257)},
}
_LTXAV = {
    "cross_attention_dim": 256,
    "audio_cross_attention_dim": 128,
    "attention_head_dim": 8,
    "audio_attention_head_dim": 4,
    "caption_channels": 64,
    "num_layers": 1,
    "connector_attention_head_dim": 8,
    "connector_num_attention_heads": 8,
    "connector_num_layers": 1,
}


def cogvideo(config: str, sizes: Mapping[str, Any], **further: Any) -> Architecture:
    given = {
        "num_attention_heads": 1,
        "attention_head_dim": 64,
        "time_embed_dim": 64,
        "num_layers": 1,
        "patch_size": 2,
        "text_embed_dim": 64,
        "use_learned_positional_embeddings": False,
        "use_rotary_positional_embeddings": True,
        **sizes,
    }
    return Architecture(SmallModel(config, given), "video", (1, 16, 2, 4, 4), (7, 64), **further)


VIDEO_DITS = (
    Architecture(
        SmallModel(
            "LTXV", {"cross_attention_dim": 256, "attention_head_dim": 8, "num_layers": 2}, dtype=torch.bfloat16
        ),
        "video",
        (1, 128, 2, 3, 2),
        (7, 4096),
        {"attention_mask": Ones(1, 7, dtype=torch.int64)},
        {
            "frame rate": {"frame_rate": 12.0},
            "image to video": {"concat_mask": Bits(1, 1, 2, 3, 2)},
        },
        sampling="ModelSamplingFlux",
    ),
    Architecture(
        SmallModel("LTXAV", _LTXAV, dtype=torch.bfloat16, metadata={"config": json.dumps({"transformer": _LTXAV})}),
        "audio with video",
        ((1, 128, 2, 3, 2), (1, 8, 5, 16)),
        (7, 128),
        {"frame_rate": 24.0},
        {
            "frame rate": {"frame_rate": 12.0},
            "unprocessed text": {"unprocessed_ltxav_embeds": True, "context": (7, 64)},
        },
        sampling="ModelSamplingFlux",
    ),
    hunyuan(
        "HunyuanVideo",
        {},
        own={
            "guidance": {"guidance": 3.0},
            "attention mask": {"attention_mask": Bits(1, 7, dtype=torch.int64), "cfg": 1.0},
            "reference latent": {"ref_latent": Drawn(1, 16, 1, 6, 4), "cfg": 1.0},
            "guiding frame": {"guiding_frame_index": 0},
        },
    ),
    hunyuan(
        "HunyuanVideoI2V",
        {"in_channels": 33},
        own={
            "image to video": {
                "concat_latent_image": Drawn(1, 16, 2, 8, 8),
                "concat_mask": Bits(1, 1, 2, 8, 8),
            }
        },
    ),
    hunyuan(
        "HunyuanVideoSkyreelsI2V",
        {"in_channels": 32},
        own={"image to video": {"concat_latent_image": Drawn(1, 16, 2, 8, 8)}},
    ),
    hunyuan(
        "HunyuanVideo15_SR_Distilled",
        {**HUNYUAN15, "in_channels": 98},
        latent=(1, 32, 2, 4, 4),
        always={"pooled_output": None, "conditioning_byt5small": Drawn(1, 5, 1472)},
        own={"upscaled video": {"concat_latent_image": Drawn(1, 66, 2, 4, 4), "noise_augmentation": 0.3}},
    ),
    hunyuan(
        "HunyuanVideo15",
        {**HUNYUAN15, "in_channels": 65},
        latent=(1, 32, 2, 4, 4),
        always={"pooled_output": None, "conditioning_byt5small": Drawn(1, 5, 1472)},
        own={
            "image to video": {
                "concat_latent_image": Drawn(1, 32, 2, 4, 4),
                "concat_mask": Bits(1, 1, 2, 4, 4),
            },
            "clip vision": {"clip_vision_output": Vision(width=1152, tokens=9)},
        },
    ),
    Architecture(
        SmallModel(
            "CosmosI2VPredict2", {**PREDICT2, "in_channels": 17}, fixed={"num_blocks": 28}, dtype=torch.bfloat16
        ),
        "video",
        (1, 16, 2, 4, 4),
        (7, 1024),
        own={"image to video": {"concat_mask": Bits(1, 1, 2, 4, 4)}},
    ),
    wan("WAN21_T2V", {}, own={"longer in time": {"time_dim_concat": Drawn(1, 16, 1, 4, 4)}}),
    wan("WAN21_CausalAR_T2V", {}, told={"causal_ar": True}),
    wan("WAN21_I2V", {"model_type": "i2v", "in_dim": 36}, own=_I2V),
    wan(
        "WAN21_FunControl2V",
        {"model_type": "i2v", "in_dim": 48},
        own={"control video": {"concat_latent_image": Drawn(1, 32, 3, 4, 4)}, "clip vision": _I2V["clip vision"]},
    ),
    wan(
        "WAN21_Camera",
        {"model_type": "camera", "in_dim": 32},
        own={
            "camera": {"camera_conditions": Drawn(1, 24, 3, 32, 32)},
            "image to video": {"concat_latent_image": Drawn(1, 16, 3, 4, 4)},
        },
    ),
    wan(
        "WAN22_Camera",
        {"model_type": "camera_2.2", "in_dim": 36},
        own={"camera": {"camera_conditions": Drawn(1, 24, 3, 32, 32)}, "image to video": _I2V["image to video"]},
    ),
    wan(
        "WAN21_Vace",
        {"model_type": "vace", "vace_layers": 2, "vace_in_dim": 96},
        own={
            "control video": {
                "vace_frames": [Drawn(1, 32, 3, 4, 4)],
                "vace_mask": [Drawn(1, 64, 3, 4, 4)],
                "vace_strength": [0.7],
            },
            "two control videos": {
                "vace_frames": [Drawn(1, 32, 3, 4, 4), Drawn(1, 32, 3, 4, 4, seed=4)],
                "vace_mask": [Drawn(1, 64, 3, 4, 4), Drawn(1, 64, 3, 4, 4, seed=5)],
                "vace_strength": [0.7, 0.4],
            },
        },
    ),
    wan(
        "WAN21_HuMo",
        {"model_type": "humo"},
        always={"audio_embed": Drawn(1, 9, 8, 5, 1280)},
        own={"reference latents": {"reference_latents": [Drawn(1, 16, 1, 4, 4)]}},
    ),
    wan(
        "WAN22_S2V",
        {"model_type": "s2v"},
        own={
            "sound to video": {"audio_embed": Drawn(1, 25, 1024, 12)},
            "reference latents": {"reference_latents": [Drawn(1, 16, 1, 4, 4)]},
            "control video": {"control_video": Drawn(1, 16, 3, 4, 4)},
        },
    ),
    wan(
        "WAN22_Animate",
        {"model_type": "animate", "in_dim": 36},
        own={
            "pose and face": {
                "pose_video_latent": Drawn(1, 16, 2, 4, 4),
                "face_video_pixels": Drawn(1, 3, 9, 512, 512),
            },
            "image to video": _I2V["image to video"],
        },
    ),
    wan("WAN22_T2V", {"in_dim": 48, "out_dim": 48}, latent=(1, 48, 3, 4, 4)),
    wan("WAN21_FlowRVS", {}, told={"model_type": "flow_rvs"}),
    wan(
        "WAN21_SCAIL",
        {"model_type": "scail", "in_dim": 20},
        own={
            "reference and pose": {
                "reference_latents": [Drawn(1, 16, 1, 4, 4)],
                "pose_video_latent": Drawn(1, 16, 3, 2, 2),
            }
        },
    ),
    wan(
        "WAN_Animate2",
        {"model_type": "animate2", "in_dim": 36},
        told={"model_type": "animate2"},
        own={
            "pose": {"pose_video_latent": Drawn(1, 16, 2, 4, 4), "pose_strength": 0.7},
            "image to video": _I2V["image to video"],
        },
    ),
    wan(
        "WAN21_SCAIL2",
        {"model_type": "scail2", "in_dim": 20},
        own={
            "reference and pose": {
                "reference_latents": [Drawn(1, 16, 1, 4, 4)],
                "pose_video_latent": Drawn(1, 16, 3, 2, 2),
            },
            "identity masks": {
                "reference_latents": [Drawn(1, 16, 1, 4, 4)],
                "pose_video_latent": Drawn(1, 16, 3, 2, 2),
                "driving_mask_28ch": Bits(1, 3, 28, 2, 2),
                "ref_mask_28ch": Bits(1, 4, 28, 4, 4),
            },
        },
    ),
    wan(
        "WAN22_WanDancer",
        {"model_type": "wandancer", "in_dim": 36},
        own={"music": {"audio_embed": Drawn(1, 12, 35), "fps": 30.0}, "image to video": _I2V["image to video"]},
    ),
    Architecture(
        SmallModel(
            "Kandinsky5",
            {
                "model_dim": 1792,
                "axes_dims": (16, 24, 24),
                "time_dim": 64,
                "ff_dim": 256,
                "visual_embed_dim": 132,
                "num_text_blocks": 1,
                "num_visual_blocks": 1,
            },
            dtype=torch.bfloat16,
        ),
        "video",
        (1, 16, 2, 4, 4),
        (7, 3584),
        {"pooled_output": Drawn(1, 768)},
        {"image to video": {"time_dim_replace": Drawn(1, 16, 1, 4, 4), "concat_mask": Bits(1, 1, 2, 4, 4)}},
    ),
    cogvideo("CogVideoX_T2V", {"in_channels": 16}),
    cogvideo(
        "CogVideoX_I2V",
        {"in_channels": 32},
        own={"image to video": {"concat_latent_image": Drawn(1, 16, 1, 4, 4)}},
    ),
    cogvideo(
        "CogVideoX_Inpaint",
        {"in_channels": 48},
        own={"image to video": {"concat_latent_image": Drawn(1, 32, 2, 4, 4)}},
    ),
    Architecture(
        SmallModel(
            "MiniMaxH3",
            {
                "hidden_size": 128,
                "num_layers": 1,
                "token_refiner_num_layers": 1,
                "num_attention_heads": 1,
                "attention_head_dim": 128,
                "ffn_hidden_size": 128,
                "text_dim": 64,
                "timestep_input_dim": 256,
                "time_embed_hidden_size": 128,
                "time_embed_dim": 64,
                "latents_dim": 24,
                "audio_latents_dim": 32,
                "rope_inv_freq_len": 16,
            },
        ),
        "audio with video",
        ((1, 24, 2, 4, 4), (1, 32, 2, 6)),
        (7, 64),
    ),
)
