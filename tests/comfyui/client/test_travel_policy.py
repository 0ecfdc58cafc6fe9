"""A patched model's data goes to the worker; the rest is refused with its node and its remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from comfy_gpu_offload.errors import UnsupportedPatchError

from .conftest import Sides, sampled

KEY = "diffusion_model.layer.weight"
Patch = Callable[[Any], None]


def options(**given: Any) -> Patch:
    return lambda patcher: patcher.model_options["transformer_options"].update(given)


def own_patch(h: Any, hsp: Any, transformer_options: Any) -> Any:
    return h, hsp


def ipadapter_attention(q: Any, k: Any, v: Any) -> Any:
    return q


def set_model_options_patch_replace(*_: Any) -> Any:
    """Stand for ComfyUI's function of that name."""


def guidance_that_patches(args: Any) -> Any:
    return set_model_options_patch_replace(args)


def free_lunch(patcher: Any) -> None:
    from comfy_extras.nodes_freelunch import FreeU

    (made,) = FreeU().patch(patcher, 0.5)
    patcher.model_options = made.model_options


TRAVELS: dict[str, Patch] = {
    "data": options(rope_options={"scale_x": 2.0}, tensor=torch.ones(2)),
    "empty places": options(patches={"attn1_patch": []}, patches_replace={}, ar_state={}),
    "read here alone": options(wrappers={"outer_sample": {"a": [own_patch]}}, callbacks={"a": object()}),
    "objects that no network reads": options(somebodys={"a": [object()]}, another=own_patch),
    "caches that run here": options(easycache=object(), context_window=object()),
    "a set of numbers": options(stg_self_attn_blocks={3, 1}),
    "ComfyUI's own patch": free_lunch,
    "guidance": lambda patcher: patcher.model_options.update(sampler_cfg_function=own_patch),
    "an object patch on the sampling": lambda patcher: patcher.add_object_patch("model_sampling.shift", 2.0),
    "weights": lambda patcher: patcher.add_patches({KEY: ("diff", (torch.ones(4, 4),))}),
}
REFUSED: dict[str, tuple[Patch, str]] = {
    "a block patch": (
        options(patches={"output_block_patch": [own_patch]}),
        r"the block patch output_block_patch \(test_travel_policy: own_patch\)\. Bypass the node, or load",
    ),
    "an attention": (
        options(patches_replace={"attn2": {("middle", 0): ipadapter_attention}}),
        r"the attention replacement attn2 \(.*ipadapter_attention\)\. .*pictures in conditioning",
    ),
    "state": (options(ar_state={"past": 3}), r"ar_state: the model keeps its state .*autoregressive"),
    "an attention override": (
        options(optimized_attention_override=own_patch),
        r"the option optimized_attention_override .*computes attention in its own way",
    ),
    "an object that the network may read": (
        options(output={"a": [object()]}),
        r"transformer_options\['output'\]\['a'\]\[0\]: a .*object",
    ),
    "guidance that patches": (
        lambda patcher: patcher.model_options.update(sampler_post_cfg_function=[guidance_that_patches]),
        r"the guidance of test_travel_policy: guidance_that_patches, which .*RescaleCFG",
    ),
    "a part": (
        lambda patcher: patcher.add_object_patch("diffusion_model.layer", torch.nn.Identity()),
        r"the object patch on diffusion_model\.layer",
    ),
    "the dtype": (
        lambda patcher: patcher.add_object_patch("manual_cast_dtype", torch.float16),
        r"manual_cast_dtype \(ModelComputeDtype\)\. .*weight_dtype in Remote Model Loader",
    ),
    "an injection": (
        lambda patcher: patcher.injections.update(bypass=[SimpleNamespace(inject=own_patch)]),
        r"the injection 'bypass' \(test_travel_policy: own_patch\)\. Use a LoRA loader",
    ),
    "weight wrappers": (
        lambda patcher: setattr(patcher, "weight_wrapper_patches", {KEY: [own_patch]}),
        r"weight wrappers \(test_travel_policy: own_patch\)",
    ),
    "a compiled network": (
        lambda patcher: patcher.wrappers.update(apply_model={"torch.compile": [own_patch]}),
        r"torch\.compile: .*\(TorchCompileModel\)\. Bypass the node\.",
    ),
    "weights of no known kind": (
        lambda patcher: patcher.add_patches({KEY: ("magic", (torch.ones(4, 4),))}),
        r"the kind magic, which is not known here, on 1 layer \(LoRA loaders\)\. Remove that loader",
    ),
}


@pytest.mark.parametrize("name", TRAVELS)
def test_what_travels_works_as_here(sides: Sides, name: str) -> None:
    assert sides.same(TRAVELS[name])


@pytest.mark.parametrize("name", REFUSED)
def test_the_rest_is_refused_before_the_first_call(sides: Sides, name: str) -> None:
    patch, says = REFUSED[name]
    patch(sides.remote)
    with pytest.raises(UnsupportedPatchError) as raised:
        sampled(sides.remote)
    assert re.search(says, str(raised.value)), str(raised.value)
    assert len(raised.value.obstacles) == 1
    assert 'To load the model here, use its remote loader with "run on the worker" off' in str(raised.value)
    assert sides.calls == 0


def test_one_error_lists_everything(sides: Sides) -> None:
    for name in ("a block patch", "an injection", "the dtype"):
        REFUSED[name][0](sides.remote)
    with pytest.raises(UnsupportedPatchError) as raised:
        sampled(sides.remote)
    assert len(raised.value.obstacles) == 3
    assert str(raised.value).count("\n  - ") == 3


def test_a_patch_of_the_call_alone_is_refused_too(sides: Sides) -> None:
    with pytest.raises(UnsupportedPatchError, match="the block patch"):
        sampled(sides.remote, patches={"output_block_patch": [own_patch]})
    assert sides.calls == 0


def test_what_is_read_here_alone_is_not_sent(sides: Sides) -> None:
    from comfy_gpu_offload.comfyui.client.travel_policy import options_to_send

    given = {"wrappers": {"a": {}}, "multigpu_thread_pool": object(), "sigmas": torch.ones(1), "patches": {}}
    assert options_to_send(given) == {"sigmas": torch.ones(1)}
    assert options_to_send({"stg_self_attn_blocks": {3, 1}}) == {"stg_self_attn_blocks": (1, 3)}


def test_an_object_that_a_sent_patch_may_read_is_refused(sides: Sides) -> None:
    free_lunch(sides.remote)
    options(factor=object())(sides.remote)
    with pytest.raises(UnsupportedPatchError, match="no plain data"):
        sampled(sides.remote)
    assert sides.calls == 0


def test_another_network_in_its_place_is_refused(sides: Sides) -> None:
    sides.remote.model.diffusion_model = torch.nn.Identity()
    with pytest.raises(UnsupportedPatchError, match="the change to the network's whole"):
        sides.remote.pre_run()


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ("FreeUAdvanced", "FreeU or FreeU_V2"),
        ("ApplyTeaCache", "EasyCache and LazyCache work"),
        ("SelfAttentionGuidance", "SkipLayerGuidance"),
        ("KohyaDeepShrink", "PatchModelAddDownscale"),
        ("HyperTileNode", "only saves time"),
        ("SageAttention", "attention in its own way"),
        ("LLLiteLoader", "Remote ControlNet Loader"),
        ("Something", "Bypass the node, or load the model here"),
    ],
)
@pytest.mark.usefixtures("comfy_stand_in")
def test_the_remedy_goes_by_the_nodes_name(node: str, says: str) -> None:
    from comfy_gpu_offload.comfyui.client import refusals

    assert says in refusals.of_network("part", type(node, (), {})()).remedy


@pytest.mark.parametrize(
    ("nodes", "remedy"),
    [
        ("ComfyUI_IPAdapter_plus: CrossAttentionPatch", "_IMAGE_PROMPT"),
        ("comfyui-kjnodes: PathchSageAttentionKJ.patch", "_ATTENTION"),
        ("ComfyUI-TeaCache: teacache_flux_forward", "_CACHES"),
        ("ComfyUI-Advanced-ControlNet: _forward_inject_BasicTransformerBlock", "_BYPASS"),
        ("Comfy-WaveSpeed: VelocatorLoadAndQuantizeDiffusionModel", "_BYPASS"),
        ("a_pack: PassageOfMessages.forward", "_BYPASS"),
        ("sd-perturbed-attention: pladis_attention_wrapper", "_BYPASS"),
        ("a_pack: apply_perturbed_attention", "_GUIDANCE"),
    ],
)
@pytest.mark.usefixtures("comfy_stand_in")
def test_a_remedy_is_given_where_it_is_true_of_the_code(nodes: str, remedy: str) -> None:
    from comfy_gpu_offload.comfyui.client import refusals

    assert refusals._remedy(nodes) == getattr(refusals, remedy)
