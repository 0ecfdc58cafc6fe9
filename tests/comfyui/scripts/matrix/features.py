"""The features of the matrix: patches of a model and further inputs, beside a plain KSampler."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.gligen
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import torch
from architecture import Architecture
from comfy_extras import nodes_lt as lt
from comfy_extras import nodes_model_advanced as advanced
from comfy_extras import nodes_pag as pag
from comfy_extras import nodes_slg as slg
from drawn import made
from small_models import random_weights

Patch = Callable[[Any], Any]


@dataclass(frozen=True)
class Run:
    """KSampler's inputs, made anew each time, and a patch of the model."""

    latent: Mapping[str, Any]
    positive: list[Any]
    negative: list[Any]
    patch: Patch = lambda model: model
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Feature:
    """A column of the matrix.

    Attributes:
        make: the run; None where the architecture has nothing of the kind.
        matters: whether it must change the result.
    """

    name: str
    make: Callable[[Architecture], Run | None]
    matters: bool = True


def condition(architecture: Architecture, seed: int, *, longer: int = 0, **further: Any) -> list[Any]:
    tokens, width = architecture.context
    context = torch.randn((1, tokens + longer, width), generator=torch.Generator().manual_seed(seed))
    return [context, made({**architecture.always, **further})]


def shapes_of(architecture: Architecture) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of a latent's parts."""
    first = architecture.latent[0]
    return architecture.latent if isinstance(first, tuple) else (architecture.latent,)  # type: ignore[return-value]


def latent(architecture: Architecture, fill: Callable[[tuple[int, ...]], torch.Tensor] = torch.zeros) -> Any:
    parts = [fill(shape) for shape in shapes_of(architecture)]
    if len(parts) == 1:
        return parts[0]
    return __import__("comfy.nested_tensor", fromlist=["NestedTensor"]).NestedTensor(parts)


def noise(shape: tuple[int, ...], seed: int = 3) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain(architecture: Architecture, patch: Patch = lambda model: model, **fields: Any) -> Run:
    return Run(
        {"samples": latent(architecture)},
        [condition(architecture, 10)],
        [condition(architecture, 20)],
        patch,
        fields,
    )


def is_unet(architecture: Architecture) -> bool:
    return "use_spatial_transformer" in architecture.model.sizes


def _is_spatial(architecture: Architecture) -> bool:
    return len(shapes_of(architecture)) == 1 and len(shapes_of(architecture)[0]) >= 4


def lora(architecture: Architecture) -> Run:
    return plain(architecture, with_lora)


def with_lora(model: Any, strength: float = 0.8) -> Any:
    """Put a LoRA on the first and last few matrices, by ComfyUI's own key map and loader."""
    shapes = {key: tensor.shape for key, tensor in model.model.state_dict().items()}
    known = comfy.lora.model_lora_keys_unet(model.model, {})
    names = {key: name for name, key in known.items() if isinstance(key, str) and len(shapes.get(key, ())) == 2}
    chosen = sorted(names)
    chosen = list(dict.fromkeys([*chosen[:3], *chosen[len(chosen) // 2 :][:3], *chosen[-3:]]))
    generator = torch.Generator().manual_seed(5)
    weights: dict[str, torch.Tensor] = {}
    for key in chosen:
        out, size = shapes[key]
        weights[f"{names[key]}.lora_up.weight"] = torch.randn(out, 2, generator=generator) * 0.3
        weights[f"{names[key]}.lora_down.weight"] = torch.randn(2, size, generator=generator) * 0.3
    patched, _ = comfy.sd.load_lora_for_models(model, None, weights, strength, 0)
    return patched


_SAMPLING: Mapping[str, Mapping[str, Any]] = {
    "ModelSamplingSD3": {"shift": 1.7},
    "ModelSamplingAuraFlow": {"shift": 1.3},
    "ModelSamplingFlux": {"max_shift": 1.3, "base_shift": 0.4, "width": 512, "height": 512},
    "ModelSamplingDiscrete": {"sampling": "v_prediction", "zsnr": True},
}


def by_node(node: Any, **inputs: Any) -> Patch:
    """Return a node's output, of the older kind or of the newer, whose classes run themselves."""
    if hasattr(node, "execute"):
        return lambda model: node.execute(model=model, **inputs).result[0]
    made_node = node()
    return lambda model: getattr(made_node, made_node.FUNCTION)(model, **inputs)[0]


def model_sampling(architecture: Architecture) -> Run:
    name = architecture.sampling
    return plain(architecture, by_node(getattr(advanced, name), **_SAMPLING[name]))


def guidance_function(architecture: Architecture) -> Run:
    return plain(architecture, by_node(advanced.RescaleCFG, multiplier=0.7))


def batch(architecture: Architecture) -> Run | None:
    first, *others = shapes_of(architecture)
    if others:
        return None
    wide = torch.zeros((2 * first[0], *first[1:]))
    return Run({"samples": wide}, [condition(architecture, 10)], [condition(architecture, 20)])


def mask(architecture: Architecture) -> Run:
    """Denoise by half, under a mask."""

    def half(shape: tuple[int, ...]) -> torch.Tensor:
        covered = torch.ones((shape[0], 1, *shape[2:]))
        covered[..., : shape[-1] // 2] = 0.0
        return covered

    run = plain(architecture)
    given = {"samples": latent(architecture, noise), "noise_mask": latent(architecture, half)}
    return Run(given, run.positive, run.negative, fields={"denoise": 0.7})


def _beside(further: Callable[[tuple[int, ...]], dict[str, Any]]) -> Callable[[Architecture], Run | None]:
    def make(architecture: Architecture) -> Run | None:
        if not _is_spatial(architecture):
            return None
        run = plain(architecture)
        second = condition(architecture, 30, **further(shapes_of(architecture)[0]))
        return Run(run.latent, [*run.positive, second], run.negative)

    return make


def times(architecture: Architecture) -> Run:
    run = plain(architecture)
    second = condition(architecture, 30, start_percent=0.0, end_percent=0.5)
    third = condition(architecture, 40, start_percent=0.4, end_percent=1.0)
    return Run(run.latent, [second, third], run.negative)


def lengths(architecture: Architecture) -> Run:
    run = plain(architecture)
    return Run(run.latent, [*run.positive, condition(architecture, 30, longer=5)], run.negative)


# As many as a UNet here can have.
_TRANSFORMERS = 40


def gligen(architecture: Architecture) -> Run | None:
    """Return a grounding of the smallest kind: one box."""
    width = getattr(comfy.supported_models, architecture.name).unet_config.get("model_channels")
    if (
        architecture.sampling != "ModelSamplingDiscrete"
        or "use_spatial_transformer" not in architecture.model.sizes
    ):
        return None
    size = architecture.context[1]
    grounding = comfy.gligen.Gligen(
        [comfy.gligen.GatedSelfAttentionDense(width, size, 8, width // 8)] * _TRANSFORMERS,
        comfy.gligen.PositionNet(in_dim=size, out_dim=size),
        size,
    )

    shapes = {key: tuple(tensor.shape) for key, tensor in grounding.state_dict().items()}
    grounding.load_state_dict(dict(random_weights(shapes)))
    device = comfy.model_management.get_torch_device()
    held = comfy.model_patcher.ModelPatcher(grounding, device, torch.device("cpu"))
    run = plain(architecture)
    options = {"gligen": ("position", held, [(noise((1, size)), 4, 4, 0, 0)])}
    return Run(run.latent, [[run.positive[0][0], {**run.positive[0][1], **options}]], run.negative)


def stock_patch(architecture: Architecture) -> Run:
    """Put ComfyUI's own patches into the network: PAG in UNets, STG in LTXAV, SkipLayerGuidance in others."""
    always = {"start_percent": 0.0, "end_percent": 1.0}
    if is_unet(architecture):
        return plain(architecture, by_node(pag.PerturbedAttentionGuidance, scale=3.0))
    if architecture.name == "LTXAV":
        return plain(architecture, by_node(lt.LTXVSpatioTemporalGuidance, scale=1.0, blocks="0", **always))
    layers = {"double_layers": "0", "single_layers": "0", **always}
    return plain(architecture, by_node(slg.SkipLayerGuidanceDiTSimple, **layers))


def inside(architecture: Architecture) -> Run:
    """Put code into the network that no stock node has."""

    def replaced(model: Any) -> Any:
        changed = model.clone()
        if is_unet(architecture):
            changed.set_model_output_block_patch(lambda h, hsp, options: (h, hsp))
        else:
            changed.set_model_patch_replace(
                lambda args, extra: extra["original_block"](args), "dit", "double_block", 0
            )
        return changed

    return plain(architecture, replaced)


def merge(architecture: Architecture) -> Run:
    """Merge the model with itself and a LoRA on the second, by ComfyUI's nodes, on the LoRA's weights.

    Of all weights it would take three copies of the largest models.
    """

    def merged(model: Any) -> Any:
        second, changed = with_lora(model), model.clone()
        weights = second.get_key_patches("diffusion_model.")
        for key in second.patches:
            changed.add_patches({key: weights[key]}, 0.4, 0.6)
        return changed

    return plain(architecture, merged)


def _area(shape: tuple[int, ...]) -> dict[str, Any]:
    height, width = shape[-2:]
    return {"area": (height // 2, width // 2, 0, width // 2), "strength": 0.8}


def _mask(shape: tuple[int, ...]) -> dict[str, Any]:
    covered = torch.zeros((1, *shape[-2:]))
    covered[..., : shape[-2] // 2, :] = 1.0
    return {"mask": covered, "mask_strength": 0.6, "set_area_to_bounds": False}


FEATURES = (
    Feature("KSampler", plain, matters=False),
    Feature("LoRA", lora),
    Feature("merge", merge),
    Feature("model sampling node", model_sampling),
    Feature("RescaleCFG", guidance_function),
    Feature("batch", batch),
    Feature("inpaint mask", mask),
    Feature("area", _beside(_area)),
    Feature("masked region", _beside(_mask)),
    Feature("time ranges", times),
    Feature("two lengths", lengths),
    Feature("GLIGEN", gligen),
    Feature("PAG, STG, SkipLayerGuidance", stock_patch),
    Feature("other code in the network", inside, matters=False),
)


def own_features(architecture: Architecture) -> Iterator[Feature]:
    """Return the further conditioning that the architecture may have."""
    for name, options in architecture.own.items():

        def make(of: Architecture, options: Mapping[str, Any] = options) -> Run:
            fields = {name: value for name, value in options.items() if name == "cfg"}
            given = {name: value for name, value in options.items() if name not in {"cfg", "context"}}
            of = replace(of, context=options.get("context", of.context))
            sides = [[condition(of, seed, **given)] for seed in (10, 20)]
            return Run(plain(of).latent, *sides, fields=fields)

        yield Feature(name, make)
