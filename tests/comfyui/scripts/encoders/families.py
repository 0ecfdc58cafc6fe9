"""Conditioning of every family of text encoders."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import folder_paths
import torch
from encoder_sides import CACHE, FOLDER, PROMPTS, SESSION, Pair, compared, encoded
from safetensors.torch import load_file, save_file
from small_encoders import LATER

from comfy_gpu_offload.comfyui.client.text_encoder import remote_clip
from comfy_gpu_offload.comfyui.installation import checkpoint_files
from comfy_gpu_offload.protocol.messages import ModelRef

sys.path.append(str(Path(__file__).parents[1]))
import build_models

# ComfyUI's choice of a type, and the files.
_FAMILIES: dict[str, tuple[str, ...]] = {
    "CLIP-L": ("stable_diffusion", "clip_l"),
    "CLIP-G": ("stable_diffusion", "clip_g"),
    "SDXL": ("sdxl", "clip_l", "clip_g"),
    "SD3 of CLIP-L": ("sd3", "clip_l"),
    "SD3 of two": ("sd3", "clip_l", "clip_g"),
    "T5-XXL (LTXV)": ("ltxv", "t5"),
    "umT5 (Wan)": ("wan", "umt5"),
    "Gemma 2 (Lumina)": ("lumina2", "gemma"),
    "Qwen2.5-VL (Qwen-Image)": ("qwen_image", "qwen_vl"),
    **({"Qwen3 (Anima)": ("stable_diffusion", "qwen3")} if LATER else {}),
    "Flux": ("flux", "clip_l", "t5_wide"),
    "SD3 of three": ("stable_diffusion", "clip_l", "clip_g", "t5_wide"),
    "Llama (HunyuanVideo)": ("hunyuan_video", "clip_l", "llama"),
    "HiDream of four": ("stable_diffusion", "clip_l", "clip_g", "t5_wide", "llama_hidream"),
}


def _checkpoint() -> Pair:
    """Return the CLIP of a checkpoint, which has a small SD1.5 in it as well."""
    weights = {f"model.diffusion_model.{key}": value for key, value in build_models.unet().state_dict().items()}
    clip = load_file(FOLDER / "text_encoders" / "clip_l.safetensors")
    weights |= {f"cond_stage_model.transformer.{key}": value for key, value in clip.items()}
    folder = FOLDER / "checkpoints"
    folder.mkdir()
    save_file({key: value.half() for key, value in weights.items()}, folder / "whole.safetensors")
    folder_paths.add_model_folder_path("checkpoints", str(folder), is_default=True)
    file = checkpoint_files.CHECKPOINTS.find_file("whole.safetensors")
    ref = ModelRef(name="checkpoint_clip:whole.safetensors")
    return Pair(checkpoint_files.load_checkpoint_clip(file), remote_clip(SESSION.module(ref), CACHE))


def families() -> dict[str, Any]:
    """Return for each family and prompt whether both sides' conditioning is the same."""
    found: dict[str, Any] = {}
    for name, (choice, *files) in _FAMILIES.items():
        pair = Pair.of(choice, *files)
        for number, prompt in enumerate(PROMPTS):
            found[f"{name}, prompt {number}"] = compared(pair, lambda clip, prompt=prompt: encoded(clip, prompt))
        if choice == "qwen_image":
            pictures = [torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
            found[f"{name}, two pictures"] = compared(
                pair, lambda clip, pictures=pictures: encoded(clip, "a cat", images=pictures)
            )
    found["a checkpoint's"] = compared(_checkpoint())
    return found
