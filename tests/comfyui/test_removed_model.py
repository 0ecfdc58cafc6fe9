"""A model that was pushed to a real worker: it runs, and once it was removed it is refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from comfy_gpu_offload import connect

from .harness.site import Site
from .harness.workflow import MMDIT, Sampling, Scene

pytestmark = pytest.mark.comfyui

_NAME = "pushed.safetensors"
_FOLDER = "diffusion_models"


def test_a_pushed_model_runs_until_it_is_removed(site: Site, tmp_path: Path) -> None:
    folder = site.worker.models_yaml.parent / _FOLDER
    shutil.copy(folder / MMDIT.file, tmp_path / _NAME)

    def scene(seed: int) -> Scene:
        made = Scene.of(MMDIT)
        made.sample("KSampler", made.workflow.remote(_NAME), Sampling(seed=seed, steps=1), f"pushed-{seed}")
        return made

    with connect(f"http://127.0.0.1:{site.worker.port}", site.worker.token) as session:
        session.push_model(tmp_path / _NAME, _FOLDER, uploads=True)
        site.comfyui.run(scene(1).workflow.graph)
        session.remove_model(_FOLDER, _NAME)
        assert _NAME not in [entry.name for entry in session.models()]
    refused = site.comfyui.api.run(scene(2).workflow.graph)
    assert f"no model '{_NAME}'" in refused.error_message
    assert not list(folder.rglob(f"{_NAME}*"))
