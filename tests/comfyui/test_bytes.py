"""The bytes that cross to the worker, counted on the way."""

from collections.abc import Callable
from math import prod

import pytest

from .harness.proxy import Proxy
from .harness.site import ComfyUI
from .harness.workflow import DIGITS, WAN, Model, Sampling, Scene

pytestmark = pytest.mark.comfyui

# A header, its skeleton and the digests: what a call costs beside its tensors.
OVERHEAD_BYTES = 6000


@pytest.mark.parametrize("node", ["KSampler", "RemoteSampler"])
def test_conditioning_crosses_once(
    comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy, node: str
) -> None:
    seed = 100 + len(node)
    scene = Scene.of(WAN, seed=seed)
    scene.sample(node, scene.workflow.remote(listed(WAN)), Sampling(seed=seed, steps=5), "bytes")
    comfyui.run(scene.workflow.graph)
    first, *later = (exchange.up_bytes for exchange in proxy.exchanges("forward"))
    # With guidance, latents and conditioning come twice: for the positive and the negative. Half of float32
    # is the least that they can be, since the model computes in 16 or 32 bits.
    latents = 2 * prod(WAN.latent) * 4
    conditioning = 2 * WAN.tokens * WAN.width * 2
    assert first > conditioning
    assert len(later) == 4
    assert max(later) < latents + OVERHEAD_BYTES < conditioning


def test_a_second_run_with_the_same_prompt_sends_no_conditioning(
    comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy
) -> None:
    for seed in (1, 2):
        proxy.forget()
        scene = Scene.of(WAN, seed=110)
        scene.sample("KSampler", scene.workflow.remote(listed(WAN)), Sampling(seed=seed), "bytes")
        comfyui.run(scene.workflow.graph)
    sent = [exchange.up_bytes for exchange in proxy.exchanges("forward")]
    assert len(sent) == 3
    assert max(sent) < 2 * prod(WAN.latent) * 4 + OVERHEAD_BYTES


def test_one_exchange_a_model_call(comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy) -> None:
    scene = Scene.of(DIGITS, seed=120)
    scene.sample("KSampler", scene.workflow.remote(listed(DIGITS)), Sampling(seed=120, steps=6), "bytes")
    comfyui.run(scene.workflow.graph)
    # Guidance makes one call of two, as it does on a GPU with memory to spare.
    assert len(proxy.exchanges("forward")) == 6
    # Handshakes, and the round trip that a session measures before its first call.
    assert len(proxy.exchanges("hello")) <= 3
