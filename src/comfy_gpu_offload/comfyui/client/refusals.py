"""What to say of a patch that cannot travel: what it is, whose it is, and what to do; for messages only.

Whose it is, its own code tells (`origin`): many nodes use the same names for their patches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...errors import Obstacle
from .changes import code_origin

_BYPASS = "Bypass the node, or load the model here (use_runpod off)."
_SPEED = "Bypass the node: it only saves time on a GPU that is here."
_CACHES = "Bypass the node, or load the model here (use_runpod off). EasyCache and LazyCache work: they run here."
_GUIDANCE = (
    "Bypass the node; ComfyUI's own PerturbedAttentionGuidance and SkipLayerGuidance work, and guidance that "
    "changes predictions (RescaleCFG, CFGZeroStar)."
)
_SHRINK = "Use ComfyUI's own PatchModelAddDownscale, which works."
_IMAGE_PROMPT = "Bypass the node; pictures in conditioning (unCLIP, Redux, reference latents) travel."
_CONTROL = "Bypass the node; a ControlNet file of the model works with Remote ControlNet Loader."
_ATTENTION = "Bypass the node: attention is computed at the worker, in the worker's way."
_GLOBAL = (
    "Bypass the node that does it, and restart ComfyUI if it stays so, or load the model here (use_runpod off)."
)
_CHANGE_ITSELF = "a node that changes the network itself"

# By what the name of a node's code has in it, in lower case.
_REMEDIES: Mapping[str, str] = {
    "freeu": "Use ComfyUI's own FreeU or FreeU_V2, which work.",
    "deepshrink": _SHRINK,
    "deep_shrink": _SHRINK,
    "kohya": _SHRINK,
    "hypertile": _SPEED,
    "tomepatchmodel": _SPEED,
    "tomesd": _SPEED,
    "teacache": _CACHES,
    "magcache": _CACHES,
    "blockcache": _CACHES,
    "deepcache": _CACHES,
    "wavespeed": _CACHES,
    "ipadapter": _IMAGE_PROMPT,
    "pulid": _IMAGE_PROMPT,
    "usostylereference": _IMAGE_PROMPT,
    "selfattentionguidance": _GUIDANCE,
    "perturbed": _GUIDANCE,
    "guidance": _GUIDANCE,
    "gligen": "Bypass the node; conditions with areas and masks travel.",
    "controlnet": _CONTROL,
    "lllite": _CONTROL,
    "sage": _ATTENTION,
}
# By the name under which ComfyUI keeps a patch that says what it is for, whoever's it is.
_REMEDIES_BY_KEY: Mapping[str, str] = {"optimized_attention_override": _ATTENTION}
# The names that ComfyUI reads of `transformer_options` as code.
_CODE = frozenset({"optimized_attention_override"})


def of_patch(what: str, name: str, patches: Iterable[Any]) -> Obstacle:
    """Return what a patch, or several, of the network under that name are."""
    nodes = _owners(patches) or "a node that patches the network"
    return Obstacle(f"{what} {name}", nodes, _REMEDIES_BY_KEY.get(name) or _remedy(nodes))


def is_code(name: str) -> bool:
    """Return whether an entry of `transformer_options` under that name is code."""
    return name in _CODE


def of_option(what: str, value: Any) -> Obstacle:
    """Return what something in `transformer_options` is that is no data."""
    nodes = _owners([value]) or "a node that hands objects to the network"
    return Obstacle(what, nodes, _remedy(nodes))


def of_state(key: str) -> Obstacle:
    """Return what it is where a network keeps what it computed for its next call."""
    return Obstacle(
        f"{key}: the model keeps its state from call to call there",
        "nodes for autoregressive video, Wan Animate 2",
        "Load the model here (use_runpod off): the state has to stay in one place.",
    )


def of_guidance(function: Any) -> Obstacle:
    """Return what a guidance function is that patches the network only while it samples."""
    node = code_origin.name_of(function) or "a guidance node"
    return Obstacle(
        f"the guidance of {node}, which replaces attention or skips blocks while it samples", node, _GUIDANCE
    )


def of_object(name: str, value: Any) -> Obstacle:
    """Return what was put in the place of a part of the network by an object patch."""
    if name.startswith("manual_cast_dtype"):
        remedy = "Bypass the node, and choose weight_dtype in Remote Model Loader."
        return Obstacle(f"the object patch on {name}", "ModelComputeDtype", remedy)
    nodes = _owners([value]) or "a node that replaces a part of the network"
    return Obstacle(f"the object patch on {name}", nodes, _remedy(nodes))


def of_network(part: str, value: Any = None, by: str | None = None) -> Obstacle:
    """Return what a node changes of the network by itself, not by ComfyUI's patches.

    Args:
        value: what it puts there, whose code may name it.
        by: whose code did it, where that is known.
    """
    nodes = by or _owners([value]) or _CHANGE_ITSELF
    return Obstacle(f"the change to the network's {part}", nodes, _remedy(nodes))


def of_code(name: str, value: Any) -> Obstacle:
    """Return what has been put in the place of ComfyUI's or torch's own code while nodes ran."""
    nodes = _owners([value]) or _CHANGE_ITSELF
    return Obstacle(f"the change to the network's {name}, for every model in this ComfyUI", nodes, _GLOBAL)


def of_injection(name: str, injections: Iterable[Any]) -> Obstacle:
    """Return what code is that is put into the network when it is loaded."""
    functions = [getattr(each, "inject", None) for each in injections]
    nodes = _owners(functions) or "bypass LoRA loaders, and nodes that put code into the network"
    return Obstacle(
        f"the injection {name!r}", nodes, "Use a LoRA loader that patches weights, or load the model here."
    )


def of_hook(hook: Any) -> Obstacle:
    """Return what a hook is that changes more than weights and options."""
    kind = type(hook).__name__
    nodes = code_origin.packs_name_of(type(hook)) or "a node that makes hooks of its own"
    return Obstacle(f"a hook of the kind {kind}, which changes the network", nodes, _BYPASS)


def of_weight_wrappers(wrappers: Mapping[str, Iterable[Any]]) -> Obstacle:
    """Return what functions are that change weights as they are used."""
    nodes = _owners(function for each in wrappers.values() for function in each)
    return Obstacle("weight wrappers", nodes or "a node that changes weights as they are used", _BYPASS)


def of_transform(what: str) -> Obstacle:
    """Return what a call is that torch would have to follow into the network."""
    return Obstacle(what, code_origin.caller() or "a sampler or guidance that differentiates the network", _BYPASS)


def _owners(values: Iterable[Any]) -> str:
    names = dict.fromkeys(name for name in map(code_origin.name_of, values) if name is not None)
    return ", ".join(names)


def _remedy(nodes: str) -> str:
    lowered = nodes.lower()
    return next((remedy for word, remedy in _REMEDIES.items() if word in lowered), _BYPASS)


HOOK_STRENGTH = Obstacle(
    "a hook's keyframe whose strength is no number",
    "a node that makes keyframes of its own",
    "Use Create Hook Keyframe or one of its kin.",
)
COMPILED = Obstacle(
    "torch.compile: the network is at the worker, and would have to be compiled there",
    "TorchCompileModel",
    "Bypass the node.",
)
# Of weight patches, where nothing else is known.
LORA_NODES = "LoRA loaders"
HOOK_NODES = "Create Hook LoRA, Create Hook Model as LoRA"
LORA_REMEDY = "Remove that loader, or take a file that was made for this model."
