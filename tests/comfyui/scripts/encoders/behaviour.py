"""A CLIP as nodes and packs use it: patches, hooks, options, textual inversion, calls of parts, merges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import comfy.hooks
import comfy.lora
import comfy.sd
import nodes
import torch
from comfy_extras import nodes_attention_multiply, nodes_hooks, nodes_model_merging
from encoder_sides import FOLDER, HANDLER, PROMPTS, Pair, compared, encoded, equal
from safetensors.torch import save_file
from small_encoders import LATER

from comfy_gpu_offload.client.session import Session
from comfy_gpu_offload.transport.loopback import LoopbackTransport


def lora(clip: Any, seed: int, width: int = 4) -> dict[str, torch.Tensor]:
    """Return a LoRA for every attention weight of a CLIP-L, as files have it."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for key, weight in clip.cond_stage_model.state_dict().items():
        if "clip_l.transformer.text_model.encoder" in key and key.endswith("_proj.weight"):
            name = key.removeprefix("clip_l.transformer.").removesuffix(".weight").replace(".", "_")
            made[f"lora_te_{name}.lora_up.weight"] = torch.randn(weight.shape[0], width, generator=generator) * 0.1
            made[f"lora_te_{name}.lora_down.weight"] = (
                torch.randn(width, weight.shape[1], generator=generator) * 0.1
            )
    return made


def with_lora(seed: int, strength: float) -> Callable[[Any], Any]:
    """Return what ComfyUI's LoRA loader does to a CLIP."""

    def load(clip: Any) -> Any:
        return comfy.sd.load_lora_for_models(None, clip, lora(LORA_KEYS, seed), 1.0, strength)[1]

    return load


PAIR = Pair.of("stable_diffusion", "clip_l")
SDXL = Pair.of("sdxl", "clip_l", "clip_g")
LORA_KEYS = PAIR.stock


def _last_layer(number: int) -> Callable[[Any], Any]:
    return lambda clip: nodes.CLIPSetLastLayer().set_last_layer(clip, number)[0]


def _hooks(*, scheduled: bool, strengths: tuple[float, ...] = (0.3, 0.9)) -> Callable[[Any], Any]:
    group = comfy.hooks.create_hook_lora(lora(LORA_KEYS, 5), 1.0, 0.8)
    keyframes = comfy.hooks.HookKeyframeGroup()
    for number, strength in enumerate(strengths):
        keyframes.add(comfy.hooks.HookKeyframe(strength, start_percent=number / len(strengths), guarantee_steps=1))
    group.set_keyframes_on_hooks(keyframes)

    def put_on(clip: Any) -> Any:
        return nodes_hooks.SetClipHooks().apply_hooks(
            clip, schedule_clip=scheduled, apply_to_conds=False, hooks=group
        )[0]

    return put_on


def _attention(clip: Any) -> Any:
    node = nodes_attention_multiply.CLIPAttentionMultiply
    if hasattr(node, "execute"):
        return node.execute(clip, q=1.2, k=0.9, v=1.1, out=0.8).result[0]
    return node().patch(clip, q=1.2, k=0.9, v=1.1, out=0.8)[0]


def _leaf(method: str, name: str = "clip_l") -> Callable[[Any], Any]:
    """Return a call of a part as prompt-weighting packs make it."""

    def call(clip: Any) -> Any:
        clip.cond_stage_model.reset_clip_options()
        clip.load_model()
        part = getattr(clip.cond_stage_model, name)
        pairs = clip.tokenize(PROMPTS[1])[name.removeprefix("clip_")]
        with torch.inference_mode():
            if method == "encode_token_weights":
                return part.encode_token_weights(pairs)
            return getattr(part, method)([[token for token, *_ in section] for section in pairs])

    return call


@contextmanager
def replaced(clip: Any, name: str, method: str, value: Callable[..., Any]) -> Iterator[None]:
    """Replace a part's method for a while, as packs do: `value` is given the method before."""
    part = getattr(clip.cond_stage_model, name)
    before = vars(part).get(method)
    setattr(part, method, partial(value, getattr(part, method)))
    try:
        yield
    finally:
        if before is None:
            delattr(part, method)
        else:
            setattr(part, method, before)


def scaled(before: Any, *args: Any) -> Any:
    cond, pooled, *further = before(*args)
    return (cond * 1.5, pooled, *further)


def _with_replaced(method: str) -> Callable[[Any], Any]:
    def encode(clip: Any) -> Any:
        with replaced(clip, "clip_l", method, scaled):
            return encoded(clip)

    return encode


def _object_patch(clip: Any) -> Any:
    made = clip.clone()
    part = made.cond_stage_model.clip_l
    made.patcher.add_object_patch("clip_l.encode_token_weights", partial(scaled, part.encode_token_weights))
    return made


def _inversion() -> None:
    vectors = torch.randn(3, 768, generator=torch.Generator().manual_seed(9))
    save_file({"emb_params": vectors}, FOLDER / "embeddings" / "mine.safetensors")


def _merge(pair: Pair, other: Pair) -> Pair:
    merge, patched = nodes_model_merging.CLIPMergeSimple(), other.each(with_lora(3, 0.5))
    return Pair(merge.merge(pair.stock, patched.stock, 0.3)[0], merge.merge(pair.remote, patched.remote, 0.3)[0])


def _two_clients() -> dict[str, Any]:
    """Return what two clients get of one encoder with a LoRA each, by turns."""
    other = Session(LoopbackTransport(HANDLER))
    pairs = [
        PAIR.each(with_lora(1, 0.8)),
        Pair.of("stable_diffusion", "clip_l", session=other).each(with_lora(2, 1.3)),
    ]
    expected = [encoded(pair.stock) for pair in pairs]
    turns = [
        equal(encoded(pair.remote), each) for _ in range(2) for pair, each in zip(pairs, expected, strict=True)
    ]
    other.close()
    return {
        "equal": all(turns),
        "spread": float(expected[0][0][0].std()),
        "first": [float(expected[1][0][0][0, -1, -1])],
    }


def behaviour() -> dict[str, Any]:
    """Return for each thing that is done whether both sides give the same."""
    _inversion()
    cases: dict[str, tuple[Pair, Callable[[Any], Any]]] = {
        "LoRA": (PAIR.each(with_lora(1, 0.8)), encoded),
        "another LoRA": (PAIR.each(with_lora(2, -0.5)), encoded),
        "two LoRAs": (PAIR.each(with_lora(1, 0.8)).each(with_lora(2, 0.4)), encoded),
        "LoRA on SDXL": (SDXL.each(with_lora(1, 0.8)), encoded),
        "without, after all": (PAIR, encoded),
        "last layer -2": (PAIR.each(_last_layer(-2)), encoded),
        "last layer -3 of SDXL": (SDXL.each(_last_layer(-3)), encoded),
        "last layer and LoRA": (PAIR.each(_last_layer(-2)).each(with_lora(1, 0.8)), encoded),
        "textual inversion": (PAIR, lambda clip: encoded(clip, "a (embedding:mine:1.2) cat")),
        "hooks": (PAIR.each(_hooks(scheduled=False)), encoded),
        "hooks by schedule": (PAIR.each(_hooks(scheduled=True)), encoded),
        "hooks over a LoRA": (PAIR.each(with_lora(1, 0.8)).each(_hooks(scheduled=False)), encoded),
        "hooks by schedule over a LoRA": (PAIR.each(with_lora(1, 0.8)).each(_hooks(scheduled=True)), encoded),
        "attention multiplied": (PAIR.each(_attention), encoded),
        "pooled alone": (PAIR, lambda clip: clip.encode_from_tokens(clip.tokenize("a cat"), return_pooled=True)),
        "pooled, not projected": (SDXL, _unprojected),
        "a part": (PAIR, _leaf("encode_token_weights")),
        "a part of SDXL": (SDXL, _leaf("encode_token_weights", "clip_g")),
        "a part's encode": (PAIR, _leaf("encode")),
        "a part's forward": (PAIR, _leaf("__call__")),
        "a part's method replaced": (SDXL, _with_replaced("encode_token_weights")),
        "a part's encode replaced": (SDXL, _with_replaced("encode")),
        "a part's forward replaced": (PAIR, _with_replaced("forward")),
        "an object patch": (PAIR.each(_object_patch), encoded),
        "without it, after all": (PAIR.each(lambda clip: clip.clone()), encoded),
        "merged": (_merge(PAIR, Pair.of("stable_diffusion", "clip_l_other")), encoded),
        "merged of two files": (_merge(SDXL, SDXL), encoded),
    }
    found = {name: compared(pair, encode) for name, (pair, encode) in cases.items()}
    found["two clients"] = _two_clients()
    if LATER:
        pair = Pair.of("stable_diffusion", "qwen3")
        found["generated"] = _generated(pair)
    return found


def _unprojected(clip: Any) -> Any:
    with torch.inference_mode():
        return clip.encode_from_tokens_scheduled(clip.tokenize("a cat"), unprojected=True)


def _generated(pair: Pair) -> dict[str, Any]:
    texts = []
    for clip in (pair.stock, pair.remote):
        with torch.inference_mode():
            texts.append(clip.generate(clip.tokenize("a cat"), do_sample=True, max_length=6, seed=3))
    return {
        "equal": texts[0] == texts[1],
        "spread": float(len(texts[0])),
        "first": [float(each) for each in texts[0]],
    }


def memory_estimates() -> dict[str, list[int]]:
    """Return by the files of encoders that estimate their memory what is told here: [stock, remote]."""
    found = {}
    for choice, *names in [("ltxv", "gemma3", "ltxav_projection"), ("ace", "qwen3_ace", "qwen3_ace_lm")] * LATER:
        pair = Pair.of(choice, *names)
        tokens = pair.stock.tokenize("a cat")
        found[names[0]] = [
            int(clip.cond_stage_model.memory_estimation_function(tokens, device=torch.device("cpu")))
            for clip in (pair.stock, pair.remote)
        ]
    return found
