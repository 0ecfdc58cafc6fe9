"""Write a CLIP-L of its real size with random weights, in float8, a LoRA for it, and a checkpoint with it.

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


def main() -> None:
    generator = torch.Generator().manual_seed(1)
    model = comfy.sd1_clip.SDClipModel(device="cpu", dtype=torch.float16).transformer
    weights, lora = {}, {}
    for key, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator) * (0.3 / tensor.shape[-1] ** 0.25)
        is_norm = tensor.dim() == 1 and key.endswith("weight")
        weights[key] = (noise * 0.1 + 1 if is_norm else noise).to(torch.float8_e4m3fn)
        name = key.removesuffix(".weight")
        if name in _LAYERS and name != key:
            own = f"lora_te_{name.replace('.', '_')}"
            lora[f"{own}.lora_up.weight"] = torch.randn(tensor.shape[0], 4, generator=generator) * 0.2
            lora[f"{own}.lora_down.weight"] = torch.randn(4, tensor.shape[1], generator=generator) * 0.2
    folder = Path(FOLDER)
    whole = load_file(folder / "checkpoints" / "sd15.safetensors")
    vae = TAESD(latent_channels=4).state_dict()
    for key, tensor in vae.items():
        drawn = torch.randn(tensor.shape, generator=generator)
        scale = tensor[0].numel() ** -0.5 if tensor.dim() > 1 else 0.02
        whole[f"first_stage_model.{key}"] = drawn * scale
    whole |= {f"cond_stage_model.transformer.{key}": tensor.half() for key, tensor in weights.items()}
    files = {"text_encoders/clip-l": weights, "loras/clip-l-lora": lora, "checkpoints/whole": whole}
    for name, tensors in files.items():
        path = folder / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)


if __name__ == "__main__":
    main()
