"""Facts that several files of this repository state must agree."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from tests.support.process import environment

from comfy_gpu_offload.version import __version__

ROOT = Path(__file__).parents[1]
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = METADATA["project"]
PROJECT_BUILD: list[str] = METADATA["build-system"]["requires"]
EXTRAS: list[str] = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
# By dependency: which release breaks what. Only these may have an upper bound.
KNOWN_BREAKS: dict[str, str] = {}
# By dependency: the first release without the hole.
SECURE_FROM = {
    "requests": "2.32.4",  # CVE-2024-47081: a .netrc's password goes to another host
    "urllib3": "2.6.3",  # CVE-2025-66418, CVE-2025-66471, CVE-2026-21441: unbounded decompression
    "certifi": "2024.7.4",  # CVE-2024-39689: trusts an authority that no longer may be
    "cryptography": "50.0.0",  # CVE-2026-69247: tells of what it decrypts by its errors
    "pydantic": "2.4.0",  # CVE-2024-3772: a regular expression without end
    "h11": "0.16.0",  # CVE-2025-43859: takes malformed chunks
    "python-dotenv": "1.2.2",  # CVE-2026-28684: writes through a link
    "pillow": "12.1.1",  # CVE-2024-28219, CVE-2026-25990: writes beyond a buffer
    "tqdm": "4.66.3",  # CVE-2024-34062: runs its command line's arguments
    "scikit-learn": "1.5.0",  # CVE-2024-5206: keeps words of what it was trained on
    "aiohttp": "3.13.3",  # CVE-2025-69223 and its siblings: unbounded decompression
    "pyyaml": "5.4",  # CVE-2020-14343: runs code that a document names
    "pytest": "9.0.3",  # CVE-2025-71176: a temporary folder that others can guess
    "setuptools": "78.1.1",  # CVE-2025-47273: writes outside of its folder
}


def lines_of(name: str) -> list[str]:
    text = (ROOT / name).read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def without_pips_settings() -> dict[str, str]:
    """Return this environment without its settings of pip."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return {**kept, "PIP_CONFIG_FILE": os.devnull}


def test_requirements_are_the_metadatas_dependencies() -> None:
    assert lines_of("requirements.txt") == PROJECT["dependencies"]


def test_every_dependency_has_a_lower_bound_and_an_upper_one_only_for_a_reason() -> None:
    """An upper bound without one downgrades what a ComfyUI environment has, as soon as a release is over it."""
    for line in PROJECT["dependencies"] + EXTRAS + PROJECT_BUILD + lines_of("worker/requirements.txt"):
        if not line.startswith(PROJECT["name"]):
            requirement = Requirement(line)
            kinds = sorted(bound.operator for bound in requirement.specifier)
            assert kinds == ([">=", "<"] if requirement.name in KNOWN_BREAKS else [">="]), line


@pytest.mark.parametrize(("name", "fixed"), SECURE_FROM.items())
def test_no_dependency_may_be_a_release_with_a_known_hole(name: str, fixed: str) -> None:
    every = [Requirement(line) for line in PROJECT["dependencies"] + EXTRAS + PROJECT_BUILD]
    bounds = [bound.version for each in every if each.name == name for bound in each.specifier]
    assert bounds, f"{name} is no dependency any more"
    assert all(Version(bound) >= Version(fixed) for bound in bounds)


def test_what_comes_out_later_is_not_replaced(tmp_path: Path) -> None:
    """By pip itself, offline, in an environment that has a later release of each requirement."""
    for line in lines_of("requirements.txt"):
        folder = tmp_path / f"{Requirement(line).name.replace('-', '_')}-9999.1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {Requirement(line).name}\nVersion: 9999.1\n"
        )
        (folder / "INSTALLER").write_text("pip\n")
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--quiet", "--report", "-"]
    done = subprocess.run(
        [*command, "--requirement", str(ROOT / "requirements.txt")],
        capture_output=True,
        text=True,
        check=False,
        env={**without_pips_settings(), "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["install"] == []


def test_torch_is_pinned_for_development_and_a_range_for_users() -> None:
    assert lines_of("constraints.txt") == ["torch==2.13.0"]
    assert any(line.startswith("torch>=") for line in PROJECT["dependencies"])


def test_versions_agree() -> None:
    assert PROJECT["version"] == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_links_lead_to_files_of_this_repository() -> None:
    urls = PROJECT["urls"]
    assert urls["Homepage"] == urls["Repository"]
    assert urls["Issues"] == f"{urls['Repository']}/issues"
    for name, branch in (("Documentation", "tree/main"), ("Changelog", "blob/main")):
        path = urls[name].removeprefix(f"{urls['Repository']}/{branch}/")
        assert path != urls[name]
        assert (ROOT / path).exists()


def test_the_registry_has_an_icon_that_it_takes() -> None:
    """Square, and at most 400 pixels wide."""
    repository = PROJECT["urls"]["Repository"].replace("https://github.com/", "https://raw.githubusercontent.com/")
    icon = METADATA["tool"]["comfy"]["Icon"]
    path = icon.removeprefix(f"{repository}/main/")
    assert path != icon
    picture = ElementTree.parse(ROOT / path).getroot()
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    assert int(picture.attrib["width"]) == int(picture.attrib["height"]) <= 400


def test_the_pack_loads_as_comfyui_loads_it_and_as_anything_else_does(tmp_path: Path) -> None:
    """From a folder with a hyphen in its name, under a module name that is a path."""
    folder = tmp_path / "comfy-gpu-offload"
    folder.symlink_to(ROOT, target_is_directory=True)
    spec = importlib.util.spec_from_file_location(
        str(folder), folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.__all__ == []  # no ComfyUI here, so no nodes, and no error


def test_importing_the_package_needs_no_extra() -> None:
    code = (
        "import sys, comfy_gpu_offload\n"
        "print([m for m in ('aiohttp', 'cryptography', 'diffusers', 'psutil', 'PIL', 'comfy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "CHANGELOG.md", ".env.example", "Makefile", ".ci/run"])
def test_it_is_there(name: str) -> None:
    assert (ROOT / name).stat().st_size > 100
