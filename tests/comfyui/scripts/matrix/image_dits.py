"""Transformers that make pictures."""

from __future__ import annotations

import torch
from architecture import Architecture
from drawn import Bits, Drawn, Ones
from families import FLUX, FLUX_NEW, FLUX_WIDTH, PREDICT2, flux, hunyuan
from small_models import SmallModel

_REFERENCE = {"reference_latents": [Drawn(1, 16, 6, 4)]}
_REFERENCES = {"reference_latents": [Drawn(1, 16, 6, 4), Drawn(1, 16, 4, 4)], "reference_latents_method": "index"}
_IMAGE_MASK = {"attention_mask": Bits(1, 23, 23), "attention_mask_img_shape": (4, 4)}

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
    flux(
        "Flux",
        {},
        own={
            "guidance": {"guidance": 2.0},
            "reference latents": _REFERENCE,
            "two reference latents, by index": _REFERENCES,
            "attention mask (redux)": _IMAGE_MASK,
        },
    ),
    flux(
        "FluxInpaint",
        {"in_channels": 96},
        own={
            "image and mask (fill)": {
                "concat_latent_image": Drawn(1, 16, 8, 8),
                "concat_mask": Bits(1, 1, 64, 64),
            }
        },
    ),
    flux("FluxSchnell", {"guidance_embed": False}, own={"reference latents": _REFERENCE}),
    Architecture(
        SmallModel(
            "Flux2",
            {
                **FLUX,
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
                **FLUX,
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
                **FLUX,
                **FLUX_WIDTH,
                "in_channels": 64,
                "out_channels": 64,
                "vec_in_dim": None,
                "in_dim": 64,
                "out_dim": 3072,
                "hidden_dim": 5120,
                "n_layers": 5,
            },
            newer=FLUX_NEW,
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
    hunyuan(
        "HunyuanImage21",
        {"patch_size": [1, 1], "in_channels": 64, "out_channels": 64, "vec_in_dim": None, "axes_dim": [64, 64]},
        "image",
        latent=(1, 64, 4, 4),
        always={},
        own={"attention mask": {"attention_mask": Bits(1, 7, dtype=torch.int64), "cfg": 1.0}},
    ),
    hunyuan(
        "HunyuanImage21Refiner",
        {"patch_size": [1, 1, 1], "in_channels": 128, "out_channels": 64, "vec_in_dim": None},
        "image",
        latent=(1, 64, 2, 4, 4),
        always={},
        own={"refined image": {"concat_latent_image": Drawn(1, 64, 2, 4, 4), "noise_augmentation": 0.4}},
    ),
    Architecture(
        SmallModel("CosmosT2IPredict2", PREDICT2, fixed={"num_blocks": 28}, dtype=torch.bfloat16),
        "image",
        (1, 16, 1, 8, 8),
        (7, 1024),
    ),
    Architecture(
        SmallModel("Anima", PREDICT2, dtype=torch.bfloat16),
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
