"""Remote VAE Loader in prompts: what ComfyUI's own nodes make of its VAE, beside Load VAE's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from .harness.comparison import assert_worth_comparing
from .harness.site import ComfyUI, Site
from .harness.workflow import MMDIT, Link, Sampling, Scene, Workflow

pytestmark = [pytest.mark.comfyui, pytest.mark.each_release]

FILE = "small.safetensors"


def stock(workflow: Workflow) -> Link:
    return workflow.add("VAELoader", vae_name=FILE)


def at_worker(workflow: Workflow) -> Link:
    return workflow.add("RemoteVAELoader", vae_name=FILE, use_runpod=True)


def here(workflow: Workflow) -> Link:
    return workflow.add("RemoteVAELoader", vae_name=FILE, use_runpod=False)


def round_trip(workflow: Workflow, load: Callable[[Workflow], Link]) -> Link:
    """Decode a latent, encode the picture, and inpaint on it."""
    vae = load(workflow)
    picture = workflow.add("VAEDecode", samples=workflow.latent((2, 16, 12, 8), 3), vae=vae)
    mask = workflow.add("ImageToMask", image=picture, channel="red")
    return workflow.add("VAEEncodeForInpaint", pixels=picture, vae=vae, mask=mask, grow_mask_by=6)


def test_prompts_give_what_load_vae_gives(comfyui: ComfyUI, site: Site) -> None:
    workflow = Workflow()
    for name, load in (("stock", stock), ("worker", at_worker), ("here", here)):
        workflow.save(round_trip(workflow, load), name)
    comfyui.run(workflow.graph)
    results = {name: comfyui.saved(name) for name in ("stock", "worker", "here")}
    assert float(results["stock"].std()) > 0.01
    assert torch.equal(results["worker"], results["stock"])
    assert torch.equal(results["here"], results["stock"])
    assert f"model vae:{FILE} (default) asked for" in site.worker.process.output


def test_a_control_net_takes_its_latent_from_a_remote_vae(comfyui: ComfyUI) -> None:
    scene = Scene.of(MMDIT)
    workflow, sampling = scene.workflow, Sampling(steps=2)
    hint = workflow.add("OffloadTestImage", seed=6, count=1, height=128, width=96)
    saved = {}
    for name, load in (("stock", stock), ("worker", at_worker)):
        for kind, net in (
            ("local", workflow.add("ControlNetLoader", control_net_name="sd3.safetensors")),
            ("remote", workflow.add("RemoteControlNetLoader", control_net_name="sd3.safetensors", use_runpod=True)),
        ):
            applied = workflow.add(
                "ControlNetApplyAdvanced",
                positive=scene.positive,
                negative=scene.negative,
                control_net=net,
                image=hint,
                strength=0.8,
                start_percent=0.0,
                end_percent=1.0,
                vae=load(workflow),
            )
            given = Scene(scene.model, scene.latent, applied, [applied[0], 1], workflow)
            model = workflow.local(MMDIT) if kind == "local" else workflow.remote(MMDIT.file)
            given.sample("KSampler", model, sampling, f"{name}-{kind}")
            saved[name, kind] = f"{name}-{kind}"
    comfyui.run(workflow.graph)
    results = {key: comfyui.saved(value) for key, value in saved.items()}
    reference = results["stock", "local"]
    assert_worth_comparing({"control": reference}, {"control": sampling})
    for key, latent in results.items():
        assert torch.equal(latent, reference), key
