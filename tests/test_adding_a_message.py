"""CONTRIBUTING, "Add a message": its example is added to a copy of the code as it says, and used there.

Whatever else had to be touched for a message to work would be missing in the copy.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support.process import environment

ROOT = Path(__file__).parents[1]
COPIED = ("src/comfy_gpu_offload", "tests/support", "tests/protocol", "docs")
CHECKED = ("tests/server/test_answers.py", "tests/test_documents.py")
IN_USE = """
import torch
from tests.support.backend import FunctionBackend
from tests.support.frames import forward_frame
from comfy_gpu_offload.client.exchanges import Exchanges
from comfy_gpu_offload.client.session import Session
from comfy_gpu_offload.client.status import ask_status
from comfy_gpu_offload.io.frame import FrameLimits
from comfy_gpu_offload.protocol.capabilities import CAPABILITIES
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.transport.loopback import LoopbackTransport

backend = FunctionBackend()
handler = Handler(backend)
exchanges = Exchanges(LoopbackTransport(handler), FrameLimits())
with Session(LoopbackTransport(handler)) as session:
    assert "status" in session.welcome.capabilities and "status" in CAPABILITIES
    assert ask_status(exchanges, session.welcome) is None
    running = handler.submit(forward_frame(torch.ones(1), model="wait").joined())
    assert backend.started.wait(60)
    assert ask_status(exchanges, session.welcome) == "a call of wait"
    older = session.welcome.model_copy(update={"capabilities": ()})
    assert ask_status(exchanges, older) is None
    backend.release.set()
    running.result(60)
print("used")
"""


class Checklist(NamedTuple):
    """The section's table and its example: paths of files, three modules, and the lines of the examples."""

    files: list[str]
    modules: list[str]
    examples: str


def checklist() -> Checklist:
    section = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## Add a message")[1].split("\n## ")[0]
    *modules, examples = re.findall(r"```(?:python|text)\n(.*?)```", section, re.DOTALL)
    files = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    return Checklist([file.replace("<name>", "status") for file in files], modules, examples)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the code to which the example was added: three modules, two rows and two examples."""
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (*CHECKED, "pyproject.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    asked = checklist()
    *modules, page, examples = (tmp_path / name for name in asked.files)
    for file, text in zip(modules, asked.modules, strict=True):
        assert not file.exists()
        file.write_text(text, "utf-8")
    rows = "| `status` | client | `request` | none |\n| `doing` | worker | `request`, `running` | none |\n"
    _insert_before(page, "| `fault` | worker |", rows)
    _insert_before(examples, "    Cancel(request=REQUEST),\n", asked.examples)
    _insert_before(examples, "\nREF = ", "from comfy_gpu_offload.protocol.messages.status import Doing, Status\n")
    return tmp_path


def _insert_before(file: Path, place: str, lines: str) -> None:
    text = file.read_text("utf-8")
    assert text.count(place) == 1
    file.write_text(text.replace(place, lines + place), "utf-8")


def test_the_code_of_a_message_is_three_files() -> None:
    files = checklist().files
    assert [file.rpartition("/")[0] for file in files if file.startswith("src/")] == [
        "src/comfy_gpu_offload/protocol/messages",
        "src/comfy_gpu_offload/server/answers",
        "src/comfy_gpu_offload/client",
    ]
    assert files[3:] == ["docs/protocol.md", "tests/protocol/examples.py"]


def test_the_example_asks_a_worker(copy: Path) -> None:
    done = _run(copy, "-c", IN_USE)
    assert done.stdout.strip() == "used", done.stderr


def test_what_holds_for_every_message_holds_for_the_example(copy: Path) -> None:
    chosen = ("-k", "protocol or answer or request or message")
    done = _run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/protocol", *CHECKED, *chosen)
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 80


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment() | {"PYTHONPATH": f"{folder / 'src'}:{folder}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
