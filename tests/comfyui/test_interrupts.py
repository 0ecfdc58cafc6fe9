"""The stop button, while a call waits for the worker."""

from collections.abc import Callable
from dataclasses import replace
from math import prod

import pytest

from .harness.comparison import assert_identical
from .harness.proxy import Exchange
from .harness.site import Site
from .harness.workflow import DIGITS, UNET, Model, Sampling, Scene

pytestmark = pytest.mark.comfyui

# The first look for the button after it was pressed ends the wait. How often it is looked for depends on what else
# the machine does, so looks are counted within one wait. The times only end what hangs: nothing but the button ends
# the waits below.
LOOKS = 20
LOOKS_WITHIN_S = 120.0
ENDS_WITHIN_S = 120.0


def stop(site: Site, prompt: str, looks: int = LOOKS) -> None:
    """Press stop in a wait in which it is looked for often; check that the prompt ends as interrupted."""
    site.comfyui.api.wait_for_looks(looks, LOOKS_WITHIN_S)
    site.comfyui.api.interrupt()
    outcome = site.comfyui.api.wait(prompt, ENDS_WITHIN_S)
    assert outcome.interrupted, outcome.summary


def queue(site: Site, node: str, listed: str, seed: int) -> str:
    scene = Scene.of(DIGITS, seed=seed)
    scene.sample(node, scene.workflow.remote(listed), Sampling(seed=seed), "interrupted")
    site.proxy.forget()
    return site.comfyui.api.queue(scene.workflow.graph)


@pytest.mark.parametrize("node", ["KSampler", "RemoteSampler"])
def test_a_waiting_call_ends_and_the_worker_is_told(site: Site, listed: Callable[[Model], str], node: str) -> None:
    seed = 200 + len(node)
    with site.proxy.holding("forward"):
        prompt = queue(site, node, listed(DIGITS), seed)
        site.proxy.wait_for("forward")
        stop(site, prompt)
        site.proxy.wait_for("cancel", timeout_s=60)
        assert len(site.proxy.exchanges("forward")) == 1
    scene = Scene.of(DIGITS, seed=seed)
    scene.sample("KSampler", scene.workflow.local(DIGITS), Sampling(seed=seed), "stock")
    scene.sample(node, scene.workflow.remote(listed(DIGITS)), Sampling(seed=seed), "ours")
    site.comfyui.run(scene.workflow.graph)
    assert_identical(site.comfyui.saved("stock"), site.comfyui.saved("ours"))


@pytest.mark.each_release
def test_a_call_that_is_computed_ends_at_the_worker_too(site: Site, listed: Callable[[Model], str]) -> None:
    # Seconds of work in one call, for one thread.
    large = replace(UNET, latent=(1, 4, 48, 48))
    scene = Scene.of(large, seed=210)
    scene.sample("KSampler", scene.workflow.remote(listed(UNET)), Sampling(seed=210), "interrupted")
    site.proxy.forget()
    prompt = site.comfyui.api.queue(scene.workflow.graph)
    site.proxy.wait_for("forward")
    site.worker.process.wait_for_work(0.5)
    stop(site, prompt, looks=0)
    assert site.proxy.wait_for_reply("forward") < prod(large.latent) * 4, "the worker computed it to the end"


def test_a_call_that_is_tried_again_ends(site: Site, listed: Callable[[Model], str]) -> None:
    def break_off(exchange: Exchange) -> None:
        if exchange.route == "forward":
            raise ConnectionError

    with site.proxy.watching(break_off):
        prompt = queue(site, "KSampler", listed(DIGITS), 220)
        site.proxy.wait_for("forward", 3)
        stop(site, prompt)


def test_the_loading_of_a_model_ends(site: Site, listed: Callable[[Model], str]) -> None:
    name = listed(DIGITS)
    with site.proxy.holding("hello"):
        scene = Scene.of(DIGITS, seed=230)
        loader = scene.workflow.remote(name, weight_dtype="fp8_e5m2")
        scene.sample("KSampler", loader, Sampling(seed=230), "interrupted")
        site.proxy.forget()
        prompt = site.comfyui.api.queue(scene.workflow.graph)
        site.proxy.wait_for("hello")
        stop(site, prompt)
