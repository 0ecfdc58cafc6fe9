"""One ComfyUI and one worker for each checkout, whose failed tests show what both said."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from .harness.checkouts import Checkout
from .harness.fixtures import run_script
from .harness.proxy import Proxy
from .harness.site import (
    ComfyUI,
    Site,
    Worker,
    await_comfyui,
    begin_comfyui,
    install_pack,
    new_token,
)
from .harness.workflow import Model

_SHOWN_LINES = 60
_sites: list[Site] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: pytest.TestReport = yield
    if report.failed:
        for site in _sites:
            for process in (site.worker.process, site.comfyui.process):
                tail = "".join(process.lines[-_SHOWN_LINES:])
                report.sections.append((f"{process.name}, its last {_SHOWN_LINES} lines", tail))
    return report


def _end(*_: object) -> None:
    # Left at its default, the signal would end pytest alone, and leave ComfyUI and the worker running.
    pytest.exit("terminated", returncode=128 + signal.SIGTERM)


@contextmanager
def running_site(
    checkout: Checkout, python: Path, models_yaml: Path, folders: Callable[[str], Path], packs: Sequence[Path] = ()
) -> Iterator[Site]:
    """Run a ComfyUI and a worker.

    Args:
        folders: makes a new folder of that name.
        packs: further node packs for the ComfyUI, which are linked to.
    """
    token = new_token()
    base = folders("comfyui")
    source = install_pack(base) / "src"
    for pack in packs:
        (base / "custom_nodes" / pack.name).symlink_to(pack, target_is_directory=True)
    worker = Worker(checkout, python, folders("worker"), models_yaml, token, source)
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
        made = Site(checkout, python, comfyui, worker, proxy, token)
        _sites.append(made)
        ending.callback(_sites.remove, made)
        yield made


@pytest.fixture(scope="session")
def site(
    checkout: Checkout, python: Path, models_yaml: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Give one ComfyUI and one worker, for all tests on this checkout."""
    with running_site(checkout, python, models_yaml, tmp_path_factory.mktemp) as made:
        yield made


@pytest.fixture
def comfyui(site: Site) -> ComfyUI:
    return site.comfyui


@pytest.fixture
def proxy(site: Site) -> Proxy:
    """Return the proxy, which counts from here on."""
    site.proxy.forget()
    return site.proxy


@pytest.fixture
def listed(site: Site) -> Callable[[Model], str]:
    """Return what gives a model's name in the worker's list."""

    def name_of(model: Model) -> str:
        (name,) = (name for name in site.comfyui.offered_models() if name.endswith(model.file))
        return name

    return name_of


@pytest.fixture(scope="session")
def _clip_l(checkout: Checkout, python: Path, models_yaml: Path) -> None:
    run_script(python, "build_clip_l.py", checkout.root, models_yaml.parent)


@pytest.fixture
def with_clip(_clip_l: None, site: Site) -> Site:
    """Return a site with a CLIP-L of its real size."""
    return site
