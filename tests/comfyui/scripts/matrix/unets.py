"""UNets: Stable Diffusion 1 to XL, and the models derived from them."""

from __future__ import annotations

from typing import Any

import torch
from architecture import Architecture
from drawn import Drawn, Vision
from small_models import SmallModel

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


def _unet(config: str, media: str = "image", **further: Any) -> Architecture:
    """Return a config of one level of one block, unless said otherwise."""
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
    """Return a UNet that is known by its depths, as narrow at every level as at the first."""
    levels = len(depth) // blocks
    return {
        "num_res_blocks": [blocks] * levels,
        "channel_mult": [1] * levels,
        "transformer_depth": depth,
        "transformer_depth_output": [0] * (levels * (blocks + 1)),
        **further,
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
