"""Fixtures of every test against a real ComfyUI: each checkout found runs all of them; with none they skip."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from .checkouts import NONE_FOUND, Checkout, find_checkouts, install_requirements
from .installation import Installation
from .process import Process, environment
from .site import (
    REPOSITORY,
    Worker,
    await_comfyui,
    begin_comfyui,
    install_pack,
    new_token,
    write_models_yaml,
)

CHECKOUTS = find_checkouts(os.environ, Path.home())
_SCRIPTS = Path(__file__).parents[1] / "scripts"
_SHOWN_LINES = 60
_processes: list[Process] = []
_DIGITS = REPOSITORY / "src/comfy_gpu_offload/digits/weights/diffusion_pytorch_model.safetensors"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "checkout" in metafunc.fixturenames:
        nothing = pytest.param(None, id="none", marks=pytest.mark.skip(reason=NONE_FOUND))
        found = [pytest.param(checkout, id=checkout.version or "unknown") for checkout in CHECKOUTS]
        metafunc.parametrize("checkout", found or [nothing], indirect=True, scope="session")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: pytest.TestReport = yield
    if report.failed:
        for process in _processes:
            tail = "".join(process.lines[-_SHOWN_LINES:])
            report.sections.append((f"{process.name}, its last {_SHOWN_LINES} lines", tail))
    return report


@pytest.fixture(scope="session")
def checkout(request: pytest.FixtureRequest) -> Checkout:
    found: Checkout = request.param
    return found


@pytest.fixture(scope="session")
def python(checkout: Checkout) -> Path:
    """Return ComfyUI's interpreter, with the pack's requirements installed."""
    interpreter = checkout.python()
    install_requirements(interpreter, REPOSITORY / "requirements.txt")
    return interpreter


@pytest.fixture(scope="session")
def models_yaml(checkout: Checkout, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give small models with random weights, and the digits model, as an extra_model_paths.yaml."""
    folder = tmp_path_factory.mktemp("models")
    run_script(python, "build_models.py", checkout.root, folder)
    shutil.copy(_DIGITS, folder / "diffusion_models" / "digits.safetensors")
    yield write_models_yaml(folder)
    shutil.rmtree(folder)  # 120 MB, and pytest keeps the folders of three runs


@pytest.fixture(scope="session")
def _comfyui(
    checkout: Checkout, python: Path, models_yaml: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    base = tmp_path_factory.mktemp("comfyui-in-a-browser")
    install_pack(base)
    comfyui = begin_comfyui(checkout, python, base, models_yaml, {})
    try:
        _processes.append(comfyui.process)
        await_comfyui(comfyui)
        yield Installation(comfyui)
    finally:
        comfyui.process.kill()
        _processes.remove(comfyui.process)


@pytest.fixture
def installation(_comfyui: Installation) -> Iterator[Installation]:
    """Give a ComfyUI that serves all tests on this checkout, with an empty `.env`."""
    _comfyui.configure()
    yield _comfyui
    _comfyui.configure()


@pytest.fixture(scope="session")
def _worker(
    checkout: Checkout, python: Path, models_yaml: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    worker = Worker(checkout, python, tmp_path_factory.mktemp("worker"), models_yaml, new_token())
    worker.begin()
    try:
        worker.await_ready()
        yield worker
    finally:
        worker.stop()


@pytest.fixture
def worker(_worker: Worker) -> Worker:
    """Return a running worker that serves all tests on this checkout; a test may kill it."""
    if _worker.process.ended:
        _worker.begin()
        _worker.await_ready()
    return _worker


def run_script(
    python: Path,
    script: str,
    *arguments: str | Path,
    further: Mapping[str, str] = MappingProxyType({}),
    timeout_s: float = 300.0,
) -> str:
    """Return the output of one of our scripts in ComfyUI's interpreter; `further` is set in its environment."""
    env = environment({"PYTHONPATH": str(REPOSITORY / "src"), **further})
    command = [str(part) for part in (python, _SCRIPTS / script, *arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=timeout_s)
    assert done.returncode == 0, f"{script} failed, exit status {done.returncode}:\n{done.stderr}"
    return done.stdout
