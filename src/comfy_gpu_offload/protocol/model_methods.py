"""Methods of diffusers models on the wire besides their forward pass, and the form of what they return."""

from __future__ import annotations

from typing import Final

ENCODE: Final = "encode"
DECODE: Final = "decode"

DISTRIBUTION: Final = "__diagonal_gaussian_distribution__"
"""The key of a dict that stands for diffusers' `DiagonalGaussianDistribution`: its parameters [B, 2C, H, W], beside
``deterministic``."""
