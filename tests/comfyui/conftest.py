"""Fixtures for tests against a real ComfyUI. Each checkout found runs all of them; with none they skip."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

import pytest

from .harness.checkouts import NONE_FOUND, Checkout, find_checkouts, install_requirements
from .harness.process import environment
from .harness.proxy import Proxy
from .harness.site import (
    REPOSITORY,
    ComfyUI,
    Site,
    Worker,
    await_comfyui,
    begin_comfyui,
    install_pack,
    new_token,
    write_models_yaml,
)
from .harness.workflow import Model

CHECKOUTS = find_checkouts(os.environ, Path.home())
_SCRIPTS = Path(__file__).parent / "scripts"
_DIGITS = REPOSITORY / "src/comfy_gpu_offload/digits/weights/diffusion_pytorch_model.safetensors"
_SHOWN_LINES = 60
_sites: list[Site] = []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "checkout" in metafunc.fixturenames:
        nothing = pytest.param(None, id="none", marks=pytest.mark.skip(reason=NONE_FOUND))
        found = [pytest.param(checkout, id=checkout.version or "unknown") for checkout in CHECKOUTS]
        metafunc.parametrize("checkout", found or [nothing], indirect=True, scope="session")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: pytest.TestReport = yield
    if report.failed:
        for site in _sites:
            for process in (site.worker.process, site.comfyui.process):
                tail = "".join(process.lines[-_SHOWN_LINES:])
                report.sections.append((f"{process.name}, its last {_SHOWN_LINES} lines", tail))
    return report


@pytest.fixture(scope="session")
def checkout(request: pytest.FixtureRequest) -> Checkout:
    found: Checkout = request.param
    return found


@pytest.fixture(scope="session")
def python(checkout: Checkout) -> Path:
    """ComfyUI's interpreter, with the pack's requirements installed."""
    interpreter = checkout.python()
    install_requirements(interpreter, REPOSITORY / "requirements.txt")
    return interpreter


@pytest.fixture(scope="session")
def models_yaml(checkout: Checkout, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Small models with random weights, and the digits model, as an extra_model_paths.yaml."""
    folder = tmp_path_factory.mktemp("models")
    run_script(python, "build_models.py", checkout.root, folder)
    shutil.copy(_DIGITS, folder / "diffusion_models" / "digits.safetensors")
    yield write_models_yaml(folder)
    shutil.rmtree(folder)  # 120 MB, and pytest keeps the folders of three runs


def _end(*_: object) -> None:
    # Left at its default, the signal would end pytest alone, and leave ComfyUI and the worker running.
    pytest.exit("terminated", returncode=128 + signal.SIGTERM)


@pytest.fixture(scope="session")
def site(
    checkout: Checkout, python: Path, models_yaml: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """One ComfyUI and one worker, for all tests on this checkout."""
    token = new_token()
    worker = Worker(checkout, python, tmp_path_factory.mktemp("worker"), models_yaml, token)
    base = tmp_path_factory.mktemp("comfyui")
    install_pack(base)
    with ExitStack() as ending:
        ending.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _end))
        worker.begin()
        ending.callback(worker.stop)
        worker.await_ready()
        proxy = Proxy(("127.0.0.1", worker.port))
        ending.callback(proxy.close)
        env = {"COMFY_GPU_OFFLOAD_URL": proxy.url, "COMFY_GPU_OFFLOAD_TOKEN": token}
        comfyui = begin_comfyui(checkout, python, base, models_yaml, env)
        ending.callback(comfyui.process.kill)
        await_comfyui(comfyui)
        _sites.append(Site(checkout, python, comfyui, worker, proxy, token))
        ending.callback(_sites.clear)
        yield _sites[-1]


@pytest.fixture
def comfyui(site: Site) -> ComfyUI:
    return site.comfyui


@pytest.fixture
def proxy(site: Site) -> Proxy:
    """Counting from here on."""
    site.proxy.forget()
    return site.proxy


def run_script(
    python: Path, script: str, *arguments: str | Path, further: Mapping[str, str] = MappingProxyType({})
) -> str:
    """What one of our scripts prints in ComfyUI's interpreter; `further` is set in its environment."""
    env = environment({"PYTHONPATH": str(REPOSITORY / "src"), **further})
    command = [str(part) for part in (python, _SCRIPTS / script, *arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{script} failed, exit status {done.returncode}:\n{done.stderr}"
    return done.stdout


@pytest.fixture
def listed(site: Site) -> Callable[[Model], str]:
    """Gives a model's name in the worker's list."""

    def name_of(model: Model) -> str:
        (name,) = (name for name in site.comfyui.offered_models() if name.endswith(model.file))
        return name

    return name_of
