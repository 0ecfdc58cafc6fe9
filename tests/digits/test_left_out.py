"""The package without its folder `digits`, as ComfyUI's registry ships it: all but the demo works."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.support.process import WorkerProcess, environment, worker_process

import comfy_gpu_offload
from comfy_gpu_offload import connect
from comfy_gpu_offload.digits.conditioning import conditioning
from comfy_gpu_offload.digits.model import FOLDER, load
from comfy_gpu_offload.errors import WorkerFaultError

# Only these need the digits: the demo, and the whole loop of the diffusers backend, which is the demo's sampler.
NEED_DIGITS = {"cli.demo_command", "backends.diffusers.sampling"}
IMPORT_ALL = """
import importlib, json, pkgutil, comfy_gpu_offload
failed = {}
def unseen(name):
    pass
for module in pkgutil.walk_packages(comfy_gpu_offload.__path__, "comfy_gpu_offload.", onerror=unseen):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            failed[module.name.removeprefix("comfy_gpu_offload.")] = error.name
print(json.dumps(failed))
"""
# What a ComfyUI brings. Here there is none.
COMFYUIS = ("comfy", "comfy_api", "execution", "folder_paths", "latent_preview", "nodes", "server", "utils")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder to import the package from, without the digits."""
    folder = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns("digits", "__pycache__")
    shutil.copytree(Path(comfy_gpu_offload.__file__).parent, folder / "comfy_gpu_offload", ignore=ignored)
    return folder


@pytest.fixture(scope="module")
def worker(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """Start a diffusers worker of that package, with a model of its own."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(FOLDER, folder / "mine")
    arguments = ("--backend", "diffusers", "--port", "0", "--cpu", "--models", str(folder))
    with worker_process(*arguments, cwd=folder, PYTHONPATH=str(source)) as made:
        yield made


def run(source: Path, folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run Python with that package, in `folder`."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment(PYTHONPATH=str(source), **settings),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_every_module_but_the_demos_is_imported(source: Path, tmp_path: Path) -> None:
    done = run(source, tmp_path, "-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    failed: dict[str, str] = json.loads(done.stdout)
    ours = {name for name, missing in failed.items() if missing.split(".")[0] not in COMFYUIS}
    assert ours == NEED_DIGITS
    assert {failed[name] for name in ours} == {"comfy_gpu_offload.digits"}


def test_a_worker_runs_another_model(worker: WorkerProcess) -> None:
    with connect(worker.url) as session:
        assert [entry.name for entry in session.models()] == ["mine"]
        remote = session.model("mine")
        context, pooled = conditioning([3])
        call = {
            "hidden_states": torch.ones(1, 16, 8, 8, dtype=remote.dtype),
            "timestep": torch.full((1,), 500.0),
            "encoder_hidden_states": context.to(remote.dtype),
            "pooled_projections": pooled.to(remote.dtype),
            "return_dict": False,
        }
        assert torch.equal(remote(**call)[0], load(remote.dtype)(**call)[0])


def test_a_whole_loop_is_refused_with_what_to_do(worker: WorkerProcess) -> None:
    context, pooled = conditioning([3])
    side = {"context": context, "pooled": pooled}
    fields = {"sampler": "euler", "scheduler": "simple", "seed": 0, "steps": 1, "cfg": 2.0}
    with connect(worker.url) as session:
        remote = session.model("mine")
        with pytest.raises(WorkerFaultError, match=r"demo is not part .* run each step instead"):
            remote.sample(fields, {"latent": torch.zeros(1, 16, 8, 8), "positive": side, "negative": side})


def test_models_and_doctor_work(source: Path, worker: WorkerProcess, tmp_path: Path) -> None:
    for arguments, says in (
        (("models",), "mine"),
        (("doctor",), "a probe ran where calls run"),
        (("doctor", "--model", "mine"), "mine is loaded and computes in bfloat16"),
    ):
        done = run(source, tmp_path, "-m", "comfy_gpu_offload", *arguments, COMFY_GPU_OFFLOAD_URL=worker.url)
        assert done.returncode == 0, done.stdout + done.stderr
        assert says in done.stdout


def test_doctor_loads_the_digits_of_a_worker_that_has_them(source: Path, tmp_path: Path) -> None:
    with worker_process("--backend", "diffusers", "--port", "0", "--cpu", cwd=tmp_path) as whole:
        done = run(source, tmp_path, "-m", "comfy_gpu_offload", "doctor", COMFY_GPU_OFFLOAD_URL=whole.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "digits is loaded and computes in bfloat16" in done.stdout


def test_a_worker_without_any_model_says_how_to_name_some(source: Path, tmp_path: Path) -> None:
    arguments = ("--backend", "diffusers", "--port", "0", "--cpu")
    with worker_process(*arguments, cwd=tmp_path, PYTHONPATH=str(source)) as alone:
        with connect(alone.url) as session:
            assert not session.models()
        alone.kill()
        assert "0 models: name a folder of models by --models" in "".join(alone.log)


def test_the_demo_says_that_it_is_not_there(source: Path, tmp_path: Path) -> None:
    done = run(source, tmp_path, "-m", "comfy_gpu_offload", "demo")
    assert done.returncode == 2
    assert "The demo is not part of this installation: pip install 'comfy-gpu-offload[demo]'" in done.stderr
    assert "Traceback" not in done.stderr
