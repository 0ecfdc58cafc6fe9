"""The start script as a pod runs it: from a Python with PyTorch to a worker that answers, and to the pod's end.

Everything is real but the size of the model: the pack's wheel, ComfyUI's release, their packages from the index.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.comfyui.harness.checkouts import Checkout
from tests.support.pod_container import KEY, POD, Api, Pod, serving
from tests.support.stock_image import comfyui_repository, pack_wheel, python_with_torch
from tests.worker.processes import free_port

import comfy_gpu_offload
from comfy_gpu_offload.errors import OffloadError
from comfy_gpu_offload.rental.start_script import StartOptions, start_args
from comfy_gpu_offload.version import __version__

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(sys.platform != "linux", reason="pods run Linux"),
    pytest.mark.skipif(
        "INSTALLS_FROM_INDEX" not in os.environ, reason="it installs 1 GB from the index: `make test-all` does it"
    ),
]

_ROOT = Path(__file__).resolve().parents[2]
_DIGITS = _ROOT / "src/comfy_gpu_offload/digits/weights/diffusion_pytorch_model.safetensors"
_TOKEN = "Jq8-the_token-of-this-pod-XW3v9Zk2"
_INSTALL_S = 900
# The same call in the same ComfyUI, without a worker.
_LOCALLY = """
import sys
root, model, inputs, result = sys.argv[1:]
sys.path.insert(0, root)
sys.argv[1:] = ["--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import comfy.model_management, comfy.sd, torch
from safetensors.torch import load_file, save_file
patcher = comfy.sd.load_diffusion_model(model)
comfy.model_management.load_models_gpu([patcher])
# Aligned as in a worker: a file's tensors begin anywhere, and matrix products differ in the last bit then.
given = {name: tensor.clone() for name, tensor in load_file(inputs).items()}
with torch.inference_mode():
    out = patcher.model.diffusion_model(given["x"], given["t"], context=given["context"], y=given["y"])
save_file({"out": out.clone()}, result)
"""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _await_ready(url: str, pod: Pod) -> None:
    """Wait until the worker answers, as `up` does."""
    deadline = monotonic() + _INSTALL_S
    while True:
        assert pod.process.poll() is None, pod.log
        try:
            comfy_gpu_offload.connect(url, token=_TOKEN, retry_s=0.1).close()
        except OffloadError:
            assert monotonic() < deadline, pod.log
            sleep(1)
        else:
            return


def test_a_pod_installs_its_worker_serves_a_call_and_deletes_itself(
    checkout: Checkout, tmp_path: Path, stack: ExitStack
) -> None:
    assert checkout.version is not None
    api = stack.enter_context(serving(Api()))
    models = tmp_path / "workspace" / "models" / "diffusion_models"
    models.mkdir(parents=True)
    shutil.copy(_DIGITS, models / "digits.safetensors")
    port = free_port()
    options = StartOptions(
        __version__,
        checkout.version,
        image_is_ours=False,
        pack_source=pack_wheel(tmp_path / "wheel").as_uri(),
        comfyui_repository=comfyui_repository(checkout.root, checkout.version, tmp_path / "repository").as_uri(),
        worker_options=("--cpu",),
        port=port,
        folder=str(tmp_path / "installed"),
        volume=str(tmp_path / "workspace"),
        gone_s=5,
        api=f"{api.url}/v2",
        graphql=f"{api.url}/graphql",
    )
    environment = {
        "PATH": f"{python_with_torch(tmp_path / 'python', checkout.python().parents[1])}:{os.defpath}",
        "HOME": str(tmp_path),
        "OMP_WAIT_POLICY": "passive",
        "RUNPOD_POD_ID": POD,
        "RUNPOD_API_KEY": KEY,
        "COMFY_GPU_OFFLOAD_TOKEN": _TOKEN,
        "COMFY_GPU_OFFLOAD_IDLE_EXIT_MINUTES": "0.25",
        "COMFY_GPU_OFFLOAD_AT_MOST_MINUTES": "240",
    }
    args = start_args(options).replace("/tmp/start.sh", str(tmp_path / "start.sh"))
    pod = Pod(["sh", "-c", args], tmp_path, environment, api)
    stack.callback(pod.close)
    url = f"http://127.0.0.1:{port}"
    _await_ready(url, pod)

    inputs = {
        "x": torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1)),
        "t": torch.tensor([500.0]),
        "context": torch.randn(1, 2, 48, generator=torch.Generator().manual_seed(2)),
        "y": torch.randn(1, 64, generator=torch.Generator().manual_seed(3)),
    }
    with comfy_gpu_offload.connect(url, token=_TOKEN) as session, torch.no_grad():
        assert session.welcome.package == __version__
        assert session.welcome.comfyui == checkout.version
        model = session.model("digits.safetensors")
        remote = model(inputs["x"], inputs["t"], context=inputs["context"], y=inputs["y"])
    save_file(inputs, tmp_path / "inputs.safetensors")
    installed = tmp_path / "installed"
    assert pod.wait() == -signal.SIGKILL  # idle, so the worker has left and the pod was deleted
    assert api.asked == [("DELETE", f"/v2/pods/{POD}", f"Bearer {KEY}", "")]
    for secret in (KEY, _TOKEN):
        assert secret not in pod.log

    files = [models / "digits.safetensors", tmp_path / "inputs.safetensors", tmp_path / "result.safetensors"]
    subprocess.run([installed / "venv/bin/python", "-c", _LOCALLY, installed / "ComfyUI", *files], check=True)
    assert torch.equal(load_file(tmp_path / "result.safetensors")["out"], remote)
    # The image's torch was kept: no other lies in the environment.
    assert not list((installed / "venv").glob("lib/*/site-packages/torch/"))
    assert not list((installed / "venv").glob("lib/*/site-packages/torchvision/"))
