"""Measure the first step of a cold client in a ComfyUI, for `benchmarks/first_step.py`.

    PYTHON first_step.py COMFYUI_ROOT USER_FOLDER URL

Prints JSON: the seconds from the loader node's begin to the first step's end, and the exchanges.
"""

from __future__ import annotations

import json
import os
import sys
from time import perf_counter
from typing import Any

ROOT, USER, URL = sys.argv[1:4]
sys.path.insert(0, ROOT)
os.environ["COMFY_GPU_OFFLOAD_URL"] = URL

from comfy.cli_args import args  # noqa: E402

args.cpu = True

import folder_paths  # noqa: E402

folder_paths.set_user_directory(USER)

import torch  # noqa: E402

from comfy_gpu_offload.client.exchanges import Exchanges  # noqa: E402
from comfy_gpu_offload.client.model_call import OnProgress  # noqa: E402
from comfy_gpu_offload.comfyui.client.loader import load_remote  # noqa: E402
from comfy_gpu_offload.comfyui.client.sampling.offload_mode import runs_whole  # noqa: E402
from comfy_gpu_offload.comfyui.client.sampling.whole_loop import run_whole_loop  # noqa: E402
from comfy_gpu_offload.nodes.sampler import _fields  # noqa: E402

_MODEL = "diffusion_pytorch_model.safetensors"
_RUN = {"seed": 1, "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}


def _inputs() -> dict[str, Any]:
    """Return KSampler's inputs for the digits model, as Remote Sampler gets them."""
    condition = [[torch.zeros(1, 1, 48), {"pooled_output": torch.zeros(1, 64)}]]
    return {
        **_RUN,
        "positive": condition,
        "negative": condition,
        "latent_image": {"samples": torch.zeros(1, 16, 8, 8)},
    }


def _run(on_step: OnProgress) -> None:
    model = load_remote(_MODEL, "default")
    inputs = _inputs()
    if not runs_whole(model, "auto", inputs):
        raise SystemExit("the run was to go to the worker as a whole")

    def sample(fields: Any, job: Any, on_progress: OnProgress, *, patches: Any) -> Any:
        def progressed(*progress: Any) -> None:
            on_step(*progress)
            on_progress(*progress)

        return model.remote.sample(fields, job, progressed, patches=patches)

    conditions = {name: inputs[name] for name in ("positive", "negative")}
    run_whole_loop(sample, model, _fields(inputs), latent=inputs["latent_image"], **conditions)


def main() -> None:
    """Run once."""
    begun: list[tuple[str, float]] = []

    def noting(real: Any) -> Any:
        def noted(self: Exchanges, route: Any, request: str, frame: Any, *rest: Any) -> Any:
            begun.append((f"{route} {frame.size_bytes / 1e3:.1f} KB", perf_counter()))
            return real(self, route, request, frame, *rest)

        return noted

    Exchanges.ask = noting(Exchanges.ask)  # type: ignore[method-assign]
    Exchanges.follow = noting(Exchanges.follow)  # type: ignore[method-assign]
    steps: list[float] = []
    started = perf_counter()
    _run(lambda *_: steps.append(perf_counter()))
    seconds = steps[0] - started
    print(json.dumps({"seconds": seconds, "exchanges": [(kind, at - started) for kind, at in begun]}))


if __name__ == "__main__":
    main()
