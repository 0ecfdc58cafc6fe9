"""The models that a picture can be calculated for: the shapes they sample, and their sizes.

Work of a call, in floating-point operations (two for a multiplication and its addition): SD1.5 and SDXL as T-GATE
lists them (https://arxiv.org/abs/2404.02747, 0.339 and 2.99 T multiply-adds a row); of the transformers, counted
from their published configurations (width, depth, tokens), matrix products and attention alone. Sizes are those of
the files for ComfyUI at Hugging Face, rounded to a tenth of a GB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ImageModel:
    """A model and one usual size of what it makes.

    Attributes:
        title: with the size of a picture, or of a video.
        latent: shape of a batch of one.
        float16: whether latents are sent in float16; else in bfloat16. Both take two bytes an element.
        rows: of a call's batch: 2 with guidance, which computes a positive and a negative half; else 1.
        row_flop: floating-point operations of a call, for one row.
        steps: of a run, where a user names none.
        conditioning: bytes of the encoded prompts, uncompressed, all rows.
        picture: bytes of the result as a file: a PNG of 1.5 bytes a pixel; of Wan an MP4 of 4 Mbit/s. Estimated.
        network_gb, encoders_gb, vae_gb: sizes of the files, in 10^9 bytes; a checkpoint's is all in `network_gb`.
    """

    title: str
    latent: tuple[int, ...]
    float16: bool
    rows: int
    row_flop: float
    steps: int
    conditioning: int
    picture: int
    network_gb: float
    encoders_gb: float
    vae_gb: float

    @property
    def elements(self) -> int:
        """Return the number of elements of the latent."""
        return math.prod(self.latent)

    @property
    def call_bytes(self) -> int:
        """Return the bytes of a call's latent as the model takes it, uncompressed, all rows."""
        return self.elements * 2 * self.rows

    @property
    def call_flop(self) -> float:
        """Return the floating-point operations of a call."""
        return self.rows * self.row_flop

    @property
    def files_gb(self) -> float:
        """Return the size of all its files, in 10^9 bytes."""
        return self.network_gb + self.encoders_gb + self.vae_gb


def _transformer_flop(tokens: int, width: int, layers: int, products: float) -> float:
    """Return the work of a transformer: `products` multiply-adds a token and layer, and attention."""
    return layers * (2 * tokens * products + 4 * tokens**2 * width)


# 19 layers that treat text and picture apart and 38 that do not, 4096 tokens of 16 x 16 pixels and 512 of text:
# 74 T.
_FLUX_FLOP = _transformer_flop(4096 + 512, 3072, 19 + 38, 12 * 3072**2)
# 60 layers that treat text and picture apart; a prompt of 128 tokens.
_QWEN_FLOP = _transformer_flop(4096 + 128, 3072, 60, 12 * 3072**2)
# 21 x 30 x 52 tokens; a layer attends to itself and to the text (6 square products a token), then 13824 wide.
_WAN_FLOP = _transformer_flop(21 * 30 * 52, 5120, 40, 6 * 5120**2 + 2 * 5120 * 13824)

MODELS = {
    "sd15": ImageModel(
        "SD1.5, 512²", (1, 4, 64, 64), True, 2, 2 * 0.339e12, 20, 2 * 77 * 768 * 2, 393_000, 4.3, 0.0, 0.0
    ),
    "sdxl": ImageModel(
        "SDXL, 1024²", (1, 4, 128, 128), True, 2, 2 * 2.99e12, 20, 2 * 77 * 2048 * 2, 1_573_000, 6.9, 0.0, 0.0
    ),
    "flux": ImageModel(
        "Flux, 1024²", (1, 16, 128, 128), False, 1, _FLUX_FLOP, 20, 512 * 4096 * 2, 1_573_000, 23.8, 10.0, 0.3
    ),
    "qwen-image": ImageModel(
        "Qwen-Image, 1024²",
        (1, 16, 1, 128, 128),
        False,
        2,
        _QWEN_FLOP,
        20,
        2 * 128 * 3584 * 2,
        1_573_000,
        40.9,
        16.6,
        0.3,
    ),
    "wan": ImageModel(
        "Wan 14B, 81 frames of 832 x 480",
        (1, 16, 21, 60, 104),
        False,
        2,
        _WAN_FLOP,
        20,
        2 * 512 * 4096 * 2,
        2_530_000,
        28.6,
        11.4,
        0.3,
    ),
}
"""By the names that a command line takes."""
