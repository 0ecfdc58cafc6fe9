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
    "T5-XXL (PixArt)": ("pixart", "t5"),
    "T5-XXL (Chroma)": ("chroma", "t5"),
    "umT5 (Wan)": ("wan", "umt5"),
    "Gemma 2 (Lumina)": ("lumina2", "gemma"),
    "Qwen2.5-VL (Qwen-Image)": ("qwen_image", "qwen_vl"),
    "umT5, scaled fp8 (Wan)": ("wan", "umt5_scaled"),
    "Qwen2.5-VL, scaled fp8": ("qwen_image", "qwen_vl_scaled"),
    "umT5 base (ACE-Step)": ("ace", "umt5_base"),
    "Flux": ("flux", "clip_l", "t5_wide"),
    "SD3 of three": ("stable_diffusion", "clip_l", "clip_g", "t5_wide"),
    "Llama (HunyuanVideo)": ("hunyuan_video", "clip_l", "llama"),
    "HiDream of four": ("stable_diffusion", "clip_l", "clip_g", "t5_wide", "llama_hidream"),
}
_LATER_FAMILIES: dict[str, tuple[str, ...]] = {
    "Qwen3 (Anima)": ("stable_diffusion", "qwen3"),
    "Gemma 3 (LTXAV)": ("ltxv", "gemma3", "ltxav_projection"),
    "Qwen3 of two (ACE-Step 1.5)": ("ace", "qwen3_ace", "qwen3_ace_lm"),
    "MiniMax Music 3": ("minimax", "music"),
}
# What nodes give their tokenizers besides a text.
_GIVEN: dict[str, dict[str, Any]] = {
    "umT5 base (ACE-Step)": {"lyrics": "[verse]\nla la la"},
    "Qwen3 of two (ACE-Step 1.5)": {"lyrics": "la la la", "generate_audio_codes": False},
    "MiniMax Music 3": {"lyrics": "la la la", "seed": 3, "max_audio_frames": 4},
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
    for name, (choice, *files) in (_FAMILIES | (_LATER_FAMILIES if LATER else {})).items():
        pair, given = Pair.of(choice, *files), _GIVEN.get(name, {})
        for number, prompt in enumerate(PROMPTS):
            found[f"{name}, prompt {number}"] = compared(
                pair, lambda clip, prompt=prompt, given=given: encoded(clip, prompt, **given)
            )
        if name == "Gemma 3 (LTXAV)":
            picture = torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(3))
            found[f"{name}, a picture"] = compared(
                pair, lambda clip, picture=picture: encoded(clip, "<image_soft_token> a cat", image=picture)
            )
        if choice == "qwen_image":
            pictures = [torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
            found[f"{name}, two pictures"] = compared(
                pair, lambda clip, pictures=pictures: encoded(clip, "a cat", images=pictures)
            )
    found["a checkpoint's"] = compared(_checkpoint())
    return found
