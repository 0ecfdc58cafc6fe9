"""Conditioning of several kinds at once, each step and whole loop; docs/compatibility.md has each kind alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from sessions import Pair, three_ways
from sides import MMDIT, Case, Kind, condition, noise

INPAINT = Kind("inpaint.safetensors", (1, 4, 8, 8), 768)


def _inpainted() -> Mapping[str, Case]:
    """Return InpaintModelConditioning's output: the picture and its mask, to be put beside the latent."""
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 16:48, 8:40] = 1.0
    beside = {"concat_latent_image": noise(INPAINT.latent, 41), "concat_mask": mask}
    latent = {"samples": noise(INPAINT.latent, 42)}
    sides = [[condition(INPAINT, seed, **beside)] for seed in (10, 20)]
    bare = [[condition(INPAINT, seed)] for seed in (10, 20)]
    return {
        "inpainting": Case(INPAINT, latent, *sides, fields={"steps": 2}),
        "inpainting under the mask": Case(
            INPAINT, {**latent, "noise_mask": mask[0]}, *sides, fields={"steps": 2, "denoise": 0.8}
        ),
        "an inpainting model without a picture": Case(INPAINT, latent, *bare, fields={"steps": 2}),
    }


def _together() -> Mapping[str, Case]:
    """Return regions by area and by mask, for parts of the time, with texts of three lengths."""
    width = MMDIT.width
    mask = torch.zeros(1, 64, 48)
    mask[:, :40] = 1.0

    def longer(seed: int, tokens: int, **further: Any) -> list[Any]:
        _, options = condition(MMDIT, seed, **further)
        return [noise((1, tokens, width), seed), options]

    positive = [
        condition(MMDIT, 10),
        longer(31, 9, area=(4, 6, 2, 0), strength=0.7, start_percent=0.0, end_percent=0.6),
        longer(32, 13, mask=mask, mask_strength=0.5, set_area_to_bounds=False, start_percent=0.3, end_percent=1.0),
        longer(33, 9, area=("percentage", 0.5, 0.5, 0.25, 0.25), mask=mask, set_area_to_bounds=True),
    ]
    latent = {"samples": torch.zeros(MMDIT.latent)}
    return {"regions, times and lengths": Case(MMDIT, latent, positive, [longer(20, 7)], fields={"steps": 4})}


def conditioning() -> dict[str, Any]:
    """Return for each whether the three ways agree, and whether it matters."""
    found = {}
    for kind, cases in ((INPAINT, _inpainted()), (MMDIT, _together())):
        pair = Pair.of(kind)
        for name, this in cases.items():
            result, same = three_ways(pair, this, lambda model: model)
            found[name] = {
                **same,
                "finite": bool(result.isfinite().all()),
                "first": [float(value) for value in result.flatten()[:4]],
            }
    return found
