"""Nodes in place of text encoders and VAEs, which ComfyUI builds at full size only, some of gigabytes."""

from __future__ import annotations

import zlib
from typing import Any

import torch

_ANY_INT = {"min": 0, "max": 2**15}


class _TextEncoder:
    """A text encoder whose output is random, with the text as its seed.

    The context is float32 ``[1, 8, width]``, the pooled output ``[1, pooled]`` where `pooled` is above 0.
    """

    def __init__(self, width: int, pooled: int) -> None:
        self._width = width
        self._pooled = pooled

    def tokenize(self, text: str, **_: Any) -> int:
        return zlib.crc32(text.encode())

    def encode_from_tokens_scheduled(self, tokens: int, **_: Any) -> list[Any]:
        generator = torch.Generator().manual_seed(tokens)
        values: dict[str, Any] = {}
        if self._pooled:
            values["pooled_output"] = torch.randn((1, self._pooled), generator=generator)
        return [[torch.randn((1, 8, self._width), generator=generator), values]]


class _VAE:
    """A VAE that encodes brightness into every channel, and decodes the first channel to a grey picture.

    Pixels are float32 ``[frames, height, width, 3]``. A latent is ``[batch, channels, height, width]``, or
    ``[1, channels, frames, height, width]`` for a video: smaller by `factor` in height and width, and by 4 in time
    but for the first frame.
    """

    def __init__(self, channels: int, factor: int, video: bool) -> None:
        self._channels = channels
        self._factor = factor
        self._video = video

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.avg_pool2d(pixels.mean(-1, keepdim=True).movedim(-1, 1), self._factor)
        latent = small.expand(-1, self._channels, -1, -1)
        return latent[::4].movedim(0, 1)[None].contiguous() if self._video else latent.contiguous()

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        frames = latent[0, :1].movedim(0, 1) if self._video else latent[:, :1]
        if self._video:
            frames = torch.cat([frames[:1], frames[1:].repeat_interleave(4, dim=0)])
        large = torch.nn.functional.interpolate(frames.float().sigmoid(), scale_factor=self._factor)
        return large.expand(-1, 3, -1, -1).movedim(1, -1).contiguous()


class OffloadTestTextEncoder:
    """A CLIP for nodes like CLIPTextEncode."""

    CATEGORY = "testing"
    RETURN_TYPES = ("CLIP",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {name: ("INT", {"default": 768, **_ANY_INT}) for name in ("width", "pooled")}}

    def make(self, width: int, pooled: int) -> tuple[Any]:
        return (_TextEncoder(width, pooled),)


class OffloadTestVAE:
    """A VAE for nodes like VAEDecode."""

    CATEGORY = "testing"
    RETURN_TYPES = ("VAE",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "channels": ("INT", {"default": 4, **_ANY_INT}),
                "factor": ("INT", {"default": 8, **_ANY_INT}),
                "video": ("BOOLEAN", {"default": False}),
            }
        }

    def make(self, channels: int, factor: int, video: bool) -> tuple[Any]:
        return (_VAE(channels, factor, video),)
