"""Changes that node packs make to a network by themselves, in the smallest form, for changed_network.py."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn.utils import parametrize

# Does something to a model as a node's function; what it leaves in ComfyUI is taken back when the stack ends.
Change = Callable[[Any, ExitStack], Any]


def _network(model: Any) -> Any:
    return model.model.diffusion_model


def _parts(model: Any, *ending: str) -> Iterator[Any]:
    """Return the parts whose class's name ends so, found as a pack finds them."""
    yield from (part for part in _network(model).modules() if type(part).__name__.endswith(ending))


def _attention(model: Any) -> Any:
    return next(_parts(model, "SelfAttention", "CrossAttention"))


def _linear(model: Any) -> Any:
    return next(part for part in _attention(model).modules() if isinstance(part, nn.Linear))


def _nothing(*args: Any, **_: Any) -> Any:
    return args[1] * 0


def mark_then_forward(model: Any, _: ExitStack) -> Any:
    network = _network(model)
    if not hasattr(network, "_pack_patched"):
        network._pack_patched = True
        network.forward = _nothing.__get__(network)
    return model


def mark_on_a_part(model: Any, _: ExitStack) -> Any:
    network = _network(model)
    part = _attention(model)
    if not hasattr(part, "_pack_patched"):
        part._pack_patched = True
        network.forward = _nothing.__get__(network)
    return model


def mark_then_weight(model: Any, _: ExitStack) -> Any:
    part = _linear(model)
    if not hasattr(part, "_pack_patched"):
        part._pack_patched = True
        part.weight.mul_(2)
    return model


def mark_on_the_class(model: Any, stack: ExitStack) -> Any:
    kind = _network(model).__class__
    if not hasattr(kind, "_pack_patched"):
        kind._pack_patched = True
        stack.callback(delattr, kind, "_pack_patched")
        _attention(model).forward = lambda x, *_, **__: x * 0
    return model


def a_refusal_that_is_swallowed(model: Any, _: ExitStack) -> Any:
    network = _network(model)
    try:
        network.forward = _nothing.__get__(network)
    except Exception:
        return model
    return model


def a_deleted_attribute(model: Any, _: ExitStack) -> Any:
    del next(_parts(model, "Norm")).eps
    return model


def parameter_replaced(model: Any, _: ExitStack) -> Any:
    part = _linear(model)
    part.weight = nn.Parameter(torch.zeros(part.weight.shape, dtype=part.weight.dtype), requires_grad=False)
    return model


def _around_each_call(model: Any, before: Callable[[], Any], after: Callable[[], Any]) -> Any:
    def wrapper(function: Any, given: dict[str, Any]) -> Any:
        before()
        try:
            return function(given["input"], given["timestep"], **given["c"])
        finally:
            after()

    model.set_model_unet_function_wrapper(wrapper)
    return model


def parameter_for_a_call(model: Any, _: ExitStack) -> Any:
    part = _linear(model)
    own, other = part.weight, nn.Parameter(torch.zeros(part.weight.shape, dtype=part.weight.dtype), False)
    return _around_each_call(model, lambda: setattr(part, "weight", other), lambda: setattr(part, "weight", own))


def weight_in_place_for_a_call(model: Any, _: ExitStack) -> Any:
    part = _linear(model)
    return _around_each_call(model, lambda: part.weight.mul_(2), lambda: part.weight.div_(2))


def weight_in_place_around_the_run(model: Any, _: ExitStack) -> Any:
    part = _linear(model)

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        part.weight.mul_(2)
        try:
            return executor(*args, **kwargs)
        finally:
            part.weight.div_(2)

    model.add_wrapper_with_key("outer_sample", "pack", wrapper)
    return model


def data_of_a_weight(model: Any, _: ExitStack) -> Any:
    _linear(model).weight.data.mul_(2)
    return model


def data_for_a_call(model: Any, _: ExitStack) -> Any:
    part = _linear(model)
    return _around_each_call(model, lambda: part.weight.data.mul_(2), lambda: part.weight.data.div_(2))


class _Doubled(nn.Module):
    def forward(self, weight: Any) -> Any:
        return weight * 2


def parametrization(model: Any, _: ExitStack) -> Any:
    parametrize.register_parametrization(_linear(model), "weight", _Doubled(), unsafe=True)
    return model


def class_of_a_part(model: Any, _: ExitStack) -> Any:
    part = _attention(model)

    class Quiet(type(part)):  # type: ignore[misc]
        def forward(self, x: Any, *_: Any, **__: Any) -> Any:
            return x * 0

    part.__class__ = Quiet
    return model


def class_of_the_network(model: Any, _: ExitStack) -> Any:
    network = _network(model)

    class Quiet(network.__class__):  # type: ignore[misc]
        forward = _nothing

    network.__class__ = Quiet
    return model


def eps_of_the_norms(model: Any, _: ExitStack) -> Any:
    for part in _network(model).modules():
        if hasattr(part, "eps"):
            part.eps = 10.0
    return model


def norms_found_by_children(model: Any, _: ExitStack) -> Any:
    """Find norms as Advanced-ControlNet's Reference finds those that it replaces."""

    def walk(module: Any) -> int:
        found = 0
        for child in module.children():
            if "Norm" in type(child).__name__:
                child.forward = lambda x, *_, **__: x * 0
                found += 1
            found += walk(child)
        return found

    assert walk(_network(model)), "no norms to be found"
    return model


def norms_found_by_modules_dict(model: Any, _: ExitStack) -> Any:
    def walk(module: Any) -> None:
        for name, child in module._modules.items():
            if child is not None and "Norm" in type(child).__name__:
                module._modules[name] = nn.Identity()
            elif child is not None:
                walk(child)

    walk(_network(model))
    return model


def by_apply(model: Any, _: ExitStack) -> Any:
    def quiet(part: Any) -> None:
        if "Norm" in type(part).__name__:
            part.eps = 10.0

    _network(model).apply(quiet)
    return model


def by_its_class(model: Any, _: ExitStack) -> Any:
    """Change a network of a known class alone, as RES4LYF's re-patchers do."""
    network = _network(model)
    wan, unet = (getattr(sys.modules.get(module), kind, ()) for module, kind in _KINDS)
    if isinstance(network, wan) or network.__class__.__name__ == "UNetModel" or isinstance(network, unet):
        for part in _parts(model, "SelfAttention", "CrossAttention"):
            part.forward = lambda x, *_, **__: x * 0
    return model


_KINDS = (
    ("comfy.ldm.wan.model", "WanModel"),
    ("comfy.ldm.modules.diffusionmodules.openaimodel", "UNetModel"),
)


def _module_of(part: Any) -> Any:
    return sys.modules[type(part).__module__]


def _replace(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    stack.enter_context(mock.patch.object(owner, name, value))


def global_of_a_module(model: Any, stack: ExitStack) -> Any:
    module = _module_of(_attention(model))
    own = module.optimized_attention
    _replace(stack, module, "optimized_attention", lambda *args, **kwargs: own(*args, **kwargs) * 0)
    return model


def global_for_a_call(model: Any, stack: ExitStack) -> Any:
    module = _module_of(_attention(model))
    own = module.optimized_attention

    def wrapper(function: Any, given: dict[str, Any]) -> Any:
        with mock.patch.object(module, "optimized_attention", lambda *args, **kwargs: own(*args, **kwargs) * 0):
            return function(given["input"], given["timestep"], **given["c"])

    model.set_model_unet_function_wrapper(wrapper)
    return model


def method_behind_wraps(model: Any, stack: ExitStack) -> Any:
    kind = type(_attention(model))
    own = kind.forward

    @functools.wraps(own)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return own(*args, **kwargs) * 0

    _replace(stack, kind, "forward", forward)
    return model


def method_of_torch(model: Any, stack: ExitStack) -> Any:
    own = nn.SiLU.forward
    _replace(stack, nn.SiLU, "forward", functools.wraps(own)(lambda *args: own(*args) * 2))
    return model


def function_of_torch(model: Any, stack: ExitStack) -> Any:
    own = nn.functional.linear
    _replace(stack, nn.functional, "linear", lambda *args, **kwargs: own(*args, **kwargs) * 2)
    return model


def derivative(model: Any, _: ExitStack) -> Any:
    def wrapper(function: Any, given: dict[str, Any]) -> Any:
        def network(x: Any) -> Any:
            return function(x, given["timestep"], **given["c"])

        x = given["input"].clone()
        return torch.func.jvp(network, (x,), (torch.ones_like(x),))[1]

    model.set_model_unet_function_wrapper(wrapper)
    return model


def gradient(model: Any, _: ExitStack) -> Any:
    def wrapper(function: Any, given: dict[str, Any]) -> Any:
        with torch.inference_mode(False), torch.enable_grad():
            x = given["input"].clone().requires_grad_()
            conds = {
                key: each.clone() if isinstance(each, torch.Tensor) else each for key, each in given["c"].items()
            }
            out = function(x, given["timestep"].clone(), **conds)
            (found,) = torch.autograd.grad((out + x).square().sum(), x)
        return out.detach() + found

    model.set_model_unet_function_wrapper(wrapper)
    return model


def a_mode_for_a_call(model: Any, _: ExitStack) -> Any:
    class Halved(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            return found * 0.5 if getattr(func, "__name__", "") == "linear" else found

    def wrapper(function: Any, given: dict[str, Any]) -> Any:
        with Halved():
            return function(given["input"], given["timestep"], **given["c"])

    model.set_model_unet_function_wrapper(wrapper)
    return model


# By name, with what a refusal has to say.
REFUSED: dict[str, tuple[Change, str]] = {
    "a mark, then its forward": (mark_then_forward, "forward (network_changes: mark_then_forward)"),
    "a mark on a part": (mark_on_a_part, "forward (network_changes: mark_on_a_part)"),
    "a mark, then a weight": (mark_then_weight, "network_changes: mark_then_weight|__main__: mark_then_weight"),
    "a mark on the class": (mark_on_the_class, "network_changes: mark_on_the_class|_pack_patched"),
    "a refusal that is swallowed": (a_refusal_that_is_swallowed, "network_changes: a_refusal_that_is_swallowed"),
    "a deleted attribute": (a_deleted_attribute, "eps"),
    "a parameter": (parameter_replaced, "weight"),
    "a parameter for a call": (parameter_for_a_call, "weight"),
    "a weight in place for a call": (weight_in_place_for_a_call, "weight"),
    "a weight in place around the run": (weight_in_place_around_the_run, "weight"),
    "a weight's data": (data_of_a_weight, "weight"),
    "a weight's data for a call": (data_for_a_call, "weight"),
    "a parametrization": (parametrization, "weight|__class__"),
    "a part's class": (class_of_a_part, "__class__ (network_changes: class_of_a_part.Quiet)"),
    "the network's class": (class_of_the_network, "__class__ (network_changes: class_of_the_network"),
    "the norms' eps": (eps_of_the_norms, "eps"),
    "norms found by children": (norms_found_by_children, "forward (network_changes: norms_found_by_children"),
    "norms found in _modules": (norms_found_by_modules_dict, "modules"),
    "norms found by apply": (by_apply, "eps"),
    "parts of a network of that class": (by_its_class, "forward (network_changes: by_its_class"),
    "a global": (
        global_of_a_module,
        "optimized_attention, for every model in this ComfyUI (network_changes: global_",
    ),
    "a global for a call": (global_for_a_call, "optimized_attention, for every model in this ComfyUI"),
    "a method behind wraps": (
        method_behind_wraps,
        "forward, for every model in this ComfyUI (network_changes: meth",
    ),
    "a method of torch's": (method_of_torch, "torch.nn.SiLU.forward, for every model in this ComfyUI (network_"),
    "a function of torch's": (function_of_torch, "torch.nn.functional.linear, for every model in this ComfyUI"),
    "a derivative": (derivative, "torch.func (jvp, vjp, grad or vmap) through the network (network_changes"),
    "a gradient": (gradient, "a gradient through the network (network_changes: gradient"),
    "a mode": (a_mode_for_a_call, "the mode Halved"),
}


def hook_on_the_network(model: Any, _: ExitStack) -> Any:
    _network(model).register_forward_hook(lambda *given: given[-1] * 0.5)
    return model


def method_of_the_model(model: Any, _: ExitStack) -> Any:
    own = model.model.apply_model
    model.model.apply_model = lambda *args, **kwargs: own(*args, **kwargs) * 0.5
    return model


def sampling_in_place(model: Any, _: ExitStack) -> Any:
    sampling = model.model.model_sampling
    if hasattr(sampling, "shift"):
        # A shift alone leaves the first of the steps as it is, and there is only one.
        sampling.set_parameters(shift=3.0, multiplier=500)
    else:
        sampling.sigmas.mul_(0.5)
        sampling.log_sigmas.copy_(sampling.sigmas.log())
    return model


def scale_of_the_latents(model: Any, _: ExitStack) -> Any:
    model.model.latent_format.scale_factor = 3.0
    own = model.model.process_latent_out
    model.model.process_latent_out = lambda latent: own(latent) * 2
    return model


def class_of_the_model(model: Any, _: ExitStack) -> Any:
    class Halved(type(model.model)):  # type: ignore[misc]
        def apply_model(self, *args: Any, **kwargs: Any) -> Any:
            return super().apply_model(*args, **kwargs) * 0.5

    model.model.__class__ = Halved
    return model


def sampling_function(model: Any, stack: ExitStack) -> Any:
    module = sys.modules["comfy.samplers"]
    own = module.calc_cond_batch
    _replace(
        stack,
        module,
        "calc_cond_batch",
        functools.wraps(own)(lambda *args: [each * 0.5 for each in own(*args)]),
    )
    return model


def sampler_behind_wraps(model: Any, stack: ExitStack) -> Any:
    module = sys.modules["comfy.k_diffusion.sampling"]
    own = module.sample_euler

    @functools.wraps(own)
    def sample(*args: Any, **kwargs: Any) -> Any:
        return own(*args, **kwargs) * 0.5

    _replace(stack, module, "sample_euler", sample)
    return model


# What works in a loop that runs here, by name, with what is said where the whole loop is to be at the worker.
LOCAL: dict[str, tuple[Change, str]] = {
    "a hook on the network": (hook_on_the_network, "a hook of network_changes: hook_on_the_network"),
    "a method of the model": (method_of_the_model, "apply_model (network_changes: method_of_the_model"),
    "the sampling in place": (sampling_in_place, "model_sampling"),
    "the latents' scale": (scale_of_the_latents, "process_latent_out|latent_format"),
    "the model's class": (class_of_the_model, "__class__ (network_changes: class_of_the_model"),
    "the sampling's function": (sampling_function, "calc_cond_batch (network_changes: sampling_function"),
    "a sampler behind wraps": (sampler_behind_wraps, "euler"),
}


@contextmanager
def changing(change: Change) -> Iterator[Callable[[Any], Any]]:
    """Return the change as a patch of a model, whose traces in ComfyUI end with the block."""
    with ExitStack() as stack:
        yield lambda model: change(model, stack)
