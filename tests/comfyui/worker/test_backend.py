"""The comfyui backend on a stand-in for ComfyUI: models are listed, described, called, patched and evicted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.comfy_stand_in.fixtures import StandIn

from comfy_gpu_offload.backends.base import (
    BadPatchesError,
    HookSet,
    InterruptedCallError,
    ModelFileError,
    ModelMismatchError,
    ModelNotFoundError,
    ModelRunError,
    ModuleCall,
    OutOfMemoryError,
    PatchSet,
)
from comfy_gpu_offload.comfyui.wire.network_methods import METHOD
from comfy_gpu_offload.io.digests import digest
from comfy_gpu_offload.protocol.messages import Autocast, ModelRef

ONE, OTHER = ModelRef(name="one.safetensors"), ModelRef(name="other.safetensors")
WEIGHT = "diffusion_model.layer.weight"
LATENT = torch.arange(72.0).reshape(2, 4, 3, 3) / 10
TIMES = torch.ones(2)


@pytest.fixture
def models(comfy_stand_in: StandIn) -> StandIn:
    comfy_stand_in.write_model(ONE.name)
    comfy_stand_in.write_model(OTHER.name, scale=2.0)
    return comfy_stand_in


def called(backend: Any, ref: ModelRef = ONE, args: tuple[Any, ...] = (LATENT, TIMES), **further: Any) -> Any:
    kwargs = further.pop("kwargs", {})
    fingerprint = backend.describe(ref).description.fingerprint
    return backend.forward(ModuleCall(ref, fingerprint, args, kwargs, **further)).result


def linear(path: Path, change: torch.Tensor | None = None, factor: float = 1.0) -> torch.Tensor:
    """Return what the stand-in's network gives for `LATENT`, with a change of its weight."""
    weights = load_file(path)
    weight = weights["layer.weight"] * factor + (0 if change is None else change)
    return torch.nn.functional.linear(LATENT.movedim(1, -1), weight, weights["layer.bias"]).movedim(-1, 1)


def patch_set(
    *entries: list[Any], tensor: torch.Tensor | None = None, models: Any = None, name: int = 0
) -> PatchSet:
    tensors = {} if tensor is None else {digest(tensor): tensor}
    template: dict[str, Any] = {WEIGHT: list(entries)}
    if models is not None:
        template["models"] = models
    return PatchSet(bytes([name]) * 32, template, ((0.5, 1.0), (2.0, 1.0)), tensors)


def difference(tensor: torch.Tensor, position: int = 0) -> PatchSet:
    entry = [position, "diff", [digest(tensor), False], None, None]
    return patch_set(entry, tensor=tensor, name=position + 1)


CHANGE = torch.eye(4)


def test_models_and_control_nets_are_listed(models: StandIn, backend: Any) -> None:
    models.write_control_net("edges.safetensors")
    models.write_model("sub/deep.safetensors", "checkpoints")
    models.write("loras", "lora.safetensors", {"a": torch.zeros(1)})
    (models.models / "diffusion_models" / "gone.safetensors").symlink_to("nowhere")
    listing = backend.listing()
    assert [(entry.name, entry.folder) for entry in listing.models] == [
        ("one.safetensors", "diffusion_models"),
        ("other.safetensors", "diffusion_models"),
        ("sub/deep.safetensors", "checkpoints"),
        ("edges.safetensors", "controlnet"),
    ]
    assert [entry.name for entry in listing.skipped] == ["gone.safetensors"]
    assert backend.info().folders == tuple(
        str(models.models / folder) for folder in ("diffusion_models", "checkpoints")
    )


def test_a_description_is_what_comfyui_detected(models: StandIn, backend: Any) -> None:
    described = backend.describe(ONE)
    assert described.description.compute_dtype == "float32"
    assert described.details == {
        "config_class": "StandInConfig",
        "unet_config": {"image_model": "stand_in", "channels": 4},
        "sampling_settings": {"shift": 1.0},
        "model_type": "FLOW",
        "weight_dtype": torch.float32,
        "manual_cast_dtype": None,
        "keys": {"layer.weight": ((4, 4), torch.float32), "layer.bias": ((4,), torch.float32)},
    }


def test_a_config_that_cannot_travel_is_named(models: StandIn, backend: Any) -> None:
    import comfy.sd

    known = comfy.sd.StandInConfig.unet_config
    comfy.sd.StandInConfig.unet_config = {"operations": object()}
    try:
        with pytest.raises(ModelRunError, match=r"configuration of 'one.safetensors' cannot be sent.*operations"):
            backend.describe(ONE)
    finally:
        comfy.sd.StandInConfig.unet_config = known


def test_a_model_is_loaded_once_and_again_when_its_file_changed(models: StandIn, backend: Any) -> None:
    import comfy.sd

    comfy.sd.loaded.clear()
    path = models.models / "diffusion_models" / ONE.name
    fingerprint = backend.describe(ONE).description.fingerprint
    assert torch.equal(called(backend), linear(path))
    assert comfy.sd.loaded == [ONE.name]
    models.write_model(ONE.name, scale=3.0)
    with pytest.raises(ModelMismatchError, match="changed since it was loaded"):
        backend.forward(ModuleCall(ONE, fingerprint, (LATENT, TIMES)))
    assert torch.equal(called(backend), linear(path))
    assert comfy.sd.loaded == [ONE.name, ONE.name]


@pytest.mark.parametrize("name", ["nobody.safetensors", "../loras/lora.safetensors", "controlnet:nobody"])
def test_a_file_outside_the_lists_is_not_found(models: StandIn, backend: Any, name: str) -> None:
    models.write("loras", "lora.safetensors", {"layer.weight": torch.zeros(4, 4)})
    with pytest.raises(ModelNotFoundError, match=f"There is no .*Looked in {models.models}"):
        backend.describe(ModelRef(name=name))


def test_a_listed_method_of_the_network_is_called(models: StandIn, backend: Any) -> None:
    given = {"args": (torch.zeros(3),)}
    assert torch.equal(called(backend, **given, method="preprocess_text_embeds"), torch.ones(3))
    # As a client of a release without the capability names it.
    assert torch.equal(called(backend, **given, kwargs={METHOD: "preprocess_text_embeds"}), torch.ones(3))


@pytest.mark.parametrize("name", ["load_state_dict", "zero_grad", "__init__", 3, None, ["forward"]])
def test_any_other_method_is_refused_by_name(models: StandIn, backend: Any, name: object) -> None:
    with pytest.raises(ModelRunError, match=f"has no method .*{name}.* for calls".replace("[", r"\[")):
        called(backend, kwargs={METHOD: name})


def test_a_listed_method_that_the_network_lacks_is_refused_by_name(models: StandIn, backend: Any) -> None:
    import comfy.sd

    method = comfy.sd.Network.preprocess_text_embeds
    del comfy.sd.Network.preprocess_text_embeds
    try:
        with pytest.raises(ModelRunError, match="This model has no 'preprocess_text_embeds'"):
            called(backend, kwargs={METHOD: "preprocess_text_embeds"})
    finally:
        comfy.sd.Network.preprocess_text_embeds = method


def test_a_control_net_is_not_called_by_itself(models: StandIn, backend: Any) -> None:
    models.write_control_net("edges.safetensors")
    with pytest.raises(
        ModelRunError,
        match=r"The ControlNet 'controlnet:edges\.safetensors' has no method 'forward' for calls \(it has none",
    ):
        called(backend, ModelRef(name="controlnet:edges.safetensors"))


def test_room_is_asked_for_by_the_latents_shape(models: StandIn, backend: Any) -> None:
    import comfy.model_management as management

    called(backend)
    (placed,) = management.placed
    loaded, _ = backend.pool.load(ONE)
    assert placed == ([loaded.patcher], 2000)
    assert loaded.patcher.model.current_patcher is loaded.patcher


def test_errors_of_a_model_name_it(models: StandIn, backend: Any) -> None:
    with pytest.raises(ModelRunError, match=r"The model 'one.safetensors' raised RuntimeError"):
        called(backend, args=(LATENT[:, :3], TIMES))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no room"), MemoryError(), RuntimeError("CUDA error: out of memory")]
)
def test_where_memory_runs_out_caches_are_emptied(models: StandIn, backend: Any, error: Exception) -> None:
    import comfy.model_management as management

    backend.describe(ONE)
    management.failures.append(error)
    management.emptied.clear()
    with pytest.raises(OutOfMemoryError, match="too little memory for this call"):
        called(backend)
    assert management.emptied
    called(backend)


def test_a_cancelled_call_ends_at_the_networks_next_block(models: StandIn, backend: Any) -> None:
    backend.describe(ONE)
    backend.interrupt()
    with pytest.raises(InterruptedCallError):
        called(backend)
    backend.clear_interrupt()
    called(backend)


def test_autocast_is_on_around_the_network(models: StandIn, backend: Any) -> None:
    assert (
        called(backend, autocast=Autocast(dtype="bfloat16", caches=True, gradients="inference")).dtype
        is torch.bfloat16
    )


def test_what_comfyui_warns_of_comes_with_the_description(models: StandIn, backend: Any) -> None:
    import comfy.sd

    load = comfy.sd.load_diffusion_model

    def loaded(path: str, **options: Any) -> Any:
        logging.getLogger().warning("missing keys in %s", path)
        return load(path, **options)

    comfy.sd.load_diffusion_model = loaded
    try:
        assert backend.describe(ONE).description.warnings == ("missing keys in one.safetensors",)
    finally:
        comfy.sd.load_diffusion_model = load


def test_weight_patches_are_on_in_their_calls_alone(models: StandIn, backend: Any) -> None:
    path = models.models / "diffusion_models" / ONE.name
    plain, half, double = linear(path), linear(path, 0.5 * CHANGE), linear(path, 2.0 * CHANGE)
    for expected, patches in (
        (plain, None),
        (half, difference(CHANGE)),
        (double, difference(CHANGE, 1)),
        (half, difference(CHANGE)),
        (plain, None),
    ):
        assert torch.equal(called(backend, patches=patches), expected)


def test_the_last_four_sets_of_patches_are_kept(models: StandIn, backend: Any) -> None:
    sets = [
        PatchSet(bytes([7]) * 32, difference(CHANGE).template, ((number / 8, 1.0),), difference(CHANGE).tensors)
        for number in range(6)
    ]
    made = []
    for each in sets:
        called(backend, patches=each)
        made.append(backend.pool.load_patched(ONE, backend.describe(ONE).description.fingerprint, each)[1])
    again = [
        backend.pool.load_patched(ONE, backend.describe(ONE).description.fingerprint, each)[1]
        for each in reversed(sets)
    ]
    assert [ours is theirs for ours, theirs in zip(reversed(made), again, strict=True)] == [True] * 4 + [False] * 2


@pytest.mark.parametrize(
    ("patches", "said"),
    [
        (patch_set([0, "diff", [bytes(32), False], None, None]), "not uploaded"),
        (
            patch_set([0, "diff", [digest(torch.ones(3, 3)), False], None, None], tensor=torch.ones(3, 3)),
            "do not fit",
        ),
        (patch_set([7, "diff", [digest(CHANGE), False], None, None], tensor=CHANGE), "without a strength"),
        (PatchSet(bytes(32), {"model_config.weight": []}, (), {}), "no weights of this model"),
        (PatchSet(bytes(32), {"diffusion_model.blocks.weight": []}, (), {}), "no weights of this model"),
    ],
)
def test_patches_that_do_not_fit_are_refused_and_change_nothing(
    models: StandIn, backend: Any, patches: PatchSet, said: str
) -> None:
    before = called(backend)
    with pytest.raises(BadPatchesError, match=said):
        called(backend, patches=patches)
    assert torch.equal(called(backend), before)


def merge(backend: Any, ref: ModelRef = OTHER, fingerprint: str | None = None) -> PatchSet:
    fingerprint = fingerprint or backend.describe(ref).description.fingerprint
    entry = [0, "model", [0, None, []], None, None]
    return patch_set(entry, models=[[ref.name, ref.weight_dtype, fingerprint]], name=9)


def test_a_second_model_is_merged_whatever_is_patched_on_it(models: StandIn, backend: Any) -> None:
    path = models.models / "diffusion_models" / ONE.name
    other = load_file(models.models / "diffusion_models" / OTHER.name)["layer.weight"]
    called(backend, OTHER, patches=difference(CHANGE))
    assert torch.equal(called(backend, patches=merge(backend)), linear(path, 0.5 * other))


def test_merged_models_stay_together_and_what_was_merged_leaves_with_the_second(
    models: StandIn, new_backend: Callable[..., Any]
) -> None:
    backend = new_backend(model_bytes=1)
    merged = merge(backend)
    first = called(backend, patches=merged)
    assert len(backend.pool.residents) == 2
    loaded, _ = backend.pool.load(ONE, {OTHER})
    backend.pool.residents.drop(OTHER)
    assert not loaded._clones
    assert torch.equal(called(backend, patches=merged), first)
    models.write_model("third.safetensors")
    backend.describe(ModelRef(name="third.safetensors"))
    assert len(backend.pool.residents) == 1


def test_what_cannot_be_merged_is_refused(models: StandIn, backend: Any) -> None:
    models.write_control_net("edges.safetensors")
    net = ModelRef(name="controlnet:edges.safetensors")
    with pytest.raises(ModelNotFoundError, match=r"There is no model 'controlnet:edges\.safetensors' to merge"):
        called(backend, patches=merge(backend, net))
    with pytest.raises(ModelMismatchError, match=r"'other.safetensors' has changed"):
        called(backend, patches=merge(backend, fingerprint="f" * 32))


def hooks(change: torch.Tensor, position: int = 0, group: int | None = 0, single: tuple[int, ...] = ()) -> HookSet:
    return HookSet(difference(change, position), single, group)


def test_hooks_are_on_over_the_patches_and_leave_with_their_run(models: StandIn, backend: Any) -> None:
    path = models.models / "diffusion_models" / ONE.name
    weight = load_file(path)["layer.weight"]
    patches = difference(CHANGE)
    hooked = linear(path, (weight + 0.5 * CHANGE + 2.0 * CHANGE) - weight)
    assert torch.allclose(called(backend, patches=patches, hooks=hooks(CHANGE, 1)), hooked)
    assert torch.equal(called(backend, patches=patches, hooks=HookSet(None, (), 0)), linear(path, 0.5 * CHANGE))
    assert torch.allclose(called(backend, patches=patches, hooks=hooks(CHANGE, 1)), hooked)
    assert torch.equal(called(backend), linear(path))


def test_a_runs_hooked_weights_are_kept_and_not_computed_again(models: StandIn, backend: Any) -> None:
    import comfy.model_patcher as patchers

    computed: list[int] = []
    calculate = patchers.calculate_weight
    patchers.calculate_weight = lambda *args: (computed.append(1), calculate(*args))[1]
    try:
        first = called(backend, hooks=hooks(CHANGE, 0, 0))
        other = called(backend, hooks=hooks(CHANGE, 1, 1))
        before = len(computed)
        assert torch.equal(called(backend, hooks=hooks(CHANGE, 0, 0)), first)
        assert torch.equal(called(backend, hooks=hooks(CHANGE, 1, 1)), other)
        assert len(computed) == before
        called(backend)
        assert torch.equal(called(backend, hooks=hooks(CHANGE, 0, 0)), first)
        assert len(computed) > before
    finally:
        patchers.calculate_weight = calculate


def test_hooks_of_a_model_are_off_while_it_is_merged_elsewhere(models: StandIn, backend: Any) -> None:
    expected = called(backend, patches=merge(backend))
    called(backend, OTHER, hooks=hooks(CHANGE))
    # The merge is computed anew, from the weights that the hooks were on.
    called(backend)
    assert torch.equal(called(backend, patches=merge(backend)), expected)


def test_a_strength_that_is_a_tensor_is_put_on_as_one(models: StandIn, backend: Any) -> None:
    called(backend, hooks=hooks(CHANGE, 0, 0, (0,)))
    loaded, _ = backend.pool.load(ONE)
    ((patches,),) = [data.values() for data in loaded.patcher.hook_patches.values()]
    strength = patches[0][0]
    assert isinstance(strength, torch.Tensor)
    assert (strength.dtype, float(strength)) == (torch.float32, 0.5)


@pytest.mark.parametrize(
    "bad", [HookSet(difference(torch.ones(3, 3)), (), 0), HookSet(difference(CHANGE), (7,), 0)]
)
def test_hooks_that_do_not_fit_are_refused_and_change_nothing(models: StandIn, backend: Any, bad: HookSet) -> None:
    before = called(backend)
    with pytest.raises(BadPatchesError):
        called(backend, hooks=bad)
    assert torch.equal(called(backend), before)


def test_models_leave_by_their_size_the_least_used_first(models: StandIn, new_backend: Callable[..., Any]) -> None:
    size = (models.models / "diffusion_models" / ONE.name).stat().st_size
    backend = new_backend(model_bytes=2 * size + 10)
    models.write_model("third.safetensors")
    for name in (ONE.name, OTHER.name, ONE.name, "third.safetensors"):
        backend.describe(ModelRef(name=name))
    assert {each.paths[0].name for each in backend.pool.residents} == {ONE.name, "third.safetensors"}


@pytest.mark.parametrize("weight_dtype", ["int2", "float16"])
def test_a_weight_dtype_that_comfyui_does_not_load_is_refused(
    models: StandIn, backend: Any, weight_dtype: str
) -> None:
    with pytest.raises(ModelRunError, match=f"weight_dtype '{weight_dtype}'"):
        backend.describe(ModelRef(name=ONE.name, weight_dtype=weight_dtype))
    models.write_control_net("edges.safetensors")
    with pytest.raises(ModelRunError, match=f"weight_dtype '{weight_dtype}'"):
        backend.describe(ModelRef(name="controlnet:edges.safetensors", weight_dtype=weight_dtype))


def test_a_file_that_is_no_model_is_refused_by_its_path(models: StandIn, backend: Any) -> None:
    path = models.write("diffusion_models", "text.safetensors", {"words": torch.zeros(2)})
    with pytest.raises(ModelFileError, match=f"There is no diffusion model in {path}"):
        backend.describe(ModelRef(name=path.name))
    path.write_bytes(b"<!doctype html>")
    with pytest.raises(ModelFileError, match=f"{path} is a web page"):
        backend.describe(ModelRef(name=path.name))
