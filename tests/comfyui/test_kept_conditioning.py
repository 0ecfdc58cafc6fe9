"""Conditioning that stays at the worker, in real prompts: pictures as ever, and none of its bytes on the way up."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest

from .harness.checkouts import Checkout
from .harness.comparison import assert_identical, assert_worth_comparing
from .harness.fixtures import run_script
from .harness.proxy import Exchange
from .harness.site import Site, Worker
from .harness.workflow import MMDIT, UNET, Link, Model, Sampling, Scene, Workflow

pytestmark = [pytest.mark.comfyui, pytest.mark.each_release]

TINY = replace(UNET, latent=(1, 4, 8, 6))
CLIP, LORA, VAE = "clip-l.safetensors", "clip-l-lora.safetensors", "small.safetensors"
SAMPLING = Sampling(steps=3)
# A prompt's 77 tokens in the 16 bits of the network, at least; a call's latent twice, with all that is around it.
CONDITIONING_BYTES = 77 * 768 * 2
WITHOUT_BYTES = 2 * prod(TINY.latent) * 4 + 6000

# Makes conditioning of a CLIP and texts.
Making = Callable[[Workflow, Link, str], Link]


@pytest.fixture
def with_clip(site: Site, checkout: Checkout, python: Path, models_yaml: Path) -> Site:
    """Return a site with a CLIP-L of its real size."""
    if not (models_yaml.parent / "text_encoders" / CLIP).exists():
        run_script(python, "build_clip_l.py", checkout.root, models_yaml.parent)
    return site


def encode(workflow: Workflow, clip: Link, text: str) -> Link:
    return workflow.add("CLIPTextEncode", clip=clip, text=text)


def average(workflow: Workflow, clip: Link, text: str) -> Link:
    both = encode(workflow, clip, text), encode(workflow, clip, f"{text}, {text} " * 20)
    return workflow.add(
        "ConditioningAverage", conditioning_to=both[0], conditioning_from=both[1], conditioning_to_strength=0.3
    )


def concat(workflow: Workflow, clip: Link, text: str) -> Link:
    both = encode(workflow, clip, text), encode(workflow, clip, f"{text} again")
    return workflow.add("ConditioningConcat", conditioning_to=both[0], conditioning_from=both[1])


def combined(workflow: Workflow, clip: Link, text: str) -> Link:
    one, other = encode(workflow, clip, text), encode(workflow, clip, f"{text} there")
    place = {"width": 0.5, "height": 1.0, "x": 0.5, "y": 0.0, "strength": 1.2}
    area = workflow.add("ConditioningSetAreaPercentage", conditioning=one, **place)
    return workflow.add("ConditioningCombine", conditioning_1=area, conditioning_2=other)


def zeroed(workflow: Workflow, clip: Link, text: str) -> Link:
    zero = workflow.add("ConditioningZeroOut", conditioning=encode(workflow, clip, text))
    return workflow.add("ConditioningCombine", conditioning_1=zero, conditioning_2=encode(workflow, clip, text))


def remote_clip(workflow: Workflow) -> Link:
    return workflow.add("RemoteCLIPLoader", clip_name=CLIP, type="stable_diffusion", use_runpod=True)


def both_ways(scene: Scene, listed: Callable[[Model], str], text: str, make: Making = encode) -> None:
    """Sample with all things here, and with all at the worker, step by step and as a whole."""
    workflow = scene.workflow
    stock = workflow.add("CLIPLoader", clip_name=CLIP, type="stable_diffusion")
    local, remote = workflow.local(TINY), workflow.remote(listed(TINY))
    for name, clip, model in (("stock", stock, local), ("steps", remote_clip(workflow), remote)):
        scene.positive, scene.negative = make(workflow, clip, text), encode(workflow, clip, f"not {text}")
        scene.sample("KSampler", model, SAMPLING, name)
    scene.sample("RemoteSampler", remote, SAMPLING, "whole", "whole loop")


def sent(site: Site) -> list[int]:
    return [exchange.up_bytes for route in ("forward", "sample") for exchange in site.proxy.exchanges(route)]


MAKINGS = {"encode": encode, "average": average, "concat": concat, "combined": combined, "zeroed": zeroed}


@pytest.mark.parametrize("name", MAKINGS)
def test_pictures_are_those_of_a_local_clip(with_clip: Site, listed: Callable[[Model], str], name: str) -> None:
    scene = Scene.of(TINY)
    both_ways(scene, listed, f"a picture, {name}", MAKINGS[name])
    with_clip.proxy.forget()
    with_clip.comfyui.run(scene.workflow.graph)
    latent = with_clip.comfyui.saved("stock")
    assert_worth_comparing({"stock": latent}, {"stock": SAMPLING})
    for way in ("steps", "whole"):
        assert_identical(latent, with_clip.comfyui.saved(way))
    found = sent(with_clip)
    # Encodings, steps and a run; nodes that read conditioning make another, which is sent.
    assert len(found) > SAMPLING.steps
    if name in {"encode", "concat", "combined"}:
        assert max(found) < WITHOUT_BYTES < CONDITIONING_BYTES


def test_the_same_prompt_again_is_not_encoded_again(with_clip: Site, listed: Callable[[Model], str]) -> None:
    outputs, recalled = [], []
    for number in range(2):
        scene = Scene.of(TINY)
        # Another graph, of which ComfyUI has kept nothing.
        clip = remote_clip(scene.workflow)
        if number:
            off = {"strength_model": 0.0, "strength_clip": 0.0}
            model = scene.workflow.local(TINY)
            node = scene.workflow.add("LoraLoader", model=model, clip=clip, lora_name=LORA, **off)
            clip = [node[0], 1]
        scene.positive = encode(scene.workflow, clip, "once")
        scene.negative = encode(scene.workflow, clip, "and once")
        scene.sample("KSampler", scene.workflow.remote(listed(TINY)), SAMPLING, f"again-{number}")
        with_clip.comfyui.run(scene.workflow.graph)
        outputs.append(with_clip.comfyui.saved(f"again-{number}"))
        recalled.append(with_clip.worker.process.output.count("is answered with what is kept"))
    assert_identical(*outputs)
    assert recalled[1] == recalled[0] + 2


def test_two_loras_on_one_encoder_are_not_taken_for_each_other(with_clip: Site) -> None:
    scene = Scene.of(TINY)
    workflow = scene.workflow
    local = workflow.local(TINY)
    stock = workflow.add("CLIPLoader", clip_name=CLIP, type="stable_diffusion")
    for kind, clip in (("stock", stock), ("remote", remote_clip(workflow))):
        for strength in (0.0, 0.5, 1.0, 0.5):
            node = workflow.add(
                "LoraLoader", model=local, clip=clip, lora_name=LORA, strength_model=0.0, strength_clip=strength
            )
            scene.positive = encode(workflow, [node[0], 1], "by turns")
            scene.negative = encode(workflow, [node[0], 1], "by other turns")
            scene.sample("KSampler", local, SAMPLING, f"{kind}-{strength}")
    with_clip.comfyui.run(workflow.graph)
    saved = {
        strength: [with_clip.comfyui.saved(f"{kind}-{strength}") for kind in ("stock", "remote")]
        for strength in (0.0, 0.5, 1.0)
    }
    for pair in saved.values():
        assert_identical(*pair)
    assert not saved[0.0][0].equal(saved[0.5][0])
    assert not saved[1.0][0].equal(saved[0.5][0])


@pytest.mark.parametrize("at", [2, 3, 4])
def test_a_worker_killed_between_encoding_and_sampling(
    with_clip: Site, listed: Callable[[Model], str], at: int
) -> None:
    scene = Scene.of(TINY)
    both_ways(scene, listed, f"killed at {at}")
    started = len(with_clip.worker.processes)

    def restart(exchange: Exchange) -> None:
        calls = len(with_clip.proxy.exchanges("forward"))
        if exchange.route == "forward" and calls == at and len(with_clip.worker.processes) == started:
            with_clip.worker.process.kill()
            with_clip.worker.begin()

    with_clip.proxy.forget()
    with with_clip.proxy.watching(restart):
        with_clip.comfyui.run(scene.workflow.graph)
    assert len(with_clip.worker.processes) == started + 1
    latent = with_clip.comfyui.saved("stock")
    for way in ("steps", "whole"):
        assert_identical(latent, with_clip.comfyui.saved(way))


def test_a_worker_lost_before_its_whole_loop(with_clip: Site, listed: Callable[[Model], str]) -> None:
    scene = Scene.of(TINY)
    both_ways(scene, listed, "killed before the loop")
    started = len(with_clip.worker.processes)

    def restart(exchange: Exchange) -> None:
        if exchange.route == "sample" and len(with_clip.worker.processes) == started:
            with_clip.worker.process.kill()
            with_clip.worker.begin()

    with with_clip.proxy.watching(restart):
        with_clip.comfyui.run(scene.workflow.graph)
    assert len(with_clip.worker.processes) == started + 1
    assert_identical(with_clip.comfyui.saved("stock"), with_clip.comfyui.saved("whole"))


def restarted(worker: Worker, **settings: str) -> None:
    """Start the worker again, with these settings besides its own."""
    worker.stop()
    worker.settings = settings
    worker.begin()
    worker.await_ready()


# Room for one prompt's conditioning of two, and for none.
@pytest.mark.parametrize("store_bytes", [77 * 768 * 4 + 20_000, 20_000])
def test_conditioning_that_the_worker_had_no_room_for(
    with_clip: Site, listed: Callable[[Model], str], store_bytes: int
) -> None:
    restarted(with_clip.worker, COMFY_GPU_OFFLOAD_STORE_BYTES=str(store_bytes))
    try:
        scene = Scene.of(TINY)
        both_ways(scene, listed, f"in {store_bytes} bytes")
        with_clip.comfyui.run(scene.workflow.graph)
        latent = with_clip.comfyui.saved("stock")
        for way in ("steps", "whole"):
            assert_identical(latent, with_clip.comfyui.saved(way))
    finally:
        restarted(with_clip.worker)


def test_a_worker_killed_between_sampling_and_decoding(site: Site, listed: Callable[[Model], str]) -> None:
    scene = Scene.of(MMDIT, seed=29)
    workflow = scene.workflow
    for name, vae, model in (
        ("stock", workflow.add("VAELoader", vae_name=VAE), workflow.local(MMDIT)),
        (
            "remote",
            workflow.add("RemoteVAELoader", vae_name=VAE, use_runpod=True),
            workflow.remote(listed(MMDIT)),
        ),
    ):
        node, way = ("RemoteSampler", {"offload": "whole loop"}) if name == "remote" else ("KSampler", {})
        common = {"model": model, "positive": scene.positive, "negative": scene.negative}
        latent = workflow.add(node, latent_image=scene.latent, **common, **way, **vars(SAMPLING))
        picture = workflow.add("VAEDecode", samples=latent, vae=vae)
        local_vae = workflow.add("VAELoader", vae_name=VAE)
        workflow.save(workflow.add("VAEEncode", pixels=picture, vae=local_vae), name)
    started = len(site.worker.processes)

    def restart(exchange: Exchange) -> None:
        if exchange.route == "forward" and len(site.worker.processes) == started:
            site.worker.process.kill()
            site.worker.begin()

    with site.proxy.watching(restart):
        site.comfyui.run(workflow.graph)
    assert len(site.worker.processes) == started + 1
    assert_identical(site.comfyui.saved("stock"), site.comfyui.saved("remote"))


def test_latents_that_the_worker_has_do_not_go_up_again(site: Site, listed: Callable[[Model], str]) -> None:
    model = MMDIT
    scene = Scene.of(model)
    workflow = scene.workflow
    further = {"stock": {}, "remote": {"offload": "whole loop"}}
    for name, vae, unet in (
        ("stock", workflow.add("VAELoader", vae_name=VAE), workflow.local(model)),
        (
            "remote",
            workflow.add("RemoteVAELoader", vae_name=VAE, use_runpod=True),
            workflow.remote(listed(model)),
        ),
    ):
        node = "RemoteSampler" if name == "remote" else "KSampler"
        common = {"model": unet, "positive": scene.positive, "negative": scene.negative, **further[name]}
        first = workflow.add(node, latent_image=scene.latent, **common, **vars(SAMPLING))
        picture = workflow.add("VAEDecode", samples=first, vae=vae)
        again = workflow.add("VAEEncode", pixels=picture, vae=vae)
        fields = {**vars(SAMPLING), "denoise": 0.5}
        workflow.save(workflow.add(node, latent_image=again, **common, **fields), name)
    site.proxy.forget()
    site.comfyui.run(workflow.graph)
    expected = site.comfyui.saved("stock")
    assert_worth_comparing({"stock": expected}, {"stock": SAMPLING})
    assert_identical(expected, site.comfyui.saved("remote"))
    decode, encode = (exchange.up_bytes for exchange in site.proxy.exchanges("forward"))
    latent = prod(model.latent) * 4
    assert decode < 6000 < latent < encode
    _, img2img = (exchange.up_bytes for exchange in site.proxy.exchanges("sample"))
    assert img2img < 6000


# The largest tensor of conditioning that a call sends, in bytes, and all that is fetched for it. Of SDXL, ComfyUI
# joins the pooled output, which text encoders' replies have with them, with the picture's sizes.
SMALL = {"SDXL": (2 * 2816 * 4, 2 * 1280 * 4)}


def test_samplers_read_no_conditioning_of_any_kind_of_model(checkout: Checkout, python: Path) -> None:
    wanted = ("SDXL", "SD3", "Flux", "WAN21_T2V", "HunyuanVideo")
    lines = run_script(python, "matrix/kept.py", checkout.root, *wanted, timeout_s=600).splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    present = [row for row in rows if "absent" not in row]
    assert len(rows) == len(wanted)
    assert len(present) >= 4
    for row in present:
        most_sent, most_fetched = SMALL.get(row["architecture"], (100, 0))
        for way in ("each step", "whole loop"):
            assert row[way]["outcome"] == "identical", row
            assert row[way]["sent"] <= most_sent, row
            assert row[way]["fetched"] <= most_fetched, row
