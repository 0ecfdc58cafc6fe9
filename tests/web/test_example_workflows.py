"""The example workflows on a page of a real ComfyUI: each opens as it was written, and runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests
from tests.comfyui.harness.fixtures import CHECKOUTS
from tests.comfyui.harness.installation import Installation
from tests.comfyui.harness.releases import by_age
from tests.comfyui.harness.site import Worker

from .harness.screen import Screen
from .harness.templates import NAMES, Template, give_input_picture, local_files, remote_models, run_small

pytestmark = pytest.mark.comfyui

# Every one runs in the newest release, these in all of them: a run takes half a minute, and a Flux that 0.3.64
# recognises has a gigabyte.
RUN_IN_ALL = ("remote_control_net",)
NEWEST = by_age(CHECKOUTS)[-1].version if CHECKOUTS else None


@pytest.fixture(params=NAMES)
def template(request: pytest.FixtureRequest, installation: Installation, worker: Worker) -> Iterator[Template]:
    """Each of them as ComfyUI serves it, with the files that it needs on this machine."""
    found = Template.served(request.param, installation)
    installation.configure_for(worker)
    give_input_picture(installation, worker.checkout.root)
    with local_files(found, installation):
        yield found


@pytest.mark.each_release
def test_a_template_opens_as_it_was_written(template: Template, screen: Screen) -> None:
    screen.open()
    screen.load(template.workflow)
    screen.assert_calm()
    nodes = screen.saved()["nodes"]
    saved = {node["id"]: node.get("widgets_values", []) for node in nodes}
    properties = {node["id"]: node["properties"] for node in nodes}
    assert set(saved) == {node["id"] for node in template.nodes}
    for node in template.nodes:
        written = node["widgets_values"]
        assert saved[node["id"]][: len(written)] == written, node["type"]  # a later release may have more of them
        assert properties[node["id"]].get("models") == node["properties"].get("models"), node["type"]
    screen.picture(template.name)


@pytest.mark.each_release
def test_a_template_runs(template: Template, worker: Worker, screen: Screen) -> None:
    if worker.checkout.version != NEWEST and template.name not in RUN_IN_ALL:
        pytest.skip(f"runs in {NEWEST}")
    with remote_models(template, worker):
        screen.open()
        run_small(screen)
        screen.load(template.workflow)
        ended = screen.queue()
        assert ended.succeeded, ended.message
    for node in template.remote_loaders:
        assert (screen.line(node) or "").startswith("on the worker")
    assert "compute" in (screen.line(template.sampler) or ""), screen.lines()
    screen.assert_calm()
    screen.picture(template.name)


def test_the_template_browser_finds_a_picture_of_each(installation: Installation) -> None:
    listed = requests.get(f"{installation.url}/api/workflow_templates", timeout=60).json()["comfy-gpu-offload"]
    assert sorted(listed) == NAMES
    for name in NAMES:
        url = f"{installation.url}/api/workflow_templates/comfy-gpu-offload/{name}.jpg"
        assert requests.get(url, timeout=60).headers["Content-Type"] == "image/jpeg"
