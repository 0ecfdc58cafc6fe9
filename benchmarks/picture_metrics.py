"""Distances between pictures, as the literature measures them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural similarity",
# IEEE Transactions on Image Processing 13(4), 2004: section III.C.
_WINDOW, _DEVIATION = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def psnr_db(pictures: Tensor, originals: Tensor) -> float | None:
    """Peak signal-to-noise ratio in dB of all pictures `[B, H, W]` (0..1) together; None where they are equal."""
    error = float((pictures.double() - originals.double()).square().mean())
    return -10 * torch.tensor(error, dtype=torch.float64).log10().item() if error else None


def ssim(pictures: Tensor, originals: Tensor) -> float:
    """Mean structural similarity, -1..1, of pictures `[B, H, W]` (0..1) to their originals.

    Means, variances and covariance are taken in a Gaussian window of 11x11 pixels of deviation 1.5, wherever the
    window lies inside the picture; C1 and C2 are those of the paper.

    Raises:
        ValueError: a picture is smaller than the window.
    """
    if min(pictures.shape[-2:]) < _WINDOW:
        raise ValueError(f"SSIM takes pictures of {_WINDOW}x{_WINDOW} pixels and more")
    a, b = pictures.double(), originals.double()
    mean_a, mean_b = _windowed(a), _windowed(b)
    variance_a, variance_b = _windowed(a * a) - mean_a**2, _windowed(b * b) - mean_b**2
    covariance = _windowed(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_a + variance_b + _C2)
    return float((luminance * structure).mean())


def _windowed(values: Tensor) -> Tensor:
    places = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    weights = torch.exp(-places.square() / (2 * _DEVIATION**2))
    window = torch.outer(weights, weights) / weights.sum() ** 2
    return functional.conv2d(values.unsqueeze(1), window[None, None]).squeeze(1)
