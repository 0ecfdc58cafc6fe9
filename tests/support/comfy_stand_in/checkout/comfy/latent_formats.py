"""The forms of latents."""

from typing import Any


class LatentFormat:
    """The form of a latent."""

    latent_channels = 4

    def process_out(self, latent: Any) -> Any:
        """Return a latent after sampling."""
        return latent
