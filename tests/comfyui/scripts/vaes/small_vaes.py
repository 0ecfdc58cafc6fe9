"""VAEs of every family, with random weights and small: ComfyUI's own classes with other sizes.

Most sizes are in ComfyUI's code and not in files. So the classes are changed here for the whole process: worker,
client and ComfyUI's own loaders then all build the small ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.ldm.lightricks.vae.causal_video_autoencoder
import comfy.ldm.wan.vae
import comfy.ldm.wan.vae2_2
import comfy.sd
import comfy.taesd.taesd
import torch
from safetensors.torch import save_file

_BLOCKS = [
    ["res_x", 1],
    ["compress_all", 1],
    ["res_x_y", 1],
    ["compress_all", 1],
    ["compress_all", 1],
    ["res_x", 1],
]
_LTXV = {
    "_class_name": "CausalVideoAutoencoder",
    "dims": 3,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 128,
    "encoder_blocks": _BLOCKS,
    "decoder_blocks": _BLOCKS,
    "scaling_factor": 1.0,
    "norm_layer": "pixel_norm",
    "patch_size": 4,
    "latent_log_var": "uniform",
    "use_quant_conv": False,
    "causal_decoder": False,
    "timestep_conditioning": True,
}
_WAN = {
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
}
_CHANNELS = 32


def _narrow(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration of an image VAE with fewer channels; those of videos have other fields."""
    return {**config, "ch": _CHANNELS} if config.get("ch") == 128 else config


def shrink() -> None:
    """Have ComfyUI build small VAEs in this process."""
    kl, engine = comfy.sd.AutoencoderKL, comfy.sd.AutoencodingEngine

    def small_kl(*, ddconfig: dict[str, Any], **others: Any) -> Any:
        return kl(ddconfig=_narrow(ddconfig), **others)

    def small_engine(*, encoder_config: dict[str, Any], decoder_config: dict[str, Any], **others: Any) -> Any:
        sides = (
            {**config, "params": _narrow(config["params"])} if "params" in config else config
            for config in (encoder_config, decoder_config)
        )
        encoder, decoder = sides
        return engine(encoder_config=encoder, decoder_config=decoder, **others)

    comfy.sd.AutoencoderKL, comfy.sd.AutoencodingEngine = small_kl, small_engine
    comfy.ldm.wan.vae.WanVAE = _with(comfy.ldm.wan.vae.WanVAE, dim=16)
    comfy.ldm.wan.vae2_2.WanVAE = _with(comfy.ldm.wan.vae2_2.WanVAE, dim=16, dec_dim=16)
    ltxv = comfy.ldm.lightricks.vae.causal_video_autoencoder
    ltxv.VideoVAE = _with(ltxv.VideoVAE, config=_LTXV)
    comfy.sd.AudioOobleckVAE = _with(comfy.sd.AudioOobleckVAE, channels=8)


def _with(kind: Any, **fixed: Any) -> Any:
    @functools.wraps(kind, updated=())
    def make(*args: Any, **kwargs: Any) -> Any:
        return kind(*args, **{**kwargs, **fixed})

    return make


def _image(latent_channels: int) -> torch.nn.Module:
    config = {
        "double_z": True,
        "z_channels": latent_channels,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "ch_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    if latent_channels == 4:
        return comfy.sd.AutoencoderKL(ddconfig=config, embed_dim=4)
    part = "comfy.ldm.modules.diffusionmodules.model."
    return comfy.sd.AutoencodingEngine(
        regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
        encoder_config={"target": part + "Encoder", "params": config},
        decoder_config={"target": part + "Decoder", "params": config},
    )


def _ltxv() -> torch.nn.Module:
    return comfy.ldm.lightricks.vae.causal_video_autoencoder.VideoVAE(version=0, config=None)


VAES: dict[str, Callable[[], torch.nn.Module]] = {
    "sd15": lambda: _image(4),
    "flux": lambda: _image(16),
    "wan21": lambda: comfy.ldm.wan.vae.WanVAE(dim=96, z_dim=16, dropout=0.0, **_WAN),
    "wan22": lambda: comfy.ldm.wan.vae2_2.WanVAE(dim=160, z_dim=48, dropout=0.0, **_WAN),
    "ltxv": _ltxv,
    "oobleck": lambda: comfy.sd.AudioOobleckVAE(channels=128),
}
"""Files in `vae`, by their names without suffix."""


def _weights(model: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Return random weights, of a size that keeps a signal's."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for key, weight in model.state_dict().items():
        size = max(weight[0].numel(), 1) if weight.dim() > 1 else 1
        values = torch.randn(weight.shape, generator=generator) / size**0.5
        norm = weight.dim() <= 1 and key.endswith(("weight", "gamma"))
        small = weight.dim() <= 1 and not norm
        made[key] = (values * 0.02 + 1 if norm else values * 0.1 if small else values).contiguous()
    return made


def write(folder: Path) -> None:
    """Write the files below a models folder."""
    (folder / "vae").mkdir(exist_ok=True)
    (folder / "vae_approx").mkdir(exist_ok=True)
    with torch.inference_mode():
        for seed, (name, make) in enumerate(VAES.items()):
            save_file(_weights(make(), seed), folder / "vae" / f"{name}.safetensors")
        tiny = _weights(comfy.taesd.taesd.TAESD(), 99)
        for part in ("encoder", "decoder"):
            prefix = f"taesd_{part}."
            own = {key.removeprefix(prefix): value for key, value in tiny.items() if key.startswith(prefix)}
            save_file(own, folder / "vae_approx" / f"taesd_{part}.safetensors")
