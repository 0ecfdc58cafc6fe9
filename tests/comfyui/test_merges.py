"""Merges of models at the worker: equal to ComfyUI's own nodes here bit for bit, and nothing is uploaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from .harness.comparison import assert_identical, assert_remote_equals_local
from .harness.proxy import Proxy
from .harness.site import ComfyUI, Site
from .harness.workflow import MMDIT, UNET, Link, Model, Sampling, Scene, Workflow

pytestmark = pytest.mark.comfyui

OTHER = replace(MMDIT, file="mmdit-other.safetensors")
INPAINT = replace(UNET, file="inpaint.safetensors")
CHECKPOINT_UNET = replace(UNET, file="sd15.safetensors", folder="checkpoints")
WHOLE = "whole loop"
# Far below the smallest weight that is merged; a template with the names of all layers.
TEMPLATE_BYTES = 40_000

Load = Callable[[Model], Link]
Merge = Callable[[Workflow, Load], Link]


def simple(first: Model, second: Model, ratio: float) -> Merge:
    def merge(workflow: Workflow, load: Load) -> Link:
        return workflow.add("ModelMergeSimple", model1=load(first), model2=load(second), ratio=ratio)

    return merge


def lora(workflow: Workflow, model: Link, name: str, strength: float) -> Link:
    return workflow.add(
        "LoraLoaderModelOnly", model=model, lora_name=f"{name}.safetensors", strength_model=strength
    )


def with_itself(workflow: Workflow, load: Load) -> Link:
    model = load(MMDIT)
    return workflow.add("ModelMergeSimple", model1=model, model2=lora(workflow, model, "kind-lora", 1.0), ratio=0.3)


def loras_on_both(workflow: Workflow, load: Load) -> Link:
    first = lora(workflow, load(MMDIT), "kind-dora", 0.8)
    second = lora(workflow, load(OTHER), "kind-lokr", 0.7)
    merged = workflow.add("ModelMergeSimple", model1=first, model2=second, ratio=0.4)
    return lora(workflow, merged, "kind-lora", -0.5)


def of_a_merge(workflow: Workflow, load: Load) -> Link:
    inner = simple(OTHER, MMDIT, 0.25)(workflow, load)
    inner = lora(workflow, inner, "kind-lora", 0.9)
    outer = workflow.add("ModelMergeSimple", model1=load(MMDIT), model2=inner, ratio=0.6)
    return workflow.add("ModelMergeSimple", model1=outer, model2=inner, ratio=0.7)


def difference(workflow: Workflow, load: Load) -> Link:
    change = workflow.add("ModelMergeSubtract", model1=load(OTHER), model2=load(MMDIT), multiplier=0.5)
    return workflow.add("ModelMergeAdd", model1=load(MMDIT), model2=change)


def blocks(first: Model, second: Model) -> Merge:
    def merge(workflow: Workflow, load: Load) -> Link:
        return workflow.add(
            "ModelMergeBlocks", model1=load(first), model2=load(second), input=0.2, middle=0.9, out=0.6
        )

    return merge


def sd3_blocks(workflow: Workflow, load: Load) -> Link:
    every = {f"joint_blocks.{number}.": 0.05 * (number % 20) for number in range(24)}
    further = {"pos_embed.": 1.0, "x_embedder.": 0.5, "context_embedder.": 0.25, "y_embedder.": 0.75}
    return workflow.add(
        "ModelMergeSD3_2B",
        model1=load(MMDIT),
        model2=load(OTHER),
        **every,
        **further,
        **{"t_embedder.": 0.4, "final_layer.": 0.1},
    )


def of_another_shape(workflow: Workflow, load: Load) -> Link:
    """Merge as inpainting models are made: the first layer stays its own, which ComfyUI says in its log."""
    change = workflow.add("ModelMergeSubtract", model1=load(CHECKPOINT_UNET), model2=load(UNET), multiplier=1.0)
    return workflow.add("ModelMergeAdd", model1=load(INPAINT), model2=change)


MERGES = [
    pytest.param(MMDIT, simple(MMDIT, OTHER, 0.35), id="simple"),
    pytest.param(MMDIT, simple(MMDIT, OTHER, 1.0), id="all of the first"),
    pytest.param(MMDIT, with_itself, id="with itself"),
    pytest.param(MMDIT, loras_on_both, id="LoRA on both"),
    pytest.param(MMDIT, of_a_merge, id="of a merge"),
    pytest.param(MMDIT, difference, id="difference"),
    pytest.param(MMDIT, sd3_blocks, id="blocks of an architecture"),
    pytest.param(UNET, blocks(UNET, CHECKPOINT_UNET), id="blocks"),
    pytest.param(INPAINT, of_another_shape, id="of another shape"),
]


@pytest.mark.each_release
@pytest.mark.parametrize(("model", "merge"), MERGES)
@pytest.mark.parametrize("offload", ["each step", WHOLE])
def test_merges(
    comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy, model: Model, merge: Merge, offload: str
) -> None:
    scene = Scene.of(model)
    workflow, sampling = scene.workflow, Sampling(seed=601)
    scene.sample("KSampler", workflow.local(model), sampling, "unmerged")
    scene.sample("KSampler", merge(workflow, workflow.local), sampling, "stock")
    remote = merge(workflow, lambda each: workflow.remote(listed(each)))
    proxy.forget()
    scene.sample("RemoteSampler", remote, sampling, "ours", offload=offload)
    comfyui.run(workflow.graph)
    stock = comfyui.saved("stock")
    assert_identical(stock, comfyui.saved("ours"))
    assert stock.isfinite().all()
    assert stock.std() > 0.1
    if merge is not MERGES[1].values[1]:
        assert not torch.allclose(stock, comfyui.saved("unmerged"), atol=1e-2)


@pytest.mark.parametrize("weight_dtype", ["fp8_e4m3fn", "fp8_e5m2"])
def test_with_weights_in_fp8(comfyui: ComfyUI, listed: Callable[[Model], str], weight_dtype: str) -> None:
    def merge(workflow: Workflow, model: Link) -> Link:
        is_remote = workflow.graph[model[0]]["class_type"] == "RemoteModelLoader"
        second = workflow.remote(listed(OTHER)) if is_remote else workflow.local(OTHER)
        return workflow.add("ModelMergeSimple", model1=model, model2=second, ratio=0.5)

    sampling = {"fp8": Sampling(seed=605)}
    assert_remote_equals_local(comfyui, Scene.of(MMDIT), listed(MMDIT), sampling, merge, weight_dtype)


def test_nothing_is_uploaded_but_what_is_merged_how(
    comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy
) -> None:
    def uploaded(ratio: float) -> int:
        scene = Scene.of(MMDIT)
        remote = simple(MMDIT, OTHER, ratio)(scene.workflow, lambda each: scene.workflow.remote(listed(each)))
        proxy.forget()
        scene.sample("KSampler", remote, Sampling(seed=610), f"{ratio}")
        comfyui.run(scene.workflow.graph)
        return sum(exchange.up_bytes for exchange in proxy.exchanges("hello"))

    assert uploaded(0.51) < TEMPLATE_BYTES
    assert uploaded(0.52) < 2000  # handshakes


def refusal(comfyui: ComfyUI, scene: Scene, merged: Link, error: str) -> str:
    scene.sample("KSampler", merged, Sampling(seed=620), "refused")
    outcome = comfyui.api.run(scene.workflow.graph)
    assert outcome.error is not None, outcome.summary
    assert outcome.error["exception_type"].endswith(error), outcome.summary
    return outcome.error_message


def test_a_second_model_that_is_here_is_refused_by_name(
    comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy
) -> None:
    scene = Scene.of(MMDIT)
    workflow = scene.workflow
    models = {"model1": workflow.remote(listed(MMDIT)), "model2": workflow.local(OTHER)}
    said = refusal(comfyui, scene, workflow.add("ModelMergeSimple", **models, ratio=0.5), "UnsupportedPatchError")
    assert "whose second model is loaded here" in said
    assert "ModelMergeSimple" in said
    assert "Load both with remote loaders" in said
    assert proxy.exchanges("forward") == []


def test_a_remote_model_merged_into_one_that_is_here_is_refused_and_that_one_stays_as_it_was(
    comfyui: ComfyUI, listed: Callable[[Model], str]
) -> None:
    def sampled(name: str) -> torch.Tensor:
        scene = Scene.of(MMDIT)
        scene.sample("KSampler", scene.workflow.local(MMDIT), Sampling(seed=621), name)
        comfyui.run(scene.workflow.graph)
        return comfyui.saved(name)

    before = sampled("before")
    scene = Scene.of(MMDIT)
    workflow = scene.workflow
    models = {"model1": workflow.local(MMDIT), "model2": workflow.remote(listed(OTHER))}
    merged = workflow.add("ModelMergeSimple", **models, ratio=0.5)
    said = refusal(comfyui, scene, merged, "RemoteMergeError")
    assert OTHER.file in said
    assert "Load both with remote loaders" in said
    assert_identical(before, sampled("after"))


@pytest.mark.parametrize("offload", ["each step", WHOLE])
def test_a_second_model_whose_file_changes_is_an_error_first_and_then_the_new_one(site: Site, offload: str) -> None:
    name = f"second-{offload[:5]}.safetensors"
    folder = site.worker.models_yaml.parent / "diffusion_models"
    shutil.copy(folder / OTHER.file, folder / name)
    comfyui = site.comfyui

    def scene(seed: int) -> Scene:
        made = Scene.of(MMDIT)
        workflow = made.workflow
        models = {"model1": workflow.remote(MMDIT.file), "model2": workflow.remote(name)}
        merged = workflow.add("ModelMergeSimple", **models, ratio=0.3)
        made.sample("RemoteSampler", merged, Sampling(seed=seed, steps=1), f"changed-{seed}", offload=offload)
        return made

    comfyui.run(scene(1).workflow.graph)
    before = comfyui.saved("changed-1")
    shutil.copy(folder / MMDIT.file, folder / name)
    refused = comfyui.api.run(scene(2).workflow.graph)
    assert f"{name}' has changed" in refused.error_message
    again = scene(1)
    again.sample("KSampler", again.workflow.local(MMDIT), Sampling(seed=1, steps=1), "first")
    comfyui.run(again.workflow.graph)
    after = comfyui.saved("changed-1")
    # 0.3 of a model and 0.7 of the same.
    assert torch.allclose(after, comfyui.saved("first"), atol=1e-4)
    assert not torch.allclose(after, before, atol=1e-2)
