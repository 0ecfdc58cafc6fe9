"""The refusals of changes to a CLIP that cannot reach the worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import torch
from behaviour import LORA_KEYS, PAIR, lora, replaced, scaled
from comfy_extras import nodes_model_merging
from encoder_sides import FOLDER, encoded, remote_of
from small_encoders import LATER


def fresh() -> Any:
    return remote_of("stable_diffusion", "clip_l")


def changed_block() -> None:
    clip = fresh()
    clip.cond_stage_model.clip_l.transformer.text_model.encoder.layers[0].forward = lambda x, *_: x
    encoded(clip)


def changed_function() -> None:
    clip = fresh()
    clip.cond_stage_model.clip_l.process_tokens = lambda *_: None
    encoded(clip)


def object_patch_inside() -> None:
    clip = fresh().clone()
    clip.patcher.add_object_patch("clip_l.transformer.text_model.final_layer_norm", torch.nn.Identity())
    encoded(clip)


def changed_class() -> None:
    clip = fresh()
    before = comfy.sd1_clip.SDClipModel.forward
    comfy.sd1_clip.SDClipModel.forward = lambda *_: None
    try:
        encoded(clip)
    finally:
        comfy.sd1_clip.SDClipModel.forward = before


def composite_with_weights() -> None:
    # As LTXAV has some in later releases.
    clip = fresh()
    clip.cond_stage_model.register_parameter("projection", torch.nn.Parameter(torch.ones(1)))
    with replaced(clip, "clip_l", "encode_token_weights", scaled):
        encoded(clip)


def weight_read() -> None:
    fresh().cond_stage_model.clip_l.transformer.get_input_embeddings().weight + 1


def saved() -> None:
    nodes_model_merging.CLIPSave().save(fresh(), str(FOLDER / "saved"))


def moved() -> None:
    clip = fresh()
    clip.cond_stage_model.to("cpu")
    clip.cond_stage_model.clip_l.to(torch.device("cpu"))
    encoded(clip)


def composite_of_its_own_with_weights() -> None:
    clip = remote_of("ltxv", "gemma3", "ltxav_projection")
    with replaced(clip, "gemma3_12b", "encode_token_weights", scaled):
        encoded(clip)


def merged(one: Any, other: Any) -> None:
    encoded(nodes_model_merging.CLIPMergeSimple().merge(one, other, 0.5)[0])


def bypassed() -> None:
    """Put a LoRA beside the layers, as its loader does; earlier releases have none, but take what it does."""
    clip = fresh()
    if hasattr(comfy.sd, "load_bypass_lora_for_models"):
        clip = comfy.sd.load_bypass_lora_for_models(None, clip, lora(LORA_KEYS, 1), 1.0, 0.8)[1]
    else:
        injection = comfy.model_patcher.PatcherInjection(lambda _: None, lambda _: None)
        clip.patcher.set_injections("bypass_lora", [injection])
    encoded(clip)


def unknown_token() -> None:
    fresh().encode_from_tokens({"l": [[(10**6, 1.0)] * 77]})


def _refused(act: Callable[[], Any]) -> str:
    try:
        act()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "went on"


def refusals() -> dict[str, str]:
    """Return what is said to what cannot work."""
    acts: dict[str, Callable[[], Any]] = {
        "a block replaced": changed_block,
        "a part's inner method replaced": changed_function,
        "an object patch inside": object_patch_inside,
        "ComfyUI's class changed": changed_class,
        "a composite with weights": composite_with_weights,
        "saved": saved,
        "half": fresh().cond_stage_model.half,
        "a weight read": weight_read,
        "merged into a local one": lambda: merged(PAIR.stock, PAIR.remote),
        "a local one merged in": lambda: merged(fresh(), PAIR.stock),
        "moved": moved,
        "a bypass LoRA": bypassed,
        "a token that is none": unknown_token,
        **({"a real composite with weights": composite_of_its_own_with_weights} if LATER else {}),
    }
    return {name: _refused(act) for name, act in acts.items()}
