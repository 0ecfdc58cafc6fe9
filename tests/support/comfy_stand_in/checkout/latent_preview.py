"""Pictures of a run so far."""

from typing import Any

import comfy.cli_args
from PIL import Image

MAX_PREVIEW_RESOLUTION = 512


class _Previewer:
    def decode_latent_to_preview(self, x0: Any) -> Image.Image:
        """Return a picture with the latent's width and height."""
        return Image.new("RGB", (x0.shape[-1], x0.shape[-2]))


def get_previewer(device: Any, latent_format: Any) -> _Previewer | None:
    """Return a previewer, or None where previews are off."""
    method = comfy.cli_args.args.preview_method
    return None if method is comfy.cli_args.LatentPreviewMethod.NoPreviews else _Previewer()
