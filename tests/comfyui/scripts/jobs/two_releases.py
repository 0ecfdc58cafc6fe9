"""Models at a worker whose ComfyUI is another release: each step here, and the messages on the whole loop.

    COMFY_GPU_OFFLOAD_URL=… COMFY_GPU_OFFLOAD_TOKEN=… PYTHON two_releases.py COMFYUI_ROOT MODELS_FOLDER

Prints JSON, for test_two_releases.py to judge.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

# First: it makes ComfyUI importable.
import sides
import torch
from comfy_extras import nodes_model_advanced as advanced
from sessions import sampled
from sides import MMDIT, UNET, WAN, case, condition, node, noise
from weight_dtypes import loras

from comfy_gpu_offload.comfyui.client import loader
from comfy_gpu_offload.comfyui.client.sampling import offload_mode
from comfy_gpu_offload.comfyui.installation import diffusion_model_files

_TINY = replace(UNET, latent=(1, 4, 8, 6))


class _Said(logging.Handler):
    """The warnings in the log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _regional() -> sides.Case:
    this = case(MMDIT)
    area = condition(MMDIT, 30, area=(4, 6, 2, 0), strength=0.8, start_percent=0.2)
    return replace(this, positive=[*this.positive, area])


def _masked() -> sides.Case:
    latent = {"samples": noise(MMDIT.latent, 3), "noise_mask": torch.full((1, 64, 48), 0.5)}
    return case(MMDIT, latent=latent)


def runs() -> Mapping[str, tuple[sides.Kind, sides.Case, sides.Patch]]:
    shifted = node(advanced.ModelSamplingSD3, shift=2.0)
    return {
        "MMDiT": (MMDIT, case(MMDIT), lambda model: model),
        "a batch": (MMDIT, case(MMDIT, latent={"samples": noise((2, *MMDIT.latent[1:]), 4)}), lambda model: model),
        "regional": (MMDIT, _regional(), lambda model: model),
        "masked": (MMDIT, _masked(), lambda model: model),
        "drawing noise": (MMDIT, case(MMDIT, sampler="euler_ancestral"), shifted),
        "with LoRAs": (MMDIT, case(MMDIT), loras(("kind-lora", 0.8), ("kind-dora", 0.5))),
        "UNet": (_TINY, case(_TINY), lambda model: model),
        "video": (WAN, case(WAN), lambda model: model),
    }


def each_step() -> dict[str, Any]:
    found = {}
    for name, (kind, this, patch) in runs().items():
        stock = diffusion_model_files.load_patcher(
            diffusion_model_files.DIFFUSION_MODELS.find_file(kind.file), "default"
        )
        with torch.inference_mode():
            expected = sampled(patch(stock), this)
            actual = sampled(patch(loader.load_remote(kind.file, "default")), this)
        found[name] = {"off by": float((expected - actual).abs().max()), "spread": float(expected.std())}
    return found


def whole_loop() -> dict[str, Any]:
    """Return the way that each choice takes, and the warnings on it."""
    said = _Said()
    logging.getLogger(offload_mode.__name__).addHandler(said)
    remote, this = loader.load_remote(MMDIT.file, "default"), case(MMDIT)
    inputs = {"positive": this.positive, "negative": this.negative, "latent_image": this.latent}
    inputs |= {"sampler_name": "euler_ancestral", "scheduler": "normal", "steps": 3, "cfg": 4.0}
    return {
        "auto": offload_mode.runs_whole(remote, offload_mode.AUTO, inputs),
        "whole loop": offload_mode.runs_whole(remote, offload_mode.WHOLE_LOOP, inputs),
        "said": said.lines,
    }


if __name__ == "__main__":
    print(json.dumps({"each step": each_step(), "whole loop": whole_loop()}), flush=True)
    # As in run.py.
    os._exit(0)
