"""Write a CLIP-L of its real size with random weights, in float8, a checkpoint with it, and a LoRA for each.

PYTHON build_clip_l.py COMFYUI_ROOT MODELS_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT, FOLDER = sys.argv[1:3]
sys.path.insert(0, ROOT)

from comfy.cli_args import args  # noqa: E402

args.cpu = True

import comfy.sd1_clip  # noqa: E402
import torch  # noqa: E402
from comfy.taesd.taesd import TAESD  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

_LAYERS = ("text_model.encoder.layers.0.mlp.fc1", "text_model.encoder.layers.7.self_attn.q_proj")


def clip_l(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Return the weights of a text encoder, in float8."""
    model = comfy.sd1_clip.SDClipModel(device="cpu", dtype=torch.float16).transformer
    weights = {}
    for key, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator) * (0.3 / tensor.shape[-1] ** 0.25)
        is_norm = tensor.dim() == 1 and key.endswith("weight")
        weights[key] = (noise * 0.1 + 1 if is_norm else noise).to(torch.float8_e4m3fn)
    return weights


def model_lora(weights: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Return a LoRA of a checkpoint's attention, as files have it."""
    lora, prefix = {}, "model.diffusion_model."
    for key, weight in weights.items():
        if key.startswith(prefix) and key.endswith("attn1.to_q.weight"):
            own = f"lora_unet_{key.removeprefix(prefix).removesuffix('.weight').replace('.', '_')}"
            lora[f"{own}.lora_up.weight"] = torch.randn(weight.shape[0], 4, generator=generator) * 0.2
            lora[f"{own}.lora_down.weight"] = torch.randn(4, weight.shape[1], generator=generator) * 0.2
    return lora


def lora_for(weights: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Return a LoRA of some layers of a text encoder, as files have it."""
    lora = {}
    for name in _LAYERS:
        shape, own = weights[f"{name}.weight"].shape, f"lora_te_{name.replace('.', '_')}"
        lora[f"{own}.lora_up.weight"] = torch.randn(shape[0], 4, generator=generator) * 0.2
        lora[f"{own}.lora_down.weight"] = torch.randn(4, shape[1], generator=generator) * 0.2
    return lora


def in_checkpoint(weights: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Return a text encoder and a small VAE as they stand in a checkpoint."""
    whole = {f"cond_stage_model.transformer.{key}": tensor.half() for key, tensor in weights.items()}
    for key, tensor in TAESD(latent_channels=4).state_dict().items():
        drawn = torch.randn(tensor.shape, generator=generator)
        scale = tensor[0].numel() ** -0.5 if tensor.dim() > 1 else 0.02
        whole[f"first_stage_model.{key}"] = drawn * scale
    return whole


def main() -> None:
    generator = torch.Generator().manual_seed(1)
    folder, weights = Path(FOLDER), clip_l(generator)
    whole = load_file(folder / "checkpoints" / "sd15.safetensors") | in_checkpoint(weights, generator)
    lora = lora_for(weights, generator)
    files = {
        "text_encoders/clip-l": weights,
        "loras/clip-l-lora": lora,
        "loras/both": lora | model_lora(whole, generator),
        "checkpoints/whole": whole,
    }
    for name, tensors in files.items():
        path = folder / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)


if __name__ == "__main__":
    main()
