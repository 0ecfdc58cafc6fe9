"""The logs hold no secrets at DEBUG, after all tests before this one."""

import json
from collections.abc import Callable

import pytest

from .harness.site import Site
from .harness.workflow import DIGITS, Model, Sampling, Scene

pytestmark = pytest.mark.comfyui

PROMPT = "a-prompt-nobody-else-should-read"


@pytest.mark.each_release
def test_no_token_prompt_or_tensor_in_any_log(site: Site, listed: Callable[[Model], str]) -> None:
    scene = Scene.of(DIGITS, seed=400)
    marked = scene.workflow.graph[scene.positive[0]]["inputs"]
    marked["extra"] = json.dumps({"prompt": PROMPT})
    scene.sample("RemoteSampler", scene.workflow.remote(listed(DIGITS)), Sampling(seed=400), "logged")
    patched = scene.workflow.add(
        "LoraLoaderModelOnly",
        model=scene.workflow.remote(listed(DIGITS)),
        lora_name="mmdit-lora.safetensors",
        strength_model=1.0,
    )
    scene.sample("KSampler", patched, Sampling(seed=401), "refused")
    site.comfyui.api.run(scene.workflow.graph)
    logs = {"ComfyUI": site.comfyui.process.output}
    logs |= {f"worker {i}": process.output for i, process in enumerate(site.worker.processes)}
    assert "forward" in logs["ComfyUI"], "the log is at DEBUG, or this test finds nothing"
    for name, log in logs.items():
        # With a bracket: ComfyUI itself logs sigmas, as tensor(1.).
        for secret in (site.token, "not-the-token", PROMPT, "tensor(["):
            assert secret not in log, f"{secret} in the log of {name}"
