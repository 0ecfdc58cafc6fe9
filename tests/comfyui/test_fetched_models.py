"""A worker over a real ComfyUI downloads a model into an empty folder, lists it and loads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.model_hub import ModelHub

from comfy_gpu_offload import connect
from comfy_gpu_offload.errors import WorkerFaultError

from .harness.checkouts import Checkout
from .harness.site import Worker, new_token

pytestmark = pytest.mark.comfyui


def test_a_fetched_model_is_loaded_as_the_one_that_lay_there(
    checkout: Checkout, python: Path, models_yaml: Path, tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    data = (models_yaml.parent / "diffusion_models" / "mmdit.safetensors").read_bytes()
    with ModelHub() as hub:
        hub.store("org/name/split_files/diffusion_models/fetched.safetensors", data)
        hub.publish(7, data, name="as vae.safetensors", kind="VAE")
        settings = {
            "HF_ENDPOINT": hub.url,
            "COMFY_GPU_OFFLOAD_CIVITAI_ENDPOINT": hub.url,
            "COMFY_GPU_OFFLOAD_DOWNLOAD_HOSTS": hub.storage_url,
        }
        options = ("--models", str(volume))
        worker = Worker(checkout, python, tmp_path, models_yaml, new_token(), options=options, settings=settings)
        worker.begin()
        worker.await_ready()
        try:
            with connect(f"http://127.0.0.1:{worker.port}", worker.token) as session:
                found = session.fetch_model("hf:org/name/split_files/diffusion_models/fetched.safetensors")
                assert (volume / "diffusion_models/fetched.safetensors").read_bytes() == data
                assert (found.folder, found.name) == ("diffusion_models", "fetched.safetensors")
                assert "fetched.safetensors" in {entry.name for entry in session.models()}
                fetched, other = (session.model(name) for name in ("fetched.safetensors", "mmdit.safetensors"))
                assert fetched.details == other.details
                assert session.fetch_model("civitai:7").folder == "vae"
                with pytest.raises(WorkerFaultError, match="controlnet, diffusion_models"):
                    session.fetch_model("civitai:7", folder="loras", name="x.safetensors")
        finally:
            worker.stop()
        log = "".join(worker.process.lines)
        assert "X-Amz-Signature" not in log
