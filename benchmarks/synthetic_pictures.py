"""Pictures and video with the statistics of decoded ones, for measurements: smooth fields, edges, grain."""

from __future__ import annotations

import torch

# Chosen so that a picture shrinks about as decoded ones of 1024² do: PNG leaves 0.4 to 0.55 of its 8-bit values.
_FALL = 1.5
_SHAPES = 40
# Standard deviation of what is different in every pixel, in levels of an 8-bit picture.
_GRAIN_LEVELS = 0.6


def picture(height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Return a picture `[3, height, width]`, float32 from -1 to 1, as a VAE decodes one.

    A field whose spectrum falls like that of photographs, most of it common to the three channels, with discs in
    front of it that have sharp edges, and grain.
    """
    field = _field(1, height, width, generator) + 0.35 * _field(3, height, width, generator)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    for _ in range(_SHAPES):
        y, x, radius = torch.rand(3, generator=generator) * torch.tensor([height, width, min(height, width) / 6])
        inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        field = torch.where(inside, 0.4 * field + torch.randn(3, 1, 1, generator=generator), field)
    return _grained(torch.tanh(0.8 * field), generator)


def video(frames: int, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Return a video `[3, frames, height, width]`, float32 from -1 to 1: a slow pan over a picture, with grain."""
    still = picture(height + 2 * frames, width + frames, generator)
    views = [still[:, 2 * i : 2 * i + height, i : i + width] for i in range(frames)]
    return _grained(torch.stack(views, dim=1), generator)


def _field(channels: int, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Return noise `[channels, height, width]` of standard deviation 1 whose spectrum falls by `_FALL`."""
    noise = torch.fft.rfft2(torch.randn(channels, height, width, generator=generator))
    frequencies = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width))
    field = torch.fft.irfft2(noise / frequencies.clamp(min=1 / max(height, width)) ** _FALL, s=(height, width))
    return field / field.std()


def _grained(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    grain = torch.randn(values.shape, generator=generator) * (_GRAIN_LEVELS / 127.5)
    return (values + grain).clamp(-1, 1)
