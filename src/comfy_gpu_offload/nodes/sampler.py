"""Remote Sampler."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from time import perf_counter
from typing import Any, ClassVar

from ..client.remote_model import OnProgress, RemoteModel
from ..client.timings import CallTimings
from ..client.weight_patches import WeightPatches
from ..comfyui import offload as offloading
from ..comfyui import status
from ..comfyui.whole_loop import run_whole_loop
from ..config.settings import load_settings
from ..errors import OffloadError


class RemoteSampler:
    """KSampler, with a word on how a remote model is to be used."""

    DESCRIPTION = (
        "Samples as KSampler does. With a model from Remote Model Loader the network runs on the worker: each "
        "step's forward pass, or the whole loop as one job. The node shows afterwards what crossed the wire and "
        "where the time went."
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
            list(offloading.CHOICES),
            {
                "default": offloading.AUTO,
                "tooltip": "How the work is divided. each step: the sampler runs here, each forward pass on the "
                "worker. whole loop: the sampler runs there too, and the run crosses the wire once. auto: "
                "whatever is faster, and each step where the run has something that can be done here only.",
            },
        )
        inputs.setdefault("hidden", {})["unique_id"] = "UNIQUE_ID"
        return inputs

    def sample(
        self, model: Any, offload: str = offloading.AUTO, unique_id: str | None = None, **inputs: Any
    ) -> Any:
        """The node's function: `inputs` are KSampler's.

        Raises:
            OffloadError: `offload` is no choice, or the worker failed.
        """
        if offload not in offloading.CHOICES:
            raise OffloadError(f"offload {offload!r}: there are {', '.join(offloading.CHOICES)}.")
        remote = getattr(model, "remote", None)
        if remote is None:
            return importlib.import_module("nodes").KSampler().sample(model, **inputs)
        started = perf_counter()
        whole = offloading.runs_whole(model, offload, inputs)
        latent, timings = _whole(model, inputs) if whole else _each(model, remote, inputs)
        mode = offloading.WHOLE_LOOP if whole else offloading.EACH_STEP
        status.show(summary(mode, timings, perf_counter() - started, load_settings().gpu_rate), unique_id)
        return latent


def _each(model: Any, remote: RemoteModel, inputs: Mapping[str, Any]) -> tuple[Any, list[CallTimings]]:
    before = remote.calls
    latent = importlib.import_module("nodes").KSampler().sample(model, **inputs)
    return latent, remote.timings_since(before)


def _whole(model: Any, inputs: Mapping[str, Any]) -> tuple[Any, list[CallTimings]]:
    timings: list[CallTimings] = []

    def sample(
        fields: Mapping[str, Any], job: Any, on_progress: OnProgress, *, patches: WeightPatches | None
    ) -> tuple[Any, CallTimings]:
        result, timing = model.remote.sample(fields, job, on_progress, patches=patches)
        timings.append(timing)
        return result, timing

    fields = {name: inputs[name] for name in ("seed", "steps", "cfg", "scheduler")}
    fields |= {
        "sampler": inputs["sampler_name"],
        "cfg": float(inputs["cfg"]),
        "denoise": inputs.get("denoise", 1.0),
    }
    latent = run_whole_loop(
        sample,
        model,
        fields,
        positive=inputs["positive"],
        negative=inputs["negative"],
        latent=inputs["latent_image"],
    )
    return (latent,), timings


def summary(mode: str, timings: list[CallTimings], seconds: float, gpu_rate: float) -> str:
    """How it ran, what crossed, where the time went, what that cost at `gpu_rate` dollars a second.

    Short, because the frontend shows two lines of a node's width.
    """
    total = sum(timings, CallTimings())
    transfer_s = max(0.0, total.total_s - total.compute_s - total.load_s - total.queue_s)
    calls = f"{total.exchanges} call{'' if total.exchanges == 1 else 's'}"
    cost = f", ${gpu_rate * seconds:.4f}" if gpu_rate else ""
    return (
        f"{mode}: {calls}, ↑{total.bytes_up / 1e6:.2f} ↓{total.bytes_down / 1e6:.2f} MB; "
        f"compute {total.compute_s:.1f}, transfer {transfer_s:.1f} s{cost}"
    )
