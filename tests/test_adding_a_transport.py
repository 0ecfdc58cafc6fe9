"""CONTRIBUTING, "Add a transport": its list is whole, and every transport of the package is in the suite.

The suite's transport over a Unix socket is added to a copy of the package as the list says, and used there. A
file that had to be touched besides would be missing in the copy.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tests.support.backend import FunctionBackend
from tests.support.process import environment
from tests.transport.conformance.altering_handler import AlteringHandler
from tests.transport.conformance.carriers import CARRIERS
from tests.transport.conformance.unix_transport import SCHEME

from comfy_gpu_offload import transport
from comfy_gpu_offload.transport import configured
from comfy_gpu_offload.transport.base import Transport

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "tests/transport/conformance/unix_transport.py"
METHODS = ("exchange", "stream", "close", "forked")
IN_USE = """
import socket, sys, threading
import torch
from comfy_gpu_offload import connect
from tests.support.backend import FunctionBackend
from tests.support.worker import ThreadWorker
from tests.transport.conformance.carriers import _forward_all

x = torch.arange(5.0)
with ThreadWorker(FunctionBackend()) as worker, socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    threading.Thread(target=_forward_all, args=(listener, worker.port), daemon=True).start()
    with connect(f"unix://{sys.argv[1]}") as session:
        assert torch.equal(session.model("double")(x), 2 * x)
    print("used")
"""


def section() -> str:
    return (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## Add a transport")[1].split("\n## ")[0]


def listed() -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", section(), re.MULTILINE)


def modules() -> list[ModuleType]:
    names = [module.name for module in pkgutil.iter_modules(transport.__path__)]
    return [importlib.import_module(f"{transport.__name__}.{name}") for name in names]


def transports() -> set[type]:
    """Return the classes of the package that have the methods of `Transport`."""
    return {
        kind
        for module in modules()
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if kind.__module__ == module.__name__ and kind is not Transport
        if all(hasattr(kind, method) for method in METHODS)
    }


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Make a copy of the package with the example's module and its line, and no more."""
    for name in ("src/comfy_gpu_offload", "tests/support", "tests/transport/conformance", "worker"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    module, table = (tmp_path / name.replace("<name>", "unix_transport") for name in listed()[:2])
    assert not module.exists()
    module.write_text(EXAMPLE.read_text("utf-8").replace("from comfy_gpu_offload.", "from .."), "utf-8")
    (line,) = re.findall(r"```python\n(.*?)```", section(), re.DOTALL)
    text = table.read_text("utf-8")
    after, imports = "    HTTPS: direct_transport.from_settings,\n", "from . import direct_transport, "
    assert text.count(after) == text.count(imports) == 1
    table.write_text(text.replace(after, after + line).replace(imports, imports + "unix_transport, "), "utf-8")
    return tmp_path


def test_the_list_names_files_that_exist() -> None:
    for name, known in zip(listed(), ("direct_transport", "", "", "http_transport", ""), strict=True):
        assert (ROOT / name.replace("<name>", known)).is_file(), name


def test_the_first_two_files_are_all_that_the_code_needs(copy: Path) -> None:
    env = environment(PYTHONPATH=f"{copy / 'src'}:{copy}")
    done = subprocess.run(
        [sys.executable, "-c", IN_USE, str(copy / "worker.sock")],
        env=env,
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "used", done.stderr


def test_the_example_is_not_registered_outside_of_tests() -> None:
    assert SCHEME not in configured.BY_SCHEME


def test_every_module_that_makes_a_transport_is_in_a_table() -> None:
    makers = {module.from_settings for module in modules() if hasattr(module, "from_settings")}
    assert makers == {*configured.BY_SCHEME.values(), *configured.BY_KIND.values()}


def test_every_transport_joins_the_suite(tmp_path: Path) -> None:
    joined = set()
    for carrier in CARRIERS:
        with carrier.transport(AlteringHandler(FunctionBackend()), 9, tmp_path) as made:
            joined.add(type(made))
    assert joined == transports()
