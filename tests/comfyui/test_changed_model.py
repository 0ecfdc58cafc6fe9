"""A model that is replaced at the worker: an error once, and the new file with the next prompt."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

from .harness.site import Site
from .harness.workflow import MMDIT, Sampling, Scene

pytestmark = pytest.mark.comfyui

_NAME = "changing.safetensors"


def test_it_is_an_error_first_and_then_the_new_model(site: Site) -> None:
    folder = site.worker.models_yaml.parent / "diffusion_models"
    shutil.copy(folder / MMDIT.file, folder / _NAME)
    comfyui = site.comfyui

    def scene(seed: int) -> Scene:
        made = Scene.of(MMDIT)
        made.sample("KSampler", made.workflow.remote(_NAME), Sampling(seed=seed, steps=1), f"changed-{seed}")
        return made

    comfyui.run(scene(1).workflow.graph)
    before = comfyui.saved("changed-1")
    shutil.copy(folder / "mmdit-other.safetensors", folder / _NAME)
    refused = comfyui.api.run(scene(2).workflow.graph)
    assert "has changed" in refused.error_message
    again = scene(1)
    other = replace(MMDIT, file="mmdit-other.safetensors")
    again.sample("KSampler", again.workflow.local(other), Sampling(seed=1, steps=1), "other")
    comfyui.run(again.workflow.graph)
    after = comfyui.saved("changed-1")
    assert torch.equal(after, comfyui.saved("other"))
    assert not torch.equal(after, before)
