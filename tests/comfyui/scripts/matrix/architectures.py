"""ComfyUI's architectures, each as a small model with its conditioning."""

from __future__ import annotations

from image_dits import IMAGE_DITS
from others import OTHERS
from unets import UNETS
from video_dits import VIDEO_DITS

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
