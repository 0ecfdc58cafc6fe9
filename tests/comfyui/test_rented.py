"""A ComfyUI that `up` gives a worker in a rented pod, until `down`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.process import environment
from tests.support.runpod_cloud import RunpodCloud
from tests.support.runpod_cloud.containers import worker

from .harness.checkouts import Checkout
from .harness.comparison import assert_identical
from .harness.site import ComfyUI, await_comfyui, begin_comfyui, install_pack
from .harness.workflow import DIGITS, Sampling, Scene

pytestmark = pytest.mark.comfyui


@dataclass(frozen=True)
class Rented:
    """A ComfyUI without a worker at first, and the cloud that its user has a key of."""

    comfyui: ComfyUI
    cloud: RunpodCloud

    def command(self, *arguments: str) -> str:
        """Run a command of the pack as it is installed in this ComfyUI; return what it said."""
        env = environment(**self.cloud.settings()) | {"PYTHONPATH": str(self.comfyui.pack / "src")}
        env["COMFY_GPU_OFFLOAD_RENTAL_FOLDER"] = str(self.comfyui.base / "rentals")
        whole = [sys.executable, "-m", "comfy_gpu_offload", *arguments]
        done = subprocess.run(
            whole, env=env, cwd=self.comfyui.base, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def rented(checkout: Checkout, python: Path, models_yaml: Path, tmp_path: Path) -> Iterator[Rented]:
    install_pack(tmp_path)
    start = worker(
        *("--backend", "comfyui", "--comfyui", str(checkout.root), "--cpu", "--models", str(models_yaml.parent)),
        folder=tmp_path,
    )
    with ExitStack() as ending:
        cloud = ending.enter_context(RunpodCloud(start))
        comfyui = begin_comfyui(checkout, python, tmp_path, models_yaml, {"RUNPOD_API_KEY": cloud.key})
        ending.callback(comfyui.process.kill)
        await_comfyui(comfyui)
        yield Rented(comfyui, cloud)


def test_a_picture_of_a_rented_pod_is_the_stock_one(rented: Rented) -> None:
    said = rented.command("up", "--yes", "--image", "stock")
    assert str(rented.comfyui.pack / ".env") in said
    name = next(name for name in rented.comfyui.offered_models() if DIGITS.file in name)
    scene, sampling = Scene.of(DIGITS), Sampling(seed=41, steps=3)
    scene.sample("KSampler", scene.workflow.local(DIGITS), sampling, "stock")
    remote = scene.workflow.remote(name)
    scene.sample("KSampler", remote, sampling, "each")
    scene.sample("RemoteSampler", remote, sampling, "whole", offload="whole loop")
    rented.comfyui.run(scene.workflow.graph)
    stock = rented.comfyui.saved("stock")
    assert_identical(stock, rented.comfyui.saved("each"))
    assert_identical(stock, rented.comfyui.saved("whole"))
    said += rented.command("status") + rented.command("down")
    assert rented.cloud.billing_now() == []
    assert not (rented.comfyui.pack / ".env").exists()
    (pod,) = rented.cloud.pods.values()
    for secret in (rented.cloud.key, pod.body["env"]["COMFY_GPU_OFFLOAD_TOKEN"]):
        assert secret not in said + "".join(rented.comfyui.process.lines)
