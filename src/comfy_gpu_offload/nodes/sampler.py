"""Remote Sampler."""

from __future__ import annotations

import copy
import importlib
from typing import Any, ClassVar

from ..client.timings import CallTimings
from ..comfyui import status
from ..errors import OffloadError

_OFFLOAD = ["auto", "each step"]


class RemoteSampler:
    """KSampler, with a word on how a remote model is to be used."""

    DESCRIPTION = (
        "Samples as KSampler does. With a model from Remote Model Loader each step's forward pass runs on the "
        "worker, and the node shows afterwards what crossed the wire and where the time went."
    )
    CATEGORY = "sampling/remote"
    FUNCTION = "sample"
    RETURN_TYPES = ("LATENT",)
    OUTPUT_TOOLTIPS = ("The denoised latent.",)
    SEARCH_ALIASES: ClassVar = ["remote", "offload", "runpod", "ksampler", "sample"]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802  # ComfyUI's name
        """KSampler's own inputs as this ComfyUI has them, and `offload`."""
        inputs: dict[str, Any] = copy.deepcopy(importlib.import_module("nodes").KSampler.INPUT_TYPES())
        inputs["required"]["offload"] = (
            _OFFLOAD,
            {
                "default": "auto",
                "tooltip": "How the work is divided. each step: the sampler runs here and each forward pass on "
                "the worker. auto: whatever is fastest, which in this release is each step.",
            },
        )
        inputs.setdefault("hidden", {})["unique_id"] = "UNIQUE_ID"
        return inputs

    def sample(self, model: Any, offload: str = "auto", unique_id: str | None = None, **inputs: Any) -> Any:
        """The node's function: `inputs` are KSampler's.

        Raises:
            OffloadError: `offload` is no choice of this release, or the worker failed.
        """
        if offload not in _OFFLOAD:
            raise OffloadError(f"offload {offload!r}: this release has {', '.join(_OFFLOAD)}.")
        remote = getattr(model, "remote", None)
        before = 0 if remote is None else remote.calls
        latent = importlib.import_module("nodes").KSampler().sample(model, **inputs)
        if remote is not None:
            status.show(_summary(remote.timings_since(before)), unique_id)
        return latent


def _summary(timings: list[CallTimings]) -> str:
    total = sum(timings, CallTimings())
    transfer_s = total.total_s - total.compute_s - total.load_s - total.queue_s
    return (
        f"{len(timings)} calls, {total.bytes_up / 1e6:.2f} MB up, {total.bytes_down / 1e6:.2f} MB down; "
        f"compute {total.compute_s:.1f} s, transfer {max(0.0, transfer_s):.1f} s"
    )
