"""The same models through a client's own session and a worker's own handler, and as ComfyUI loads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sides import BACKEND, Case, Kind, Patch, nodes, settings

from comfy_gpu_offload.client.session import Session
from comfy_gpu_offload.comfyui.client.patcher import remote_patcher
from comfy_gpu_offload.comfyui.client.sampling.whole_loop import run_whole_loop
from comfy_gpu_offload.comfyui.installation import diffusion_model_files
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.transport.loopback import LoopbackTransport

SESSION = Session(LoopbackTransport(Handler(BACKEND)))


@dataclass
class Pair:
    """A file as ComfyUI itself loads it, and at the worker.

    Loaded anew: runs before may have left object patches on a model that all clones share, as ComfyUI itself does.
    """

    stock: Any
    remote: Any

    @classmethod
    def of(cls, kind: Kind, weight_dtype: str = "default", session: Session = SESSION) -> Pair:
        stock = diffusion_model_files.load_patcher(
            diffusion_model_files.DIFFUSION_MODELS.find_file(kind.file), weight_dtype
        )
        return cls(stock, remote_patcher(session.model(kind.file, weight_dtype)))


def sampled(model: Any, this: Case) -> torch.Tensor:
    """Return the latent of ComfyUI's own sampler."""
    fields = settings(this.fields)
    given = (this.positive, this.negative, dict(this.latent))
    names = ("seed", "steps", "cfg", "sampler", "scheduler")
    with torch.inference_mode():
        (out,) = nodes.common_ksampler(model, *(fields[name] for name in names), *given)
    samples: torch.Tensor = out["samples"]
    return samples


def sampled_whole(model: Any, this: Case) -> torch.Tensor:
    """Return the latent of a whole run at the worker."""
    given = {"positive": this.positive, "negative": this.negative, "latent": this.latent}
    with torch.inference_mode():
        out = run_whole_loop(model.remote.sample, model, settings(this.fields), **given)
    samples: torch.Tensor = out["samples"]
    return samples


def three_ways(pair: Pair, this: Case, patch: Patch) -> tuple[torch.Tensor, dict[str, bool]]:
    """Return a patched model's latent here, and whether the worker gives the same, each step and whole."""
    expected, remote = sampled(patch(pair.stock), this), patch(pair.remote)
    same = {
        "each step": torch.equal(expected, sampled(remote, this)),
        "whole loop": torch.equal(expected, sampled_whole(remote, this)),
    }
    return expected, same
