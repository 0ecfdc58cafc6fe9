"""A ComfyUI whose worker is a RunPod queue endpoint: RunPod's own loop takes the jobs, ComfyUI's code runs them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.runpod_gateway import ENDPOINT, KEY, RunPodGateway
from tests.support.runpod_worker import SdkWorker

from .harness.checkouts import Checkout
from .harness.comparison import assert_identical
from .harness.site import REPOSITORY, ComfyUI, await_comfyui, begin_comfyui, install_pack
from .harness.workflow import DIGITS, UNET, Model, Sampling, Scene

pytestmark = pytest.mark.comfyui


@dataclass(frozen=True)
class Endpoint:
    """A ComfyUI, and the endpoint that it is configured for."""

    comfyui: ComfyUI
    gateway: RunPodGateway
    worker: SdkWorker

    def name_of(self, model: Model) -> str:
        return next(name for name in self.comfyui.offered_models() if model.file in name)


def site_packages(python: Path) -> str:
    """Return the folder of that interpreter's packages: the SDK's own environment has none of ComfyUI's."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def endpoint(
    checkout: Checkout, python: Path, models_yaml: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Endpoint]:
    base = tmp_path_factory.mktemp("comfyui-of-an-endpoint")
    install_pack(base)
    with ExitStack() as ending:
        gateway = ending.enter_context(RunPodGateway())
        env = {
            "RUNPOD_API_KEY": KEY,
            "RUNPOD_ENDPOINT_ID": ENDPOINT,
            "RUNPOD_BASE_URL": gateway.base_url,
        }
        comfyui = begin_comfyui(checkout, python, base, models_yaml, env)
        ending.callback(comfyui.process.kill)
        worker_env = {
            "COMFY_GPU_OFFLOAD_BACKEND": "comfyui",
            "COMFY_GPU_OFFLOAD_COMFYUI": str(checkout.root),
            "COMFY_GPU_OFFLOAD_MODELS": str(models_yaml.parent),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{REPOSITORY / 'src'}:{site_packages(python)}",
        }
        worker = ending.enter_context(SdkWorker(gateway, env=worker_env))
        await_comfyui(comfyui)
        yield Endpoint(comfyui, gateway, worker)


def test_each_step_is_a_job_and_the_picture_is_the_stock_one(endpoint: Endpoint) -> None:
    scene = Scene.of(DIGITS)
    sampling = Sampling(seed=41, steps=3)
    scene.sample("KSampler", scene.workflow.local(DIGITS), sampling, "stock")
    remote = scene.workflow.remote(endpoint.name_of(DIGITS))
    scene.sample("KSampler", remote, sampling, "each")
    scene.sample("RemoteSampler", remote, sampling, "whole", offload="whole loop")
    endpoint.comfyui.run(scene.workflow.graph)
    stock = endpoint.comfyui.saved("stock")
    assert_identical(stock, endpoint.comfyui.saved("each"))
    assert_identical(stock, endpoint.comfyui.saved("whole"))


def test_stopping_a_prompt_cancels_its_job_and_the_worker_stops(endpoint: Endpoint) -> None:
    gateway = endpoint.gateway
    scene = Scene.of(UNET, seed=42)
    remote = scene.workflow.remote(endpoint.name_of(UNET))
    scene.sample("RemoteSampler", remote, Sampling(seed=42, steps=5000), "stopped", offload="whole loop")
    before, cancels = len(gateway.submitted), gateway.count("cancel")
    prompt = endpoint.comfyui.api.queue(scene.workflow.graph)
    assert gateway.wait_for(
        lambda: any(job.status == "IN_PROGRESS" and job.body_bytes > 20_000 for job in gateway.submitted[before:]),
        60,
    )
    endpoint.comfyui.api.interrupt()
    outcome = endpoint.comfyui.api.wait(prompt)
    assert outcome.interrupted, outcome.summary
    assert gateway.wait_for(lambda: gateway.count("cancel") > cancels, 10)
    assert gateway.wait_for_status(gateway.submitted[-1].id, "CANCELLED", 10)
    # The worker takes the next job at once: it no longer computes the one that was cancelled.
    again = Scene.of(DIGITS, seed=43)
    again.sample("RemoteSampler", again.workflow.remote(endpoint.name_of(DIGITS)), Sampling(seed=43), "next")
    endpoint.comfyui.run(again.workflow.graph, timeout_s=60)
    assert endpoint.comfyui.saved("next").abs().sum() > 0


def test_the_key_is_in_no_log_of_either_side(endpoint: Endpoint) -> None:
    said = "".join(endpoint.comfyui.process.lines) + endpoint.worker.text
    assert "comfy_gpu_offload" in said
    assert KEY not in said
