"""The errors that a user reads when something is set up wrong."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from .harness.api import PromptRejectedError
from .harness.checkouts import Checkout
from .harness.site import ComfyUI, Site, await_comfyui, begin_comfyui, free_port, install_pack
from .harness.workflow import DIGITS, MMDIT, Model, Sampling, Scene

pytestmark = pytest.mark.comfyui

# Loaded by no other test: nothing of it is kept from an earlier prompt.
FRESH = replace(MMDIT, file="mmdit-other.safetensors")


def failure(comfyui: ComfyUI, listed: str) -> str:
    """Return the error that a prompt with that model ends in, whether ComfyUI takes it or not."""
    scene = Scene.of(FRESH)
    scene.sample("KSampler", scene.workflow.remote(listed), Sampling(), "failing")
    try:
        outcome = comfyui.api.run(scene.workflow.graph)
    except PromptRejectedError as error:
        return str(error)
    return outcome.error_message


def test_a_wrong_token(site: Site, listed: Callable[[Model], str]) -> None:
    name = listed(FRESH)
    with site.proxy.replacing_token(b"not-the-token"):
        message = failure(site.comfyui, name)
    assert "COMFY_GPU_OFFLOAD_TOKEN" in message
    assert site.token not in message


def test_a_worker_that_is_not_there_yet_is_waited_for(site: Site, listed: Callable[[Model], str]) -> None:
    scene = Scene.of(FRESH)
    scene.sample("KSampler", scene.workflow.remote(listed(FRESH)), Sampling(steps=1), "awaited")
    with site.proxy.down():
        prompt = site.comfyui.api.queue(scene.workflow.graph)
        waiting = site.comfyui.process.wait_for_line(r"(waiting for the worker, .*)$", 60)
    outcome = site.comfyui.api.wait(prompt)
    assert outcome.succeeded, outcome.summary
    assert site.proxy.url in waiting[1]
    assert "COMFY_GPU_OFFLOAD_RETRY_S" in waiting[1]


@pytest.mark.each_release
def test_an_unknown_model(site: Site) -> None:
    message = failure(site.comfyui, "no-such-model.safetensors")
    assert "no-such-model.safetensors" in message
    assert site.proxy.url in message
    assert str(site.worker.models_yaml.parent / "diffusion_models") in message
    assert "choose another in the node" in message


def test_the_worker_is_found_again_after_it(site: Site, listed: Callable[[Model], str]) -> None:
    scene = Scene.of(FRESH)
    scene.sample("KSampler", scene.workflow.remote(listed(FRESH)), Sampling(steps=1), "found")
    site.comfyui.run(scene.workflow.graph)


@pytest.fixture(scope="module")
def unconfigured(
    checkout: Checkout, python: Path, models_yaml: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyUI]:
    """Give a ComfyUI with the pack just installed, and nothing set."""
    base = tmp_path_factory.mktemp("unconfigured")
    install_pack(base)
    comfyui = begin_comfyui(checkout, python, base, models_yaml, {})
    try:
        await_comfyui(comfyui)
        yield comfyui
    finally:
        comfyui.process.kill()


def test_nothing_is_configured(unconfigured: ComfyUI) -> None:
    assert "IMPORT FAILED" not in unconfigured.process.output
    assert "COMFY_GPU_OFFLOAD_URL" in failure(unconfigured, "digits.safetensors")


def test_no_worker_at_the_address(unconfigured: ComfyUI) -> None:
    """Check that the error comes once the address has been waited for."""
    url = f"http://127.0.0.1:{free_port()}"
    file = unconfigured.base / "custom_nodes" / "comfy-gpu-offload" / ".env"
    file.write_text(f"COMFY_GPU_OFFLOAD_URL={url}\nCOMFY_GPU_OFFLOAD_RETRY_S=1\n")
    try:
        message = failure(unconfigured, "digits.safetensors")
    finally:
        file.unlink()
    assert url in message
    assert "Is it running" in message


def test_local_loading_needs_no_configuration(unconfigured: ComfyUI) -> None:
    scene = Scene.of(DIGITS)
    model = scene.workflow.remote("digits.safetensors", use_runpod=False)
    scene.sample("RemoteSampler", model, Sampling(steps=1), "local")
    unconfigured.run(scene.workflow.graph)
