"""Conversion between pictures and latents of the digits model.

A picture is `[B, 32, 32]`, grey, 0 (paper) .. 1 (ink). Its latent is `[B, 16, 8, 8]`, -1 .. 1: each 4x4
block of pixels becomes the 16 channels of one latent pixel, so nothing is lost and no VAE is needed. This
is what a LATENT of ComfyUI holds. The model itself works on `process_in` of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURE_SIZE: Final = 32
BLOCK: Final = 4
CHANNELS: Final = BLOCK * BLOCK
LATENT_SIZE: Final = PICTURE_SIZE // BLOCK

# comfy.latent_formats.SD3
SCALE: Final = 1.5305
SHIFT: Final = 0.0609


def encode(pictures: Tensor) -> Tensor:
    """Turn pictures `[B, 32, 32]` (0..1) into latents `[B, 16, 8, 8]` (-1..1) of the same dtype.

    Raises:
        ValueError: the shape is not `[B, 32, 32]`.
    """
    _check_shape(pictures, (PICTURE_SIZE, PICTURE_SIZE), "pictures")
    return functional.pixel_unshuffle(pictures.unsqueeze(1) * 2 - 1, BLOCK)


def decode(latents: Tensor) -> Tensor:
    """Turn latents `[B, 16, 8, 8]` of any float dtype into pictures `[B, 32, 32]`, float32, clamped to 0..1.

    Raises:
        ValueError: the shape is not `[B, 16, 8, 8]`.
    """
    _check_shape(latents, (CHANNELS, LATENT_SIZE, LATENT_SIZE), "latents")
    return ((functional.pixel_shuffle(latents.float(), BLOCK).squeeze(1) + 1) / 2).clamp(0, 1)


def process_in(latents: Tensor) -> Tensor:
    """Map latents into the model's space, as `comfy.latent_formats.SD3.process_in` does."""
    return (latents - SHIFT) * SCALE


def process_out(latents: Tensor) -> Tensor:
    """Map latents out of the model's space, as `comfy.latent_formats.SD3.process_out` does."""
    return latents / SCALE + SHIFT


def contact_sheet(pictures: Tensor, *, columns: int = 10, zoom: int = 3, gap: int = 6) -> Image:
    """Lay pictures `[B, 32, 32]` (0..1) out row by row, dark ink on white paper, as one grey image.

    Args:
        pictures: what to show; the last row may stay incomplete.
        columns: pictures in a row.
        zoom: how many times each picture is enlarged.
        gap: pixels between the pictures and around the sheet.

    Raises:
        ValueError: the shape is not `[B, 32, 32]`, or there is no picture.
        ImportError: Pillow is not installed.
    """
    from PIL import Image  # noqa: PLC0415  # of the `demo` extra

    _check_shape(pictures, (PICTURE_SIZE, PICTURE_SIZE), "pictures")
    if not len(pictures):
        raise ValueError("a contact sheet needs one picture at least")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    cell = PICTURE_SIZE * zoom
    pitch = cell + gap
    sheet = Image.new("L", (columns * pitch + gap, rows * pitch + gap), 255)
    ink = (255 - pictures.detach().cpu().float() * 255).round().clamp(0, 255).to(torch.uint8)
    for index, picture in enumerate(ink):
        row, column = divmod(index, columns)
        tile = Image.fromarray(picture.numpy()).resize((cell, cell), Image.Resampling.BICUBIC)
        sheet.paste(tile, (gap + column * pitch, gap + row * pitch))
    return sheet


def _check_shape(tensor: Tensor, tail: tuple[int, ...], name: str) -> None:
    if tensor.ndim != len(tail) + 1 or tuple(tensor.shape[1:]) != tail:
        wanted = ", ".join(["B", *map(str, tail)])
        raise ValueError(f"{name} must be [{wanted}], not {list(tensor.shape)}")
