"""The loaders of text encoders in a real prompt: pictures of local and remote CLIPs are equal bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from .harness.comparison import assert_identical, assert_worth_comparing
from .harness.proxy import Exchange
from .harness.site import ComfyUI, Site
from .harness.workflow import UNET, Link, Model, Sampling, Scene, Workflow

pytestmark = [pytest.mark.comfyui, pytest.mark.each_release]

TINY = replace(UNET, latent=(1, 4, 8, 6))
CLIP, LORA, WHOLE = "clip-l.safetensors", "clip-l-lora.safetensors", "whole.safetensors"
POSITIVE = "a (very:1.3) detailed picture of a cat " * 10
SAMPLING = Sampling(steps=2)

# Gives a CLIP, of a workflow.
Loading = Callable[[Workflow], Link]


def stock(workflow: Workflow) -> Link:
    return workflow.add("CLIPLoader", clip_name=CLIP, type="stable_diffusion")


def loader(*, use_runpod: bool) -> Loading:
    def load(workflow: Workflow) -> Link:
        return workflow.add("RemoteCLIPLoader", clip_name=CLIP, type="stable_diffusion", use_runpod=use_runpod)

    return load


def with_lora(load: Loading) -> Loading:
    def loaded(workflow: Workflow) -> Link:
        model = workflow.local(TINY)
        node = workflow.add(
            "LoraLoader", model=model, clip=load(workflow), lora_name=LORA, strength_model=1.0, strength_clip=0.8
        )
        return [node[0], 1]

    return loaded


def with_last_layer(load: Loading) -> Loading:
    return lambda workflow: workflow.add("CLIPSetLastLayer", clip=load(workflow), stop_at_clip_layer=-2)


def sample(scene: Scene, load: Loading, model: Link, name: str, text: str = POSITIVE) -> None:
    clip = load(scene.workflow)
    scene.positive = scene.workflow.add("CLIPTextEncode", clip=clip, text=text)
    scene.negative = scene.workflow.add("CLIPTextEncode", clip=clip, text=f"not {text}")
    scene.sample("KSampler", model, SAMPLING, name)


def test_pictures_are_those_of_a_local_clip(with_clip: Site, listed: Callable[[Model], str]) -> None:
    comfyui: ComfyUI = with_clip.comfyui
    scene = Scene.of(TINY)
    remote = scene.workflow.remote(listed(TINY))
    local = scene.workflow.local(TINY)
    changes: dict[str, Callable[[Loading], Loading]] = {
        "plain": lambda load: load,
        "lora": with_lora,
        "layer": with_last_layer,
    }
    for name, change in changes.items():
        sample(scene, change(stock), local, f"{name}-stock")
        sample(scene, change(loader(use_runpod=True)), remote, f"{name}-remote")
    sample(scene, loader(use_runpod=False), local, "plain-here")
    comfyui.run(scene.workflow.graph)
    latents = {name: comfyui.saved(f"{name}-stock") for name in changes}
    assert_worth_comparing(latents, dict.fromkeys(changes, SAMPLING))
    for name, latent in latents.items():
        assert_identical(latent, comfyui.saved(f"{name}-remote"))
    assert_identical(latents["plain"], comfyui.saved("plain-here"))


def test_a_worker_killed_between_two_prompts_costs_a_call(with_clip: Site) -> None:
    scene = Scene.of(TINY)
    local = scene.workflow.local(TINY)
    # Of texts that no other test has ComfyUI keep.
    sample(scene, stock, local, "stock", "a dog")
    sample(scene, loader(use_runpod=True), local, "remote", "a dog")
    started = len(with_clip.worker.processes)

    def restart_at_the_second(exchange: Exchange) -> None:
        calls = len(with_clip.proxy.exchanges("forward"))
        if exchange.route == "forward" and calls == 2 and len(with_clip.worker.processes) == started:
            with_clip.worker.process.kill()
            with_clip.worker.begin()

    with_clip.proxy.forget()
    with with_clip.proxy.watching(restart_at_the_second):
        with_clip.comfyui.run(scene.workflow.graph)
    assert len(with_clip.worker.processes) == started + 1
    assert_identical(with_clip.comfyui.saved("stock"), with_clip.comfyui.saved("remote"))


def test_a_checkpoint_has_all_three_at_the_worker(with_clip: Site) -> None:
    scene = Scene.of(TINY)
    workflow = scene.workflow
    checkpoints = {
        "stock": workflow.add("CheckpointLoaderSimple", ckpt_name=WHOLE),
        "remote": workflow.add("RemoteCheckpointLoader", ckpt_name=WHOLE, use_runpod=True),
        "here": workflow.add("RemoteCheckpointLoader", ckpt_name=WHOLE, use_runpod=False),
        # A file without text encoder and VAE.
        "alone": workflow.add("RemoteCheckpointLoader", ckpt_name="sd15.safetensors", use_runpod=True),
    }
    stock_alone = workflow.add("CheckpointLoaderSimple", ckpt_name="sd15.safetensors")
    for name in ("stock", "remote", "here"):
        node, _ = checkpoints[name]
        sample(scene, lambda _, node=node: [node, 1], [node, 0], name)  # type: ignore[misc]
        latent = [str(len(workflow.graph) - 1), 0]
        picture = workflow.add("VAEDecode", samples=latent, vae=[node, 2])
        workflow.save(workflow.add("VAEEncode", pixels=picture, vae=[node, 2]), f"{name}-picture")
    for name, model in {"alone": checkpoints["alone"], "stock-alone": stock_alone}.items():
        scene.sample("KSampler", model, SAMPLING, name)
    comfyui = with_clip.comfyui
    comfyui.run(workflow.graph)
    stock_latent, stock_picture = comfyui.saved("stock"), comfyui.saved("stock-picture")
    assert_worth_comparing({"stock": stock_latent}, {"stock": SAMPLING})
    assert stock_picture.isfinite().all()
    for name in ("remote", "here"):
        assert_identical(stock_latent, comfyui.saved(name))
        assert_identical(stock_picture, comfyui.saved(f"{name}-picture"))
    assert_identical(comfyui.saved("stock-alone"), comfyui.saved("alone"))
    assert WHOLE in comfyui.offered("checkpoints")


def test_the_loaders_offer_the_workers_files_and_the_stock_choices(with_clip: Site) -> None:
    comfyui = with_clip.comfyui
    assert CLIP in comfyui.offered("text_encoders")
    for count, node in enumerate(("CLIPLoader", "DualCLIPLoader", "TripleCLIPLoader", "QuadrupleCLIPLoader"), 1):
        ours, theirs = (comfyui.api.object_info(name)["input"] for name in (f"Remote{node}", node))
        names = ["clip_name"] if count == 1 else [f"clip_name{number}" for number in range(1, count + 1)]
        assert [ours["required"][name][1]["worker_list"] for name in names] == ["text_encoders"] * count
        if count < 3:
            assert ours["required"]["type"][0] == theirs["required"]["type"][0]
            assert ours["optional"]["device"][0] == theirs["optional"]["device"][0]
