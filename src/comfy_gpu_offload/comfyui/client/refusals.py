"""Descriptions of patches and changes that cannot be sent to the worker: what, by which node, and what to do.

Each function makes an `Obstacle` for one kind. The node is found by the patch's own code (`changes.code_origin`),
because many nodes use the same names for their patches.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ...errors import Obstacle
from .changes import code_origin

# The error that lists obstacles ends with how to do this.
_RUN_HERE = "load the model here"
_BYPASS = f"Bypass the node, or {_RUN_HERE}."
_SPEED = "Bypass the node: it only saves time on a local GPU."
_CACHES = f"{_BYPASS} EasyCache and LazyCache work: they run here."
_GUIDANCE = (
    "Bypass the node, or use ComfyUI's own PerturbedAttentionGuidance or SkipLayerGuidance, which work, as does "
    "guidance that changes predictions (RescaleCFG, CFGZeroStar)."
)
_SHRINK = "Use ComfyUI's own PatchModelAddDownscale, which works."
_IMAGE_PROMPT = "Bypass the node, or use pictures in conditioning (unCLIP, Redux, reference latents), which work."
_CONTROL = "Bypass the node, or use a ControlNet file with Remote ControlNet Loader, which works."
_ATTENTION = "Bypass the node: the worker computes attention in its own way."
_GLOBAL = f"Bypass the node that does it, and restart ComfyUI if the change persists, or {_RUN_HERE}."
_CHANGE_ITSELF = "a node that changes the network itself"

# By a word with which a part of the name of a node's code begins, in lower case.
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
    "gligen": "Bypass the node, or use conditions with areas or masks, which work.",
    "controlnet": _CONTROL,
    "lllite": _CONTROL,
    "sage": _ATTENTION,
}
# Of these, the ones that hold for all nodes of a pack with that in its name. A pack's name says less than its
# code's: Advanced-ControlNet also patches attention without any ControlNet, and WaveSpeed does more than cache.
_WHOLE_PACKS = frozenset({"teacache", "magcache", "ipadapter", "pulid", "sage"})
# By the option's name in `transformer_options`, where that alone says what the patch is for.
_REMEDIES_BY_KEY: Mapping[str, str] = {"optimized_attention_override": _ATTENTION}
# The entries of `transformer_options` that ComfyUI calls as functions.
CODE = frozenset({"optimized_attention_override"})


def of_patch(what: str, name: str, patches: Iterable[Any]) -> Obstacle:
    """Describe one or several patches of the network with the same name.

    Args:
        what: the kind of patch, e.g. ``the block patch``.
        name: the key under which ComfyUI keeps them.
        patches: the functions or objects, which show whose they are.
    """
    nodes = _owners(patches) or "a node that patches the network"
    return Obstacle(f"{what} {name}", nodes, _REMEDIES_BY_KEY.get(name) or _remedy(nodes))


def is_code(name: str) -> bool:
    """Return whether the entry of `transformer_options` with that name is code."""
    return name in CODE


def of_option(what: str, value: Any) -> Obstacle:
    """Describe an entry of `transformer_options` that is an object and not plain data."""
    nodes = _owners([value]) or "a node that hands objects to the network"
    return Obstacle(what, nodes, _remedy(nodes))


def of_state(key: str) -> Obstacle:
    """Describe the entry of `transformer_options` in which a network keeps results for its next call."""
    return Obstacle(
        f"{key}: the model keeps its state from call to call there",
        "nodes for autoregressive video, Wan Animate 2",
        f"The state has to stay in one place: {_RUN_HERE}.",
    )


def of_guidance(function: Any) -> Obstacle:
    """Describe a guidance function that patches the network while it samples."""
    node = code_origin.name_of(function) or "a guidance node"
    return Obstacle(
        f"the guidance of {node}, which replaces attention or skips blocks while it samples", node, _GUIDANCE
    )


def of_object(name: str, value: Any) -> Obstacle:
    """Describe an object patch that replaces a part of the network.

    Args:
        name: the part's dotted path in ComfyUI's model.
        value: its replacement.
    """
    if name.startswith("manual_cast_dtype"):
        remedy = "Bypass the node, and choose weight_dtype in Remote Model Loader."
        return Obstacle(f"the object patch on {name}", "ModelComputeDtype", remedy)
    nodes = _owners([value]) or "a node that replaces a part of the network"
    return Obstacle(f"the object patch on {name}", nodes, _remedy(nodes))


def of_network(part: str, value: Any = None, by: str | None = None) -> Obstacle:
    """Describe a change that a node makes to the network itself, not by ComfyUI's patches.

    Args:
        part: the changed part, e.g. ``blocks.0.forward``.
        value: the part's new value, whose code may show whose it is.
        by: the code that made the change, if that is known.
    """
    nodes = by or _owners([value]) or _CHANGE_ITSELF
    return Obstacle(f"the change to the network's {part}", nodes, _remedy(nodes))


def of_composite(part: str, key: str, value: Any) -> Obstacle:
    """Describe the replacement of a method of an encoder's part, where the rest of the encoder cannot run here.

    Args:
        part: the method's dotted path.
        key: of a weight of the encoder that is in none of its parts.
        value: the replacement.
    """
    nodes = _owners([value]) or _CHANGE_ITSELF
    what = f"the change to the text encoder's {part}, around which {key} would be needed here"
    return Obstacle(what, nodes, _BYPASS)


def of_network_arguments(names: Iterable[str]) -> Obstacle:
    """Describe named arguments of a network's method that a node calls by itself."""
    nodes = code_origin.caller() or "a node that calls the network itself"
    return Obstacle(f"the network's arguments {', '.join(names)}", nodes, _BYPASS)


def of_code(name: str, value: Any) -> Obstacle:
    """Describe a replacement of ComfyUI's or torch's own code that was made while nodes ran.

    Args:
        name: the module or class and the name in it, e.g. ``Attention.forward``.
        value: the replacement.
    """
    nodes = _owners([value]) or _CHANGE_ITSELF
    return Obstacle(f"the change to the network's {name}, for every model in this ComfyUI", nodes, _GLOBAL)


def of_injection(name: str, injections: Iterable[Any]) -> Obstacle:
    """Describe code that is put into the network when it is loaded."""
    functions = [getattr(each, "inject", None) for each in injections]
    nodes = _owners(functions) or "bypass LoRA loaders, and nodes that put code into the network"
    return Obstacle(f"the injection {name!r}", nodes, f"Use a LoRA loader that patches weights, or {_RUN_HERE}.")


def of_hook(hook: Any) -> Obstacle:
    """Describe a hook that changes more than weights and options."""
    kind = type(hook).__name__
    nodes = code_origin.packs_name_of(type(hook)) or "a node that makes hooks of its own"
    return Obstacle(f"a hook of the kind {kind}, which changes the network", nodes, _BYPASS)


def of_weight_wrappers(wrappers: Mapping[str, Iterable[Any]]) -> Obstacle:
    """Describe functions that change weights as they are used."""
    nodes = _owners(function for each in wrappers.values() for function in each)
    return Obstacle("weight wrappers", nodes or "a node that changes weights as they are used", _BYPASS)


def of_transform(what: str) -> Obstacle:
    """Describe a call that torch would have to follow into the network."""
    return Obstacle(what, code_origin.caller() or "a sampler or guidance that differentiates the network", _BYPASS)


def _owners(values: Iterable[Any]) -> str:
    """Return the names of the nodes or packs whose code the values are, each once; empty if none is known."""
    names = dict.fromkeys(name for name in map(code_origin.name_of, values) if name is not None)
    return ", ".join(names)


def _remedy(nodes: str) -> str:
    """Return what to do about patches of `nodes`, a list of names like "pack: Class.method" or "Node"."""
    packs_and_code = [name.rpartition(": ")[::2] for name in nodes.split(", ")]
    fitting = (
        remedy
        for word, remedy in _REMEDIES.items()
        for pack, code in packs_and_code
        if _has_word(code, word) or (word in _WHOLE_PACKS and _has_word(pack, word))
    )
    return next(fitting, _BYPASS)


def _has_word(name: str, word: str) -> bool:
    """Return whether `word` is in `name` from the beginning of one of its parts on: "sage" is not in "Message"."""
    return any(
        found.start() == 0 or name[found.start()].isupper() or not name[found.start() - 1].isalpha()
        for found in re.finditer(word, name, re.IGNORECASE)
    )


HOOK_STRENGTH = Obstacle(
    "a hook's keyframe whose strength is no number",
    "a node that makes keyframes of its own",
    "Use Create Hook Keyframe or another of ComfyUI's own keyframe nodes.",
)
COMPILED = Obstacle(
    "torch.compile: the network is at the worker, and would have to be compiled there",
    "TorchCompileModel",
    "Bypass the node.",
)
# For weight patches of which nothing more is known.
LORA_NODES = "LoRA loaders"
HOOK_NODES = "Create Hook LoRA, Create Hook Model as LoRA"
LORA_REMEDY = "Remove that loader, or choose a file that was made for this model."
