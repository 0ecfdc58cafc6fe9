"""A custom node pack for tests: what a text encoder, an empty-latent node and a saver would give, exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.samplers
import folder_paths
import torch
from aiohttp import web
from safetensors.torch import save_file

from server import PromptServer

from .stand_ins import OffloadTestTextEncoder, OffloadTestVAE

_ANY_INT = {"min": 0, "max": 2**31 - 1}


def _random(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class OffloadTestConditioning:
    """Seeded random conditioning: context ``[1, tokens, width]``, pooled ``[1, pooled]`` where above 0.

    `extra` is JSON, merged into the conditioning's dict; ``{"ones": [1, 8]}`` is an int64 tensor of ones.
    """

    CATEGORY = "testing"
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "seed": ("INT", {"default": 0, **_ANY_INT}),
                "tokens": ("INT", {"default": 8, **_ANY_INT}),
                "width": ("INT", {"default": 64, **_ANY_INT}),
                "pooled": ("INT", {"default": 0, **_ANY_INT}),
                "extra": ("STRING", {"default": "{}"}),
            }
        }

    def make(self, seed: int, tokens: int, width: int, pooled: int, extra: str) -> tuple[Any]:
        values = {name: _extra(value) for name, value in json.loads(extra).items()}
        if pooled:
            values["pooled_output"] = _random((1, pooled), seed + 1)
        return ([[_random((1, tokens, width), seed), values]],)


def _extra(value: Any) -> Any:
    if isinstance(value, dict):
        return torch.ones(value["ones"], dtype=torch.int64)
    return value


class OffloadTestLatent:
    """A latent of any shape: seeded random values, or zeros where the seed is 0."""

    CATEGORY = "testing"
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "shape": ("STRING", {"default": "1,16,8,8"}),
                "seed": ("INT", {"default": 0, **_ANY_INT}),
            }
        }

    def make(self, shape: str, seed: int) -> tuple[Any]:
        sizes = tuple(int(size) for size in shape.split(","))
        return ({"samples": _random(sizes, seed) if seed else torch.zeros(sizes)},)


class OffloadTestImage:
    """Seeded random pixels ``[count, height, width, 3]``, as those of a file: 255ths."""

    CATEGORY = "testing"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "seed": ("INT", {"default": 0, **_ANY_INT}),
                "count": ("INT", {"default": 1, **_ANY_INT}),
                "height": ("INT", {"default": 64, **_ANY_INT}),
                "width": ("INT", {"default": 64, **_ANY_INT}),
            }
        }

    def make(self, seed: int, count: int, height: int, width: int) -> tuple[Any]:
        generator = torch.Generator().manual_seed(seed)
        return (torch.randint(0, 256, (count, height, width, 3), generator=generator).float() / 255.0,)


class OffloadTestSaveLatent:
    """Writes a LATENT's tensor to ``<output folder>/<name>.safetensors``, as it is."""

    CATEGORY = "testing"
    RETURN_TYPES = ()
    FUNCTION = "save"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"latent": ("LATENT",), "name": ("STRING", {"default": "latent"})}}

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:
        """Never equal to itself: ComfyUI would not write a latent again that it has written before."""
        return float("nan")

    def save(self, latent: dict[str, Any], name: str) -> dict[str, Any]:
        samples = latent["samples"].detach().cpu().contiguous()
        save_file({"samples": samples}, Path(folder_paths.get_output_directory()) / f"{name}.safetensors")
        return {}


class OffloadTestSaveImage:
    """Writes an IMAGE to ``<output folder>/<name>.safetensors``, as it is."""

    CATEGORY = "testing"
    RETURN_TYPES = ()
    FUNCTION = "save"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",), "name": ("STRING", {"default": "image"})}}

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:
        """Never equal to itself, as `OffloadTestSaveLatent.IS_CHANGED`."""
        return float("nan")

    def save(self, image: torch.Tensor, name: str) -> dict[str, Any]:
        return OffloadTestSaveLatent().save({"samples": image}, name)


class OffloadTestSamplerName:
    """A sampler's name, from an output whose type is the list of names."""

    CATEGORY = "testing"
    RETURN_TYPES = (comfy.samplers.KSampler.SAMPLERS,)
    FUNCTION = "give"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"sampler_name": (comfy.samplers.KSampler.SAMPLERS,)}}

    def give(self, sampler_name: str) -> tuple[str]:
        return (sampler_name,)


class OffloadTestSeveralLists:
    """Several combos that are filled from the worker, before, between and behind others: a text encoder's, say."""

    CATEGORY = "testing"
    RETURN_TYPES = ()
    FUNCTION = "show"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "first": ("COMBO", {"options": [], "worker_list": "models"}),
                "strength": ("FLOAT", {"default": 1.0}),
                "second": ("COMBO", {"options": [], "worker_list": "models"}),
                "net": ("COMBO", {"options": [], "worker_list": "control_nets"}),
                "kind": (["one", "other"],),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, first: str, second: str, net: str) -> bool:
        return True

    def show(self, **inputs: Any) -> dict[str, Any]:
        return {"ui": {"given": [inputs]}}


class _CountedLooks:
    """Stands where ComfyUI's question after the stop button stood, asks it, and counts how often it was asked."""

    def __init__(self) -> None:
        self._ask = comfy.model_management.throw_exception_if_processing_interrupted
        self.count = 0

    def __call__(self) -> None:
        self.count += 1
        self._ask()


_looks = _CountedLooks()
comfy.model_management.throw_exception_if_processing_interrupted = _looks


@PromptServer.instance.routes.get("/offload_test/looks")
async def looks(_: web.Request) -> web.Response:
    """Return how often anything has looked for the stop button so far."""
    return web.json_response(_looks.count)


NODE_CLASS_MAPPINGS = {
    node.__name__: node
    for node in (
        OffloadTestConditioning,
        OffloadTestImage,
        OffloadTestLatent,
        OffloadTestSamplerName,
        OffloadTestSaveImage,
        OffloadTestSaveLatent,
        OffloadTestSeveralLists,
        OffloadTestTextEncoder,
        OffloadTestVAE,
    )
}
