"""The patcher of a remote model: no memory, patches and merges as data, and checks around a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.support.comfy_stand_in.fixtures import StandIn

from comfy_gpu_offload.client.session import Session
from comfy_gpu_offload.errors import ModelChangedError, RemoteWeightsError, UnsupportedPatchError

from .conftest import MODEL, Sides, sampled

KEY = "diffusion_model.layer.weight"


def diff(value: float) -> tuple[str, tuple[torch.Tensor]]:
    return "diff", (torch.full((4, 4), value),)


def test_it_takes_no_memory(sides: Sides) -> None:
    remote = sides.remote
    assert (remote.model_size(), remote.loaded_size(), remote.memory_required([1, 4, 8, 8])) == (0, 0, 0)
    assert remote.get_free_memory(torch.device("cpu")) > 1e15
    assert remote.is_dynamic() is False
    assert remote.current_loaded_device() == torch.device("cpu")
    assert (remote.load(), remote.partially_unload(None, 100)) == (None, 0)


def test_it_knows_the_workers_model_and_release(sides: Sides) -> None:
    assert sides.remote.remote.description.ref.name == MODEL
    assert sides.remote.worker_release == "0.0.0+stand-in"


def test_weight_patches_are_those_of_the_patcher_that_is_loaded(sides: Sides) -> None:
    plain = sampled(sides.remote)
    patched = sides.remote.clone()
    assert patched.add_patches({KEY: diff(0.5)}, 0.25) == [KEY]
    local = sides.local.clone()
    local.add_patches({KEY: diff(0.5)}, 0.25)
    assert torch.equal(sampled(patched), sampled(local))
    assert not torch.equal(sampled(patched), plain)
    assert torch.equal(sampled(sides.remote), plain)


def test_object_patches_of_a_clone_do_not_stay(sides: Sides) -> None:
    patched = sides.remote.clone()
    patched.add_object_patch("model_sampling", torch.nn.Identity())
    own = sides.remote.model.model_sampling
    patched.partially_load(None)
    assert patched.model.model_sampling is patched.object_patches["model_sampling"]
    sides.remote.partially_load(None)
    assert sides.remote.model.model_sampling is own


def test_patches_that_will_be_refused_are_not_put_in(sides: Sides) -> None:
    patched = sides.remote.clone()
    patched.add_object_patch("diffusion_model.layer", torch.nn.Identity())
    with pytest.raises(UnsupportedPatchError, match=r"diffusion_model\.layer"):
        patched.partially_load(None)
    assert sides.same()


@pytest.mark.parametrize(
    ("read", "purpose"),
    [
        (lambda patcher: patcher.partially_load(None, force_patch_weights=True), "to save them"),
        (lambda patcher: patcher.state_dict_for_saving(), "to save them"),
        (lambda patcher: patcher.model_state_dict_for_saving(), "to save them"),
        (lambda patcher: patcher.patch_weight_to_device(KEY), "to extract a LoRA"),
        (lambda patcher: patcher.clone(force_deepcopy=True), "to train them"),
    ],
    ids=["load patched", "save", "save the model", "extract", "train"],
)
def test_weights_are_not_given_out(sides: Sides, read: Callable[[Any], Any], purpose: str) -> None:
    with pytest.raises(
        RemoteWeightsError, match=f"'{MODEL}' are at the worker and cannot be read here .*{purpose}"
    ):
        read(sides.remote)


def test_two_models_of_one_worker_are_merged_there(
    sides: Sides, comfy_stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.sd

    from comfy_gpu_offload.comfyui.client.patcher import remote_patcher

    path = comfy_stand_in.write_model("second.safetensors", scale=-2.0)
    second = remote_patcher(sides.session.model("second.safetensors"))
    merged, local = sides.remote.clone(), sides.local.clone()
    merged.add_patches(second.get_key_patches("diffusion_model."), 0.5, 0.5)
    local.add_patches(comfy.sd.load_diffusion_model(str(path)).get_key_patches("diffusion_model."), 0.5, 0.5)
    assert torch.equal(sampled(merged), sampled(local))
    assert not torch.equal(sampled(merged), sampled(sides.remote))


def test_a_model_here_or_of_another_worker_is_not_merged(sides: Sides, new_session: Callable[[], Session]) -> None:
    from comfy_gpu_offload.comfyui.client.patcher import remote_patcher

    here, elsewhere = sides.remote.clone(), sides.remote.clone()
    here.add_patches(sides.local.get_key_patches("diffusion_model."))
    with pytest.raises(UnsupportedPatchError, match="second model is loaded here"):
        sampled(here)
    elsewhere.add_patches(remote_patcher(new_session().model(MODEL)).get_key_patches("diffusion_model."))
    with pytest.raises(UnsupportedPatchError, match="second model is at another worker"):
        sampled(elsewhere)


def test_what_is_merged_are_the_files_weights_with_their_patches(sides: Sides) -> None:
    sides.remote.add_patches({KEY: diff(1.0)}, 0.5)
    patches = sides.remote.get_key_patches()
    assert [entry[0] for entry in patches[KEY][1:]] == [0.5]
    assert "model_sampling.sigmas" in patches
    assert not type(patches["model_sampling.sigmas"][0][0]).__name__.startswith("Merged")


def test_a_change_between_calls_is_refused_when_the_run_ends(sides: Sides) -> None:
    sides.remote.pre_run()
    sides.network.layer.in_features = 5
    with pytest.raises(UnsupportedPatchError, match=r"layer\.in_features"):
        sides.remote.cleanup()


def test_a_runs_own_error_is_not_hidden_by_a_change(sides: Sides) -> None:
    sides.remote.pre_run()
    sides.network.layer.in_features = 5
    with pytest.raises(ZeroDivisionError):
        _fails_and_cleans_up(sides.remote)


def _fails_and_cleans_up(patcher: Any) -> None:
    try:
        raise ZeroDivisionError
    finally:
        patcher.cleanup()


def test_other_parts_are_moved_once_for_the_same_patches(sides: Sides) -> None:
    moved = []
    sides.remote.model.model_sampling.to = moved.append
    sides.remote.partially_load(None)
    sides.remote.partially_load(None)
    assert moved == [sides.remote.load_device]
    sides.remote.add_patches({KEY: diff(1.0)})
    sides.remote.partially_load(None)
    assert len(moved) == 2


def test_a_file_that_changed_at_the_worker_has_the_loader_run_again(sides: Sides, comfy_stand_in: StandIn) -> None:
    from comfy_gpu_offload.comfyui.client import loader_epoch

    epoch = loader_epoch.current()
    comfy_stand_in.write_model(MODEL, scale=3.0)
    with pytest.raises(ModelChangedError):
        sampled(sides.remote)
    assert loader_epoch.current() == epoch + 1
