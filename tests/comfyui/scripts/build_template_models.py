"""Writes small models with random weights under the names that the example workflows ask a worker for.

    PYTHON build_template_models.py COMFYUI_ROOT MODELS_FOLDER NAME ...

Each is of the architecture of the model whose name it has. Run in ComfyUI's own interpreter.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "matrix"))

# First: it makes ComfyUI importable, from this script's own arguments.
import build_models  # isort: skip
import build_clip_l  # isort: skip
import torch  # isort: skip
from architectures import ALL  # isort: skip
from safetensors.torch import save_file  # isort: skip
from small_models import random_weights  # isort: skip

Weights = dict[str, torch.Tensor]
_CHECKPOINT = "model.diffusion_model."


def of(config: str, prefix: str = "") -> Weights:
    """Return the weights of that class of `comfy.supported_models`, as small as ComfyUI lets it be."""
    (model,) = (architecture.model for architecture in ALL if architecture.name == config)
    return {prefix + key: tensor.to(model.dtype) for key, tensor in random_weights(model.shapes())}


def whole_sd15() -> Weights:
    """Return a checkpoint: a small model and VAE, and a text encoder of its real size."""
    generator = torch.Generator().manual_seed(7)
    weights = build_clip_l.in_checkpoint(build_clip_l.clip_l(generator), generator)
    return weights | build_models.weights(build_models.unet(), 6, torch.float16, _CHECKPOINT)


MODELS: dict[str, Callable[[], Weights]] = {
    "checkpoints/sd_xl_base_1.0.safetensors": lambda: of("SDXL", _CHECKPOINT),
    "checkpoints/v1-5-pruned-emaonly-fp16.safetensors": whole_sd15,
    "controlnet/control_v11p_sd15_canny_fp16.safetensors": lambda: build_models.weights(
        build_models.control_net(), 9, torch.float16
    ),
    "diffusion_models/flux1-dev.safetensors": lambda: of("Flux"),
    "diffusion_models/qwen_image_edit_2509_fp8_e4m3fn.safetensors": lambda: of("QwenImage"),
    "diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors": lambda: of("WAN21_T2V"),
    "diffusion_models/wan2.2_ti2v_5B_fp16.safetensors": lambda: of("WAN22_T2V"),
}


def main() -> None:
    folder = Path(sys.argv[2])
    for name in sys.argv[3:]:
        (file,) = (folder / path for path in MODELS if path.endswith(f"/{name}"))
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(MODELS[str(file.relative_to(folder))](), file)


if __name__ == "__main__":
    main()
