"""Measure the time and resident memory of a large model's stand-in.

    PYTHON measure_skeleton.py COMFYUI_ROOT describe MODEL FILE    what a worker would say of the model; prints
                                                                   the seconds that ComfyUI took to build it
    PYTHON measure_skeleton.py COMFYUI_ROOT build FILE             builds the stand-in; prints JSON

Two processes, so that the description's making is no part of what is measured.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter

ROOT, MODE = sys.argv[1:3]
sys.path.insert(0, ROOT)

from comfy.cli_args import args  # noqa: E402

args.cpu = True

import comfy.supported_models  # noqa: E402
import psutil  # noqa: E402
import torch  # noqa: E402

from comfy_gpu_offload.client.remote_model import RemoteModel  # noqa: E402
from comfy_gpu_offload.comfyui.client.patcher import remote_patcher  # noqa: E402
from comfy_gpu_offload.comfyui.worker.modules.diffusion_model import details_of  # noqa: E402
from comfy_gpu_offload.io.frame import decode, encode  # noqa: E402
from comfy_gpu_offload.io.tree import pack, unpack  # noqa: E402
from comfy_gpu_offload.protocol.messages import ModelDescription, ModelRef  # noqa: E402

MODELS = {
    "qwen-image-20b": ("QwenImage", {"image_model": "qwen_image"}),
    "wan-14b": (
        "WAN21_T2V",
        {
            "image_model": "wan2.1",
            "model_type": "t2v",
            "dim": 5120,
            "ffn_dim": 13824,
            "num_heads": 40,
            "num_layers": 40,
            "in_dim": 16,
            "out_dim": 16,
        },
    ),
}


def describe(name: str, file: Path) -> None:
    """Write a description as a worker's frame, from the same model on the meta device."""
    kind, unet_config = MODELS[name]
    config = getattr(comfy.supported_models, kind)(dict(unet_config))
    config.set_inference_dtype(torch.bfloat16, None)
    started = perf_counter()
    model = config.get_model({}, "", device="meta")
    print(json.dumps({"seconds": perf_counter() - started}))
    file.write_bytes(encode({}, pack(details_of(model, name)).skeleton).joined())


def build(file: Path) -> None:
    """Build the stand-in from the frame, and print what that cost."""
    frame = file.read_bytes()
    description = ModelDescription(ref=ModelRef(name="large"), fingerprint="f" * 16, compute_dtype="bfloat16")
    process = psutil.Process()
    before = process.memory_info().rss
    started = perf_counter()
    details = unpack(decode(frame).skeleton, ())
    patcher = remote_patcher(RemoteModel(None, description, details))  # type: ignore[arg-type]
    seconds = perf_counter() - started
    grown = process.memory_info().rss - before
    state_dict = patcher.model.state_dict()
    weights = sum(tensor.numel() for tensor in state_dict.values())
    resident = sum(1 for tensor in patcher.model.parameters() if not tensor.is_meta)
    print(
        json.dumps(
            {
                "seconds": seconds,
                "grown_bytes": grown,
                "weights": weights,
                "keys": len(state_dict),
                "resident": resident,
            }
        )
    )


if __name__ == "__main__":
    if MODE == "describe":
        describe(sys.argv[3], Path(sys.argv[4]))
    else:
        build(Path(sys.argv[3]))
