"""CONTRIBUTING, "Add a codec": its example is added to a copy of the code as it says, and used there.

Whatever else had to be touched for a codec to work would be missing in the copy.
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
# What the example needs, and what holds for every codec.
COPIED = ("src/comfy_gpu_offload", "benchmarks", "tests/support", "tests/io/codecs", "tests/benchmarks", "docs")
CHECKED = "tests/io/codecs/test_every_codec.py"
LISTS = ("tests/io/codecs/test_registry.py", "tests/benchmarks/test_codec_lists.py")
IN_USE = """
import torch
from comfy_gpu_offload import connect
from comfy_gpu_offload.config.settings import given_settings
from comfy_gpu_offload.io import codecs
from tests.support.backend import FunctionBackend
from tests.support.worker import ThreadWorker

assert given_settings(compression="deflate").compression == "deflate"
x = torch.zeros(1, 16, 64, 64).bfloat16()
with ThreadWorker(FunctionBackend()) as worker, connect(worker.url, compression="deflate") as session:
    assert session.stored_share == codecs.named("deflate").typical_share
    assert "deflate" in session.welcome.codecs
    model = session.model("double")
    assert torch.equal(model(x), 2 * x)
    assert model.last_timings.bytes_up < 2000
print("used")
"""


class Checklist(NamedTuple):
    """The section's table and its example: paths of files, the new module, and its line in the list."""

    files: list[str]
    module: str
    line: str


def checklist() -> Checklist:
    section = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## Add a codec")[1].split("\n## ")[0]
    module, line = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    files = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    return Checklist([file.replace("<name>", "deflate") for file in files], module, line)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Copy the code and add the example: its module, its line, and a row in the specification."""
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    module, listed, page, _ = (tmp_path / name for name in checklist().files)
    assert not module.exists()
    module.write_text(checklist().module, "utf-8")
    _insert(listed, '        "raw": "raw:Raw",\n', checklist().line)
    _insert(page, "| `raw` | | none | anything |\n", "| `deflate` | | none | text |\n")
    return tmp_path


def _insert(file: Path, after: str, line: str) -> None:
    text = file.read_text("utf-8")
    assert text.count(after) == 1
    file.write_text(text.replace(after, after + line), "utf-8")


def test_the_code_needs_the_first_two_files_of_the_checklist() -> None:
    files = checklist().files
    assert files[:2] == ["src/comfy_gpu_offload/io/codecs/deflate.py", "src/comfy_gpu_offload/codec_names.py"]
    assert files[2:] == ["docs/codecs.md", "tests/io/codecs/test_deflate.py"]


def test_the_example_is_a_value_of_the_setting_and_carries_calls(copy: Path) -> None:
    done = _run(copy, "-c", IN_USE)
    assert done.stdout.strip() == "used", done.stderr


def test_the_lists_know_the_example_and_what_holds_for_every_codec_holds_for_it(copy: Path) -> None:
    files = (CHECKED, *LISTS)
    chosen = ("-k", "deflate or registry or lists")
    done = _run(copy, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *files, *chosen)
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 45


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = f"{folder / 'src'}:{folder}"
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment() | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
