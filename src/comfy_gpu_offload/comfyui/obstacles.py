"""Which nodes usually put a patch there that cannot travel, and what to do instead; for messages only."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import Obstacle

_BYPASS = "Bypass the node, or load the model here (use_runpod off)."
_SPEED = "Bypass the node: it only saves time on a GPU that is here."
_GUIDANCE = (
    "Bypass the node; ComfyUI's own PerturbedAttentionGuidance and SkipLayerGuidance work, and guidance that "
    "changes predictions (RescaleCFG, CFGZeroStar)."
)
_SHRINK = (
    "Deep Shrink of a node pack",
    "Use ComfyUI's own PatchModelAddDownscale, which works.",
)
_IMAGE_PROMPT = "Bypass the node; pictures in conditioning (unCLIP, Redux, reference latents) travel."
_CONTROL = "Bypass the node; a ControlNet file of the model works with Remote ControlNet Loader."

# By the name under which ComfyUI keeps the patch.
_KNOWN: Mapping[str, tuple[str, str]] = {
    "output_block_patch": ("FreeU of a node pack", "Use ComfyUI's own FreeU or FreeU_V2, which work."),
    "input_block_patch": _SHRINK,
    "input_block_patch_after_skip": _SHRINK,
    "attn1_patch": ("HyperTile, ToMe", _SPEED),
    "attn2_patch": ("IPAdapter, regional prompting", f"{_IMAGE_PROMPT} So do conditions with areas and masks."),
    "attn1_output_patch": ("ToMe, HyperTile", _SPEED),
    "attn2_output_patch": ("ToMe", _SPEED),
    "attn1": ("Self-Attention Guidance, Perturbed-Attention Guidance of a node pack", _GUIDANCE),
    "attn2": ("IPAdapter", _IMAGE_PROMPT),
    "dit": ("IPAdapter for DiT models, SkipLayerGuidance of a node pack", _GUIDANCE),
    "middle_patch": ("GLIGENTextBoxApply", "Bypass the node; conditions with areas and masks travel."),
    "double_block": ("Union ControlNet model patches", _CONTROL),
    "noise_refiner": ("Union ControlNet model patches", _CONTROL),
    "post_input": ("USO style reference, Flux KV cache", _IMAGE_PROMPT),
    "mlp_patch": ("Anima LLLite", _CONTROL),
    "optimized_attention_override": (
        "SageAttention and other attention overrides",
        "Bypass the node: attention is computed at the worker, in the worker's way.",
    ),
}


def of_patch(what: str, name: str) -> Obstacle:
    """A patch of the network under that name."""
    nodes, remedy = _KNOWN.get(name, ("a node that patches the network", _BYPASS))
    return Obstacle(f"{what} {name}", nodes, remedy)


def is_known(name: str) -> bool:
    """Whether nodes are known that use this name."""
    return name in _KNOWN


def of_option(what: str) -> Obstacle:
    """Something in `transformer_options` that is no data."""
    return Obstacle(what, "a node that hands objects to the network", _BYPASS)


def of_state(key: str) -> Obstacle:
    """Where a network keeps what it computed for its next call."""
    return Obstacle(
        f"{key}: the model keeps its state from call to call there",
        "nodes for autoregressive video, Wan Animate 2",
        "Load the model here (use_runpod off): the state has to stay in one place.",
    )


def of_guidance(node: str) -> Obstacle:
    """A guidance function that patches the network only while it samples."""
    return Obstacle(
        f"the guidance of {node}, which replaces attention or skips blocks while it samples", node, _GUIDANCE
    )


def of_object(name: str) -> Obstacle:
    """Something put in the place of a part of the network."""
    if name.startswith("manual_cast_dtype"):
        remedy = "Bypass the node, and choose weight_dtype in Remote Model Loader."
        return Obstacle(f"the object patch on {name}", "ModelComputeDtype", remedy)
    return Obstacle(f"the object patch on {name}", "a node that replaces a part of the network", _BYPASS)


def of_network(part: str) -> Obstacle:
    """Something that a node puts into the network by itself, not by ComfyUI's patches."""
    return Obstacle(
        f"the change to the network's {part}",
        "TeaCache, First Block Cache and others that put their own code into a network",
        "Bypass the node, or load the model here (use_runpod off). EasyCache and LazyCache work: they run here.",
    )


def of_injection(name: str) -> Obstacle:
    """Code that is put into the network when it is loaded."""
    nodes = "bypass LoRA loaders, and nodes that put code into the network"
    return Obstacle(
        f"the injection {name!r}", nodes, "Use a LoRA loader that patches weights, or load the model here."
    )


def of_hook(kind: str) -> Obstacle:
    """A hook that changes more than weights and options."""
    what = f"a hook of the kind {kind}, which changes the network"
    return Obstacle(what, "a node that makes hooks of its own", _BYPASS)


HOOK_STRENGTH = Obstacle(
    "a hook's keyframe whose strength is no number",
    "a node that makes keyframes of its own",
    "Use Create Hook Keyframe or one of its kin.",
)
WEIGHT_WRAPPERS = Obstacle("weight wrappers", "a node that changes weights as they are used", _BYPASS)
COMPILED = Obstacle(
    "torch.compile: the network is at the worker, and would have to be compiled there",
    "TorchCompileModel",
    "Bypass the node.",
)
# Of weight patches, where nothing else is known.
LORA_NODES = "LoRA loaders"
HOOK_NODES = "Create Hook LoRA, Create Hook Model as LoRA"
LORA_REMEDY = "Remove that loader, or take a file that was made for this model."
