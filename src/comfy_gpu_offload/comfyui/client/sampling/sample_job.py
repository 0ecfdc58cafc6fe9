"""The conversion of KSampler's inputs to a sampling job for a worker, and the reasons why a run has none.

All data can be sent. Code that would run in the sampling loop cannot: such a run is left to each-step mode, in
which the loop runs here and the code works. The rules for the network itself are those of `travel_policy`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import comfy.extra_samplers.uni_pc
import comfy.k_diffusion.sampling
import comfy.sample
import comfy.samplers
import torch

from ....errors import UnsupportedValueError
from ....io.tree import pack
from ...wire import model_sampling, stock_guidance
from ...wire.plain_values import to_plain
from .. import remote_control_net
from ..changes import code_origin
from ..remote_control_net import ControlTable
from ..remote_state import record_of
from ..travel_policy import objects_kept_here, options_to_send, refused_patches

_RATIOS = ("downscale_ratio_spacial", "downscale_ratio_temporal")
# The samplers whose function ComfyUI does not find by their name: `comfy.samplers.sampler_object`.
_SPECIAL_SAMPLERS: Mapping[str, Any] = {
    "ddim": comfy.k_diffusion.sampling.sample_euler,
    "uni_pc": comfy.extra_samplers.uni_pc.sample_unipc,
    "uni_pc_bh2": comfy.extra_samplers.uni_pc.sample_unipc_bh2,
}
_STOCK_MODULES = frozenset(
    module.__name__ for module in (comfy.samplers, comfy.k_diffusion.sampling, comfy.extra_samplers.uni_pc)
)
# Entries of a condition that keep a run here, with the nodes that usually add them, for the message.
_IN_CONDITIONING = {
    "hooks": "hooks (Cond Pair Set Props, Create Hook LoRA)",
    "gligen": "GLIGEN (GLIGENTextBoxApply)",
    "additional_models": "a second model",
}
_WRAPPER_NODES = {
    "easycache": "EasyCache",
    "lazycache": "LazyCache",
    "ContextWindows_prepare_sampling": "Context Windows",
    "ContextWindows_sampler_sample": "Context Windows",
}
_OPTION_NODES = {"context_handler": "Context Windows"}


def whole_loop_obstacle(
    patcher: Any, positive: Any, negative: Any, latent: Mapping[str, Any], *, sampler_name: str, scheduler: str
) -> str | None:
    """Return the first reason why a run cannot go to the worker as a whole, as a noun phrase; None if it can.

    Args:
        patcher: the remote model's patcher.
        positive: the positive conditioning, as ComfyUI passes it: pairs of a tensor and options.
        negative: the negative conditioning.
        latent: ComfyUI's LATENT.
        sampler_name: KSampler's.
        scheduler: KSampler's.
    """
    conditioning = {"positive": positive, "negative": negative}
    found = chain(
        (obstacle.summary for obstacle in refused_patches(patcher)),
        _of_names(sampler_name, scheduler),
        _of_loop(patcher),
        _of_options(patcher.model_options),
        _of_objects(patcher),
        changes_of_model(patcher),
        *(_of_conditioning(side, conditions) for side, conditions in conditioning.items()),
        _of_latent(latent),
    )
    return next(found, None)


def job_tree(
    patcher: Any,
    positive: Any,
    negative: Any,
    latent: Mapping[str, Any],
    *,
    noise: Any = None,
    sigmas: torch.Tensor | None = None,
) -> dict[str, Any]:
    """Return the tree of a run's `SampleJob`. Call it only if `whole_loop_obstacle` finds nothing.

    Args:
        patcher: the remote model's patcher.
        positive: the positive conditioning, as ComfyUI passes it.
        negative: the negative conditioning.
        latent: ComfyUI's LATENT; its samples are [B, C, …, H, W].
        noise: of the latent's shape, to sample from instead of the seed's noise.
        sigmas: [steps + 1], instead of the scheduler's.

    Raises:
        UnsupportedValueError: a value in it cannot be sent.
    """
    tree: dict[str, Any] = {
        "latent": fitted(patcher, latent),
    }
    controls = ControlTable(tree["latent"])
    tree |= {"positive": _conditioning(positive, controls), "negative": _conditioning(negative, controls)}
    further = {"noise": noise, "sigmas": sigmas, "noise_mask": latent.get("noise_mask")}
    further |= {"control_nets": controls.entries or None}
    tree |= {name: value for name, value in further.items() if value is not None}
    if "batch_index" in latent:
        tree["batch_index"] = [int(index) for index in latent["batch_index"]]
    if "model_sampling" in patcher.object_patches:
        tree["model_sampling"] = model_sampling.describe_sampling(patcher.object_patches["model_sampling"])
    if options := _options(patcher.model_options):
        tree["model_options"] = options
    return {name: to_plain(value) for name, value in tree.items()}


def fitted(patcher: Any, latent: Mapping[str, Any]) -> Any:
    """Return a LATENT's samples as `common_ksampler` passes them on.

    Empty ones get the model's number of channels and its ratio of pixels to latents.
    """
    ratios = {name: latent.get(name) for name in ratio_keys()}
    return comfy.sample.fix_empty_latent_channels(patcher, latent["samples"], **ratios)


def ratio_keys() -> tuple[str, ...]:
    """Return the keys by which an empty LATENT can be made to fit a model; `common_ksampler` drops them then."""
    known = inspect.signature(comfy.sample.fix_empty_latent_channels).parameters  # older releases have none
    return tuple(name for name in _RATIOS if name in known)


def _of_names(sampler_name: str, scheduler: str) -> Iterator[str]:
    if not _is_stock(_sampler_function(sampler_name)):
        yield f"the sampler {sampler_name}, which is a node pack's own and not ComfyUI's"
    handler = comfy.samplers.SCHEDULER_HANDLERS.get(scheduler)
    if handler is None or not _is_stock(handler.handler):
        yield f"the scheduler {scheduler}, which is a node pack's own and not ComfyUI's"


def _sampler_function(name: str) -> Any:
    if name in _SPECIAL_SAMPLERS:
        return _SPECIAL_SAMPLERS[name]
    return getattr(comfy.k_diffusion.sampling, f"sample_{name}", None)


def _is_stock(function: Any) -> bool:
    """Return whether a function is ComfyUI's own: packs add theirs to its lists, and replace some of its."""
    return code_origin.module_of(function) in _STOCK_MODULES and code_origin.packs_name_of(function) is None


def _of_loop(patcher: Any) -> Iterator[str]:
    options = patcher.model_options.get("transformer_options", {})
    for kind in ("wrappers", "callbacks"):
        for found in (getattr(patcher, kind, {}), options.get(kind, {})):
            yield from _of_functions(kind.removesuffix("s"), found)
    for key in sorted(objects_kept_here(options)):
        yield f"the object {key} in transformer_options ({_owner(options[key])}), for code in the sampling loop"
    if getattr(patcher, "additional_models", None):
        yield f"a second model that goes with this one ({', '.join(map(str, patcher.additional_models))})"


def _of_functions(kind: str, found: Mapping[str, Mapping[Any, list[Any]]]) -> Iterator[str]:
    """Yield one message for each key of wrappers or callbacks, which ComfyUI keeps by place and by key."""
    for where, by_key in found.items():
        for key, functions in by_key.items():
            if functions:
                owner = _owner(functions[0])
                node = _WRAPPER_NODES.get(key) or (owner if key is None else f"{key} ({owner})")
                yield f"{node}, whose {where} {kind} runs in the sampling loop"


def _of_options(model_options: Mapping[str, Any]) -> Iterator[str]:
    for key, value in model_options.items():
        if key == "transformer_options" or _is_data(value) or stock_guidance.describe_guidance(key, value):
            continue
        functions = value if isinstance(value, list) else [value]
        node = _OPTION_NODES.get(key) or next((_owner(each) for each in functions if not _is_data(each)), key)
        yield f"{node}, whose {key} runs in the sampling loop"


def _of_objects(patcher: Any) -> Iterator[str]:
    for name, value in patcher.object_patches.items():
        if name != "model_sampling":
            yield f"the object patch on {name} (a {type(value).__name__})"
            continue
        try:
            model_sampling.describe_sampling(value)
        except UnsupportedValueError as error:
            yield f"the model's sampling, a {error.kind}: {error.why}"


def changes_of_model(patcher: Any) -> Iterator[str]:
    """Yield a node's changes to the model outside of its network.

    They have their effect in a loop that runs here, as for a local model, but not at the worker.
    """
    network, state = patcher.model.diffusion_model, record_of(patcher.model).as_loaded
    hooks = [*network._forward_pre_hooks.values(), *network._forward_hooks.values()]
    if hooks:
        yield f"a hook of {_owner(hooks[0])}, which runs around each call of the network"
    changed = state.changed(patcher.object_patches_backup)
    if changed is not None:
        by = code_origin.name_of(changed.value) or "a node that changes the model itself"
        yield f"the change to the model's {changed.part} ({by}), which works in the sampling loop"


def _of_conditioning(side: str, conditioning: Any) -> Iterator[str]:
    for _, options in conditioning:
        for key, what in _IN_CONDITIONING.items():
            if options.get(key) is not None:
                yield f"{what} in the {side} conditioning"
        obstacle = remote_control_net.whole_loop_obstacle(options.get("control"), options)
        if obstacle is not None:
            yield f"{obstacle} in the {side} conditioning"
    others = [
        (tensor, {key: options[key] for key in options if key != "control"}) for tensor, options in conditioning
    ]
    yield from _unless_data({f"the {side} conditioning": to_plain(_conditioning(others))})


def _of_latent(latent: Mapping[str, Any]) -> Iterator[str]:
    parts = {name: latent.get(name) for name in ("samples", "noise_mask")}
    yield from _unless_data({f"the latent's {name}": to_plain(part) for name, part in parts.items()})


def _unless_data(parts: Mapping[str, Any]) -> Iterator[str]:
    for name, value in parts.items():
        try:
            pack(value, name)
        except UnsupportedValueError as error:
            yield f"{error.path} is a {error.kind}: {error.why}"


def _is_data(value: Any) -> bool:
    return not any(_unless_data({"value": value}))


def _owner(function: Any) -> str:
    """Return the node or pack whose code a function is; its type's name if that is unknown."""
    return code_origin.name_of(function) or type(function).__name__


def _conditioning(conditioning: Any, controls: ControlTable | None = None) -> list[Any]:
    """Return conditioning as lists, with ControlNets by their index in `controls`, to which they are added."""

    def to_send(options: Mapping[str, Any]) -> dict[str, Any]:
        control = options.get("control")
        if controls is None or control is None:
            return dict(options)
        return {**options, "control": controls.place(control)}

    return [[tensor, to_send(options)] for tensor, options in conditioning]


def _options(model_options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a patcher's `model_options` as data, stock guidance functions among them by name."""
    inner = options_to_send(model_options.get("transformer_options", {}))
    others = {key: value for key, value in model_options.items() if key != "transformer_options"}
    options = {key: stock_guidance.describe_guidance(key, value) or value for key, value in others.items()}
    return {**options, "transformer_options": inner} if inner else options
