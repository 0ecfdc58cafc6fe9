"""A page of ComfyUI whose worker is a serverless endpoint, which bills from each first request on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.comfyui.harness.installation import Installation
from tests.support.runpod_gateway import ENDPOINT, KEY, RunPodGateway
from tests.support.runpod_worker import SdkWorker

from .harness.screen import Screen
from .harness.workflows import saved_node, saved_workflow

pytestmark = pytest.mark.comfyui

NAME = "a-model-of-this-workflow.safetensors"


@pytest.fixture
def gateway(installation: Installation) -> Iterator[RunPodGateway]:
    """Name a queue endpoint with one worker in the settings."""
    with RunPodGateway() as made, SdkWorker(made, env={"COMFY_GPU_OFFLOAD_BACKEND": "diffusers"}):
        installation.configure(RUNPOD_API_KEY=KEY, RUNPOD_ENDPOINT_ID=ENDPOINT, RUNPOD_BASE_URL=made.base_url)
        yield made


def asked(gateway: RunPodGateway) -> int:
    """Return the number of requests that came, even of those that start no worker."""
    return sum(gateway.count(route) for route in ("run", "runsync", "status", "stream", "health"))


def test_an_endpoint_is_asked_on_a_click_alone(gateway: RunPodGateway, screen: Screen) -> None:
    workflow = saved_workflow(saved_node("RemoteModelLoader", [True, "default", NAME]))
    screen.open()
    screen.load(workflow)
    screen.wait(lambda: "costs money" in screen.button(), "why the endpoint was not asked")
    screen.refresh()
    screen.load(workflow)
    screen.page.wait_for_timeout(4000)
    screen.wait(lambda: "costs money" in screen.button(), "why the endpoint was not asked")
    assert screen.values(1)["model_name"] == NAME
    assert screen.toasts() == [] or "missing" not in " ".join(screen.toasts()).lower()
    assert asked(gateway) == 0
    assert screen.button().endswith("(ask now)")
    screen.picture("unasked")

    screen.press_button()
    screen.wait(lambda: "not in the worker's list" in screen.button(), "the endpoint's list")
    listed = screen.widgets(1)["model_name"]["values"]
    assert len(listed) > 1
    assert screen.values(1)["model_name"] == NAME
    after = asked(gateway)
    assert after > 0

    screen.reload()
    screen.load(workflow)
    screen.wait(lambda: set(listed) <= set(screen.widgets(1)["model_name"]["values"]), "the list that was kept")
    screen.refresh()
    screen.page.wait_for_timeout(2000)
    assert screen.values(1)["model_name"] == NAME
    assert asked(gateway) == after
