"""ComfyUI's command line."""

import argparse
import enum


class LatentPreviewMethod(enum.Enum):
    """Ways to show a run so far."""

    NoPreviews = "none"
    Auto = "auto"
    Latent2RGB = "latent2rgb"
    TAESD = "taesd"


args = argparse.Namespace(cpu=False, preview_method=LatentPreviewMethod.NoPreviews)
