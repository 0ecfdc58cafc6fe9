"""ComfyUI's architectures, each as a small model, with what it is conditioned by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from drawn import Bits, Drawn, Ones, Vision
from small_models import SmallModel

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Architecture:
    """A model, and what a KSampler is given for it.

    Attributes:
        latent: its shape; of a latent of several parts, each one's.
        context: tokens and width of the text's embedding.
        always: what its conditioning always has besides.
        own: what its conditioning may have besides, by what it is called; with `cfg`, or a `context`, of its own.
        sampling: the model sampling node that goes with it.
    """

    model: SmallModel
    media: str
    latent: Shape | tuple[Shape, ...]
    context: Shape
    always: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sampling: str = "ModelSamplingSD3"

    @property
    def name(self) -> str:
        return self.model.config


def _unet(config: str, media: str = "image", **further: Any) -> Architecture:
    """One level of one block, unless said otherwise."""
    sizes = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "num_res_blocks": [1],
        "channel_mult": [1],
        "transformer_depth": [1],
        "transformer_depth_output": [1, 1],
        "transformer_depth_middle": -1,
        "use_spatial_transformer": True,
        "legacy": False,
        "use_temporal_resblock": False,
        **further.pop("sizes", {}),
    }
    if sizes.get("adm_in_channels") is not None:
        sizes["num_classes"] = "sequential"
    model = SmallModel(config, sizes, dtype=torch.float16, **further.pop("model", {}))
    given = {"latent": (1, 4, 8, 8), "sampling": "ModelSamplingDiscrete", **further}
    return Architecture(model, media, **given)


def _levels(depth: list[int], blocks: int, **further: Any) -> dict[str, Any]:
    """A UNet that is known by its depths, as narrow at every level as at the first."""
    levels = len(depth) // blocks
    return {
        "num_res_blocks": [blocks] * levels,
        "channel_mult": [1] * levels,
        "transformer_depth": depth,
        "transformer_depth_output": [0] * (levels * (blocks + 1)),
        **further,
    }


_POOLED = {"pooled_output": Drawn(1, 1280)}
_SIZES = {"width": 512, "height": 768, "crop_w": 8, "crop_h": 16, "target_width": 640, "target_height": 704}
_UNCLIP = {
    "unclip_conditioning": [{"clip_vision_output": Vision(width=768), "strength": 0.8, "noise_augmentation": 0.2}]
}
_UNCLIPS = {
    "unclip_conditioning": [
        {"clip_vision_output": Vision(width=768), "strength": 0.8, "noise_augmentation": 0.2},
        {"clip_vision_output": Vision(width=768, seed=5), "strength": 0.5, "noise_augmentation": 0.0},
    ]
}
_CONCAT = {"concat_latent_image": Drawn(1, 4, 8, 8)}
_VIDEO = {
    "use_temporal_resblock": True,
    "use_temporal_attention": True,
    "extra_ff_mix_layer": True,
    "use_spatial_context": True,
    "merge_strategy": "learned_with_images",
    "merge_factor": 0.0,
    "video_kernel_size": [3, 1, 1],
    "disable_temporal_crossattention": False,
    "in_channels": 8,
}


def _video_unet(config: str, adm: int, **further: Any) -> Architecture:
    return _unet(
        config,
        "video",
        sizes=_levels([1, 1, 1, 1, 1, 1, 0, 0], 2, adm_in_channels=adm, **_VIDEO),
        latent=(3, 4, 8, 8),
        context=(1, 1024),
        **further,
    )


UNETS = (
    _unet("SD15", context=(7, 768)),
    _unet("SD20", context=(7, 1024)),
    _unet(
        "SD21UnclipL",
        sizes={"adm_in_channels": 1536},
        context=(7, 1024),
        own={"unCLIP": _UNCLIP, "unCLIP, two images": _UNCLIPS},
    ),
    _unet(
        "SD21UnclipH",
        sizes={"adm_in_channels": 2048},
        context=(7, 1024),
        own={
            "unCLIP": {
                "unclip_conditioning": [
                    {**_UNCLIP["unclip_conditioning"][0], "clip_vision_output": Vision(width=1024)}
                ]
            }
        },
    ),
    _unet(
        "SDXL",
        sizes=_levels([0, 0, 2, 2, 10, 10], 2, adm_in_channels=2816),
        context=(7, 2048),
        always=_POOLED,
        own={
            "size conditioning": _SIZES,
            "unCLIP (revision)": {
                "unclip_conditioning": [
                    {**_UNCLIP["unclip_conditioning"][0], "clip_vision_output": Vision(width=1280)}
                ]
            },
        },
    ),
    _unet(
        "SDXLRefiner",
        sizes=_levels([0, 0, 4, 4, 4, 4, 0, 0], 2, adm_in_channels=2560),
        context=(7, 1280),
        always=_POOLED,
        own={"aesthetic score": {"aesthetic_score": 7.5, "width": 512, "height": 512}},
    ),
    _unet(
        "SSD1B",
        sizes=_levels([0, 0, 2, 2, 4, 4], 2, adm_in_channels=2816),
        context=(7, 2048),
        always=_POOLED,
    ),
    _unet(
        "Segmind_Vega",
        sizes=_levels([0, 0, 1, 1, 2, 2], 2, adm_in_channels=2816),
        context=(7, 2048),
        always=_POOLED,
    ),
    _unet("KOALA_700M", sizes=_levels([0, 2, 5], 1, adm_in_channels=2816), context=(7, 2048), always=_POOLED),
    _unet("KOALA_1B", sizes=_levels([0, 2, 6], 1, adm_in_channels=2816), context=(7, 2048), always=_POOLED),
    _video_unet(
        "SVD_img2vid",
        768,
        own={
            "image to video": {
                "concat_latent_image": Drawn(1, 4, 8, 8),
                "motion_bucket_id": 100,
                "fps": 8,
                "augmentation_level": 0.1,
            }
        },
    ),
    _video_unet("SV3D_u", 256, own={"image to video": _CONCAT}),
    _video_unet(
        "SV3D_p",
        1280,
        own={"image to video": {**_CONCAT, "elevation": [10.0, 20.0, 30.0], "azimuth": [0.0, 40.0, 80.0]}},
    ),
    _unet(
        "Stable_Zero123",
        sizes={"in_channels": 8},
        model={
            "folder": "checkpoints",
            "prefix": "model.diffusion_model.",
            "further": {"cc_projection.weight": (768, 772), "cc_projection.bias": (768,)},
        },
        context=(1, 772),
        own={"image to view": _CONCAT},
    ),
    _unet(
        "SD_X4Upscaler",
        sizes=_levels([1, 0, 0, 0], 1, in_channels=7, num_classes=1000),
        context=(7, 1024),
        own={"upscaled image": {"concat_image": Drawn(1, 3, 8, 8), "noise_augmentation": 0.3}},
    ),
    _unet("SD15_instructpix2pix", sizes={"in_channels": 8}, context=(7, 768), own={"edited image": _CONCAT}),
    _unet(
        "SDXL_instructpix2pix",
        sizes=_levels([0, 0, 2, 2, 10, 10], 2, adm_in_channels=2816, in_channels=8),
        context=(7, 2048),
        always=_POOLED,
        own={"edited image": _CONCAT},
    ),
    _unet("LotusD", sizes={"adm_in_channels": 4, "context_dim": 1024}, context=(7, 1024)),
)

_FLUX = {
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
_FLUX_WIDTH = {"hidden_size": 3072, "num_heads": 24}
_FLUX_NEW = {"txt_ids_dims": []}
_REFERENCE = {"reference_latents": [Drawn(1, 16, 6, 4)]}
_REFERENCES = {"reference_latents": [Drawn(1, 16, 6, 4), Drawn(1, 16, 4, 4)], "reference_latents_method": "index"}
_IMAGE_MASK = {"attention_mask": Bits(1, 23, 23), "attention_mask_img_shape": (4, 4)}
_HUNYUAN = {
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
_HUNYUAN_NEW = {"use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False}
_HUNYUAN15 = {
    "out_channels": 32,
    "patch_size": [1, 1, 1],
    "vec_in_dim": None,
    "guidance_embed": False,
    "use_cond_type_embedding": True,
    "vision_in_dim": 1152,
    "meanflow_sum": True,
    "byt5": True,
}
_PREDICT2 = {
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


def _flux(config: str, sizes: Mapping[str, Any], **further: Any) -> Architecture:
    given = {
        "latent": (1, 16, 8, 8),
        "context": (7, 4096),
        "always": {"pooled_output": Drawn(1, 768)},
        "sampling": "ModelSamplingFlux",
        **further,
    }
    model = SmallModel(
        config, {**_FLUX, "guidance_embed": True, **sizes}, newer=_FLUX_NEW, fixed=_FLUX_WIDTH, dtype=torch.bfloat16
    )
    return Architecture(model, "image", **given)


def _hunyuan(config: str, sizes: Mapping[str, Any], media: str = "video", **further: Any) -> Architecture:
    given = {
        "latent": (1, 16, 2, 8, 8),
        "context": (7, 64),
        "always": {"pooled_output": Drawn(1, 768)},
        **further,
    }
    return Architecture(SmallModel(config, {**_HUNYUAN, **sizes}, newer=_HUNYUAN_NEW), media, **given)


IMAGE_DITS = (
    Architecture(
        SmallModel(
            "SD3",
            {
                "input_size": None,
                "patch_size": 2,
                "out_channels": 16,
                "depth": 2,
                "adm_in_channels": 64,
                "context_embedder_config": {
                    "target": "torch.nn.Linear",
                    "params": {"in_features": 96, "out_features": 128},
                },
                "num_patches": 64,
                "pos_embed_max_size": 8,
                "qk_norm": "rms",
                "x_block_self_attn_layers": [],
            },
        ),
        "image",
        (1, 16, 8, 8),
        (7, 96),
        {"pooled_output": Drawn(1, 64)},
    ),
    Architecture(
        SmallModel(
            "AuraFlow",
            {"n_layers": 2, "n_double_layers": 1, "max_seq": 64, "cond_seq_dim": 2048},
            dtype=torch.bfloat16,
        ),
        "image",
        (1, 4, 8, 8),
        (7, 2048),
        sampling="ModelSamplingAuraFlow",
    ),
    Architecture(
        SmallModel(
            "PixArtAlpha",
            {
                "num_heads": 16,
                "patch_size": 2,
                "hidden_size": 1152,
                "in_channels": 4,
                "depth": 1,
                "model_max_length": 120,
                "input_size": 64,
                "pe_interpolation": 1,
                "micro_condition": True,
            },
        ),
        "image",
        (1, 4, 48, 48),
        (7, 4096),
        {"width": 512, "height": 512},
        {"size conditioning": {"width": 640, "height": 384, "aspect_ratio": 0.6}},
        sampling="ModelSamplingDiscrete",
    ),
    Architecture(
        SmallModel(
            "PixArtSigma",
            {
                "num_heads": 16,
                "patch_size": 2,
                "hidden_size": 1152,
                "in_channels": 4,
                "depth": 1,
                "model_max_length": 300,
                "input_size": 64,
                "pe_interpolation": 1,
                "micro_condition": False,
            },
        ),
        "image",
        (1, 4, 48, 48),
        (7, 4096),
        sampling="ModelSamplingDiscrete",
    ),
    Architecture(
        SmallModel("HunyuanDiT", {"depth": 2, "hidden_size": 256}),
        "image",
        (1, 4, 8, 8),
        (77, 1024),
        {
            "attention_mask": Ones(1, 77, dtype=torch.int64),
            "conditioning_mt5xl": Drawn(1, 256, 2048),
            "attention_mask_mt5xl": Ones(1, 256, dtype=torch.int64),
        },
        sampling="ModelSamplingDiscrete",
    ),
    Architecture(
        SmallModel(
            "HunyuanDiT1",
            {"depth": 2, "hidden_size": 256, "size_cond": True, "use_style_cond": True},
        ),
        "image",
        (1, 4, 8, 8),
        (77, 1024),
        {
            "attention_mask": Ones(1, 77, dtype=torch.int64),
            "conditioning_mt5xl": Drawn(1, 256, 2048),
            "attention_mask_mt5xl": Ones(1, 256, dtype=torch.int64),
        },
        {"size conditioning": {"width": 640, "height": 384}},
        sampling="ModelSamplingDiscrete",
    ),
    _flux(
        "Flux",
        {},
        own={
            "guidance": {"guidance": 2.0},
            "reference latents": _REFERENCE,
            "two reference latents, by index": _REFERENCES,
            "attention mask (redux)": _IMAGE_MASK,
        },
    ),
    _flux(
        "FluxInpaint",
        {"in_channels": 96},
        own={
            "image and mask (fill)": {
                "concat_latent_image": Drawn(1, 16, 8, 8),
                "concat_mask": Bits(1, 1, 64, 64),
            }
        },
    ),
    _flux("FluxSchnell", {"guidance_embed": False}, own={"reference latents": _REFERENCE}),
    Architecture(
        SmallModel(
            "Flux2",
            {
                **_FLUX,
                "in_channels": 128,
                "out_channels": 128,
                "patch_size": 1,
                "vec_in_dim": None,
                "context_in_dim": 64,
                "axes_dim": [32, 32, 32, 32],
                "mlp_ratio": 3.0,
                "theta": 2000,
                "global_modulation": True,
                "mlp_silu_act": True,
                "qkv_bias": False,
                "ops_bias": False,
                "default_ref_method": "index",
                "ref_index_scale": 10.0,
                "txt_ids_dims": [3],
                "guidance_embed": True,
            },
        ),
        "image",
        (1, 128, 4, 4),
        (7, 64),
        own={"reference latents": {"reference_latents": [Drawn(1, 128, 3, 2)]}},
        sampling="ModelSamplingFlux",
    ),
    Architecture(
        SmallModel(
            "LongCatImage",
            {
                **_FLUX,
                "vec_in_dim": None,
                "context_in_dim": 3584,
                "guidance_embed": False,
                "txt_ids_dims": [1, 2],
            },
        ),
        "image",
        (1, 16, 8, 8),
        (7, 3584),
        own={"reference latents": _REFERENCE},
        sampling="ModelSamplingFlux",
    ),
    Architecture(
        SmallModel(
            "Chroma",
            {
                **_FLUX,
                **_FLUX_WIDTH,
                "in_channels": 64,
                "out_channels": 64,
                "vec_in_dim": None,
                "in_dim": 64,
                "out_dim": 3072,
                "hidden_dim": 5120,
                "n_layers": 5,
            },
            newer=_FLUX_NEW,
            dtype=torch.bfloat16,
        ),
        "image",
        (1, 16, 8, 8),
        (7, 4096),
        own={"attention mask (redux)": _IMAGE_MASK},
        sampling="ModelSamplingFlux",
    ),
    Architecture(
        SmallModel(
            "Lens",
            {
                "in_channels": 128,
                "out_channels": 32,
                "num_layers": 1,
                "num_attention_heads": 1,
                "enc_hidden_dim": 64,
                "multi_layer_encoder_feature": False,
                "selected_layer_index": (0,),
            },
        ),
        "image",
        (1, 128, 4, 4),
        (7, 64),
        own={"attention mask": {"attention_mask": Bits(1, 7, dtype=torch.int64)}},
        sampling="ModelSamplingFlux",
    ),
    Architecture(
        SmallModel(
            "Lumina2",
            {
                "patch_size": 2,
                "in_channels": 16,
                "dim": 2304,
                "cap_feat_dim": 64,
                "n_layers": 1,
                "qk_norm": True,
                "n_heads": 24,
                "n_kv_heads": 8,
                "axes_dims": [32, 32, 32],
                "axes_lens": [300, 512, 512],
            },
            newer={"rope_theta": 10000.0, "ffn_dim_multiplier": 4.0},
            dtype=torch.bfloat16,
        ),
        "image",
        (1, 16, 8, 8),
        (7, 64),
        own={"attention mask": {"attention_mask": Bits(1, 7, dtype=torch.int64)}, "reference latents": _REFERENCE},
        sampling="ModelSamplingAuraFlow",
    ),
    Architecture(
        SmallModel(
            "ZImage",
            {
                "patch_size": 2,
                "in_channels": 16,
                "dim": 3840,
                "cap_feat_dim": 64,
                "n_layers": 1,
                "qk_norm": True,
                "n_heads": 30,
                "n_kv_heads": 30,
                "axes_dims": [32, 48, 48],
                "axes_lens": [1536, 512, 512],
                "rope_theta": 256.0,
                "ffn_dim_multiplier": 8.0 / 3.0,
                "z_image_modulation": True,
                "time_scale": 1000.0,
                "pad_tokens_multiple": 32,
            },
            dtype=torch.bfloat16,
        ),
        "image",
        (1, 16, 8, 8),
        (7, 64),
        own={"reference latents": _REFERENCE},
        sampling="ModelSamplingAuraFlow",
    ),
    Architecture(
        SmallModel("QwenImage", {"in_channels": 64, "num_layers": 1}, dtype=torch.bfloat16),
        "image",
        (1, 16, 1, 8, 8),
        (7, 3584),
        own={
            "reference latents": {"reference_latents": [Drawn(1, 16, 1, 6, 4)]},
            "attention mask": {"attention_mask": Bits(1, 7, dtype=torch.int64)},
        },
        sampling="ModelSamplingAuraFlow",
    ),
    _hunyuan(
        "HunyuanImage21",
        {"patch_size": [1, 1], "in_channels": 64, "out_channels": 64, "vec_in_dim": None, "axes_dim": [64, 64]},
        "image",
        latent=(1, 64, 4, 4),
        always={},
        own={"attention mask": {"attention_mask": Bits(1, 7, dtype=torch.int64), "cfg": 1.0}},
    ),
    _hunyuan(
        "HunyuanImage21Refiner",
        {"patch_size": [1, 1, 1], "in_channels": 128, "out_channels": 64, "vec_in_dim": None},
        "image",
        latent=(1, 64, 2, 4, 4),
        always={},
        own={"refined image": {"concat_latent_image": Drawn(1, 64, 2, 4, 4), "noise_augmentation": 0.4}},
    ),
    Architecture(
        SmallModel("CosmosT2IPredict2", _PREDICT2, fixed={"num_blocks": 28}, dtype=torch.bfloat16),
        "image",
        (1, 16, 1, 8, 8),
        (7, 1024),
    ),
    Architecture(
        SmallModel("Anima", _PREDICT2, dtype=torch.bfloat16),
        "image",
        (1, 16, 1, 8, 8),
        (7, 1024),
        own={"T5 ids beside the text": {"t5xxl_ids": Ones(9, dtype=torch.int64), "t5xxl_weights": Ones(9)}},
    ),
    Architecture(
        SmallModel(
            "Krea2", {"features": 128, "heads": 1, "kvheads": 1, "layers": 1, "txtlayers": 2, "txtdim": 1280}
        ),
        "image",
        (1, 16, 1, 8, 8),
        (7, 2560),
        own={
            "reference latents": {"reference_latents": [Drawn(1, 16, 1, 6, 4)], "reference_latents_method": "index"}
        },
    ),
    Architecture(
        SmallModel("JoyImage", {"hidden_size": 128, "num_attention_heads": 1, "num_layers": 1}),
        "image",
        (1, 16, 1, 8, 8),
        (7, 4096),
        own={"reference latents": {"reference_latents": [Drawn(1, 16, 1, 8, 8)]}},
    ),
    Architecture(
        SmallModel(
            "Kandinsky5Image",
            {
                "model_dim": 2560,
                "visual_embed_dim": 64,
                "time_dim": 64,
                "ff_dim": 256,
                "num_text_blocks": 1,
                "num_visual_blocks": 1,
                "axes_dims": (32, 48, 48),
                "rope_scale_factor": (1.0, 1.0, 1.0),
            },
            dtype=torch.bfloat16,
        ),
        "image",
        (1, 16, 1, 8, 8),
        (7, 3584),
        {"pooled_output": Drawn(1, 768)},
    ),
    Architecture(
        SmallModel("MageFlow", {"in_channels": 128, "num_layers": 1}, dtype=torch.bfloat16),
        "image",
        (1, 128, 4, 4),
        (7, 2560),
        own={"reference latents": {"reference_latents": [Drawn(1, 128, 3, 2)]}},
    ),
)

_WAN = {
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
_I2V = {
    "image to video": {"concat_latent_image": Drawn(1, 16, 3, 4, 4), "concat_mask": Bits(1, 1, 3, 4, 4)},
    "clip vision": {"clip_vision_output": Vision(width=1280, tokens=257)},
}


def _wan(config: str, sizes: Mapping[str, Any], **further: Any) -> Architecture:
    given = {"latent": (1, 16, 3, 4, 4), "context": (7, 4096), **further}
    told = given.pop("told", None)
    metadata = {} if told is None else {"config": json.dumps({"transformer": told})}
    return Architecture(
        SmallModel(config, {**_WAN, **sizes}, dtype=torch.bfloat16, metadata=metadata), "video", **given
    )


def _cogvideo(config: str, sizes: Mapping[str, Any], **further: Any) -> Architecture:
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
    _hunyuan(
        "HunyuanVideo",
        {},
        own={
            "guidance": {"guidance": 3.0},
            "attention mask": {"attention_mask": Bits(1, 7, dtype=torch.int64), "cfg": 1.0},
            "reference latent": {"ref_latent": Drawn(1, 16, 1, 6, 4), "cfg": 1.0},
            "guiding frame": {"guiding_frame_index": 0},
        },
    ),
    _hunyuan(
        "HunyuanVideoI2V",
        {"in_channels": 33},
        own={
            "image to video": {
                "concat_latent_image": Drawn(1, 16, 2, 8, 8),
                "concat_mask": Bits(1, 1, 2, 8, 8),
            }
        },
    ),
    _hunyuan(
        "HunyuanVideoSkyreelsI2V",
        {"in_channels": 32},
        own={"image to video": {"concat_latent_image": Drawn(1, 16, 2, 8, 8)}},
    ),
    _hunyuan(
        "HunyuanVideo15_SR_Distilled",
        {**_HUNYUAN15, "in_channels": 98},
        latent=(1, 32, 2, 4, 4),
        always={"pooled_output": None, "conditioning_byt5small": Drawn(1, 5, 1472)},
        own={"upscaled video": {"concat_latent_image": Drawn(1, 66, 2, 4, 4), "noise_augmentation": 0.3}},
    ),
    _hunyuan(
        "HunyuanVideo15",
        {**_HUNYUAN15, "in_channels": 65},
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
            "CosmosI2VPredict2", {**_PREDICT2, "in_channels": 17}, fixed={"num_blocks": 28}, dtype=torch.bfloat16
        ),
        "video",
        (1, 16, 2, 4, 4),
        (7, 1024),
        own={"image to video": {"concat_mask": Bits(1, 1, 2, 4, 4)}},
    ),
    _wan("WAN21_T2V", {}, own={"longer in time": {"time_dim_concat": Drawn(1, 16, 1, 4, 4)}}),
    _wan("WAN21_CausalAR_T2V", {}, told={"causal_ar": True}),
    _wan("WAN21_I2V", {"model_type": "i2v", "in_dim": 36}, own=_I2V),
    _wan(
        "WAN21_FunControl2V",
        {"model_type": "i2v", "in_dim": 48},
        own={"control video": {"concat_latent_image": Drawn(1, 32, 3, 4, 4)}, "clip vision": _I2V["clip vision"]},
    ),
    _wan(
        "WAN21_Camera",
        {"model_type": "camera", "in_dim": 32},
        own={
            "camera": {"camera_conditions": Drawn(1, 24, 3, 32, 32)},
            "image to video": {"concat_latent_image": Drawn(1, 16, 3, 4, 4)},
        },
    ),
    _wan(
        "WAN22_Camera",
        {"model_type": "camera_2.2", "in_dim": 36},
        own={"camera": {"camera_conditions": Drawn(1, 24, 3, 32, 32)}, "image to video": _I2V["image to video"]},
    ),
    _wan(
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
    _wan(
        "WAN21_HuMo",
        {"model_type": "humo"},
        always={"audio_embed": Drawn(1, 9, 8, 5, 1280)},
        own={"reference latents": {"reference_latents": [Drawn(1, 16, 1, 4, 4)]}},
    ),
    _wan(
        "WAN22_S2V",
        {"model_type": "s2v"},
        own={
            "sound to video": {"audio_embed": Drawn(1, 25, 1024, 12)},
            "reference latents": {"reference_latents": [Drawn(1, 16, 1, 4, 4)]},
            "control video": {"control_video": Drawn(1, 16, 3, 4, 4)},
        },
    ),
    _wan(
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
    _wan("WAN22_T2V", {"in_dim": 48, "out_dim": 48}, latent=(1, 48, 3, 4, 4)),
    _wan("WAN21_FlowRVS", {}, told={"model_type": "flow_rvs"}),
    _wan(
        "WAN21_SCAIL",
        {"model_type": "scail", "in_dim": 20},
        own={
            "reference and pose": {
                "reference_latents": [Drawn(1, 16, 1, 4, 4)],
                "pose_video_latent": Drawn(1, 16, 3, 2, 2),
            }
        },
    ),
    _wan(
        "WAN_Animate2",
        {"model_type": "animate2", "in_dim": 36},
        told={"model_type": "animate2"},
        own={
            "pose": {"pose_video_latent": Drawn(1, 16, 2, 4, 4), "pose_strength": 0.7},
            "image to video": _I2V["image to video"],
        },
    ),
    _wan(
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
    _wan(
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
    _cogvideo("CogVideoX_T2V", {"in_channels": 16}),
    _cogvideo(
        "CogVideoX_I2V",
        {"in_channels": 32},
        own={"image to video": {"concat_latent_image": Drawn(1, 16, 1, 4, 4)}},
    ),
    _cogvideo(
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

OTHERS = (
    Architecture(
        SmallModel(
            "StableAudio",
            {
                "io_channels": 64,
                "global_cond_dim": 1536,
                "project_cond_tokens": False,
                "embed_dim": 1536,
                "depth": 1,
                "timestep_features_type": "learned",
            },
            folder="checkpoints",
            prefix="model.model.",
            further={
                f"conditioner.conditioners.{part}.embedder.embedding.{name}": shape
                for part in ("seconds_start", "seconds_total")
                for name, shape in {"0.weights": (128,), "1.weight": (768, 257), "1.bias": (768,)}.items()
            },
        ),
        "audio",
        (1, 64, 16),
        (7, 768),
        own={"seconds": {"seconds_start": 3, "seconds_total": 30}},
    ),
    Architecture(
        SmallModel(
            "StableAudio3",
            {
                "io_channels": 64,
                "global_cond_dim": 768,
                "project_cond_tokens": False,
                "embed_dim": 1536,
                "depth": 1,
                "timestep_features_type": "learned",
                "global_cond_type": "adaLN",
                "local_add_cond_dim": 65,
            },
            folder="checkpoints",
            prefix="model.model.",
            further={
                f"conditioner.conditioners.seconds_total.embedder.embedding.{name}": shape
                for name, shape in {"0.weights": (128,), "1.weight": (768, 257), "1.bias": (768,)}.items()
            },
        ),
        "audio",
        (1, 64, 16),
        (7, 768),
        own={"seconds": {"seconds_total": 30}},
    ),
    Architecture(
        SmallModel(
            "ACEStep15",
            {
                "hidden_size": 2048,
                "intermediate_size": 128,
                "num_heads": 8,
                "encoder_hidden_size": 2048,
                "encoder_num_heads": 8,
                "encoder_intermediate_size": 128,
                "num_dit_layers": 1,
            },
        ),
        "audio",
        (1, 64, 20),
        (7, 1024),
        {"conditioning_lyrics": Drawn(1, 5, 1024)},
        {"reference audio": {"reference_audio_timbre_latents": [Drawn(1, 64, 20)]}},
    ),
    Architecture(
        SmallModel(
            "Hunyuan3Dv2",
            {
                "in_channels": 64,
                "context_in_dim": 64,
                "hidden_size": 1024,
                "mlp_ratio": 4.0,
                "num_heads": 16,
                "depth": 1,
                "depth_single_blocks": 1,
                "qkv_bias": True,
                "guidance_embed": True,
            },
        ),
        "3D",
        (1, 64, 12),
        (7, 64),
        own={"guidance": {"guidance": 3.0}},
    ),
    Architecture(
        SmallModel(
            "Hunyuan3Dv2mini",
            {
                "in_channels": 64,
                "context_in_dim": 64,
                "hidden_size": 256,
                "mlp_ratio": 4.0,
                "num_heads": 16,
                "depth": 8,
                "depth_single_blocks": 1,
                "qkv_bias": True,
                "guidance_embed": False,
            },
        ),
        "3D",
        (1, 64, 12),
        (7, 64),
    ),
    Architecture(
        SmallModel(
            "Hunyuan3Dv2_1",
            {
                "in_channels": 64,
                "context_dim": 1024,
                "hidden_size": 256,
                "mlp_ratio": 4.0,
                "num_heads": 16,
                "depth": 7,
                "qkv_bias": False,
                "guidance_cond_proj_dim": None,
            },
        ),
        "3D",
        (1, 64, 12),
        (7, 1024),
    ),
)

ALL = UNETS + IMAGE_DITS + VIDEO_DITS + OTHERS

_FIXED = "ComfyUI's detection fixes its depth and width: {} parameters or more"
_NO_SAMPLING = "no diffusion model: nothing is sampled, and its nodes call the network's own layers"
# Why the others have no row.
LEFT_OUT = {
    "Stable_Cascade_C": _FIXED.format("1.0 billion"),
    "Stable_Cascade_B": _FIXED.format("0.7 billion"),
    "GenmoMochi": _FIXED.format("10 billion"),
    "CosmosT2V": _FIXED.format("7.2 billion"),
    "CosmosI2V": _FIXED.format("7.2 billion"),
    "ZImagePixelSpace": _FIXED.format("0.9 billion"),
    "PixelDiTT2I": _FIXED.format("1.3 billion"),
    "PiD": _FIXED.format("1.3 billion"),
    "TripoSplat": _FIXED.format("0.4 billion"),
    "HiDream": _FIXED.format("17 billion"),
    "HiDreamO1": _FIXED.format("8 billion"),
    "SeedVR2": _FIXED.format("3.4 billion"),
    "ChromaRadiance": _FIXED.format("0.6 billion"),
    "ACEStep": _FIXED.format("3.3 billion"),
    "Omnigen2": _FIXED.format("4.0 billion"),
    "Boogu": _FIXED.format("1.1 billion"),
    "Ideogram4": _FIXED.format("0.5 billion"),
    "ErnieImage": _FIXED.format("8 billion"),
    "MiniMaxMusic3": _FIXED.format("2.5 billion"),
    "RT_DETR_v4": _NO_SAMPLING,
    "DepthAnything3": _NO_SAMPLING,
    "SAM3": _NO_SAMPLING,
    "SAM31": _NO_SAMPLING,
}
