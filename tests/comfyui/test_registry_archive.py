"""A ComfyUI and a worker that have of this pack what the Comfy registry distributes, and nothing else."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from tests.support.registry_archive import new_files, pack

from .harness.process import environment
from .harness.proxy import Proxy
from .harness.site import Site
from .harness.workflow import DIGITS, Sampling, Scene

pytestmark = [pytest.mark.comfyui, pytest.mark.each_release]

ENCODERS = {f"Remote{number}CLIPLoader" for number in ("", "Dual", "Triple", "Quadruple")}
KINDS = ("Checkpoint", "Model", "ControlNet", "VAE", "CLIPVision", "UpscaleModel", "AudioEncoder")
LOADERS = {f"Remote{kind}Loader" for kind in KINDS}
NODES = {*LOADERS, *ENCODERS, "RemoteSampler"}
PACK = "comfy-gpu-offload"
# What is written where the pack runs.
WRITTEN = {"__pycache__", ".env"}


def test_what_is_installed_is_the_archive(site: Site, tmp_path: Path) -> None:
    pack(tmp_path / "node.zip")
    with zipfile.ZipFile(tmp_path / "node.zip") as packed:
        archive = set(packed.namelist())
    folder = site.comfyui.pack
    files = (path for path in folder.rglob("*") if path.is_file() and not WRITTEN & set(path.parts))
    installed = {path.relative_to(folder).as_posix() for path in files}
    assert installed == archive | set(new_files())


@pytest.mark.each_release
def test_its_nodes_are_there(site: Site) -> None:
    every = site.comfyui.api.get("/object_info")
    ours = {name for name, each in every.items() if each["python_module"] == f"custom_nodes.{PACK}"}
    assert ours == NODES
    assert "IMPORT FAILED" not in site.comfyui.process.output


@pytest.mark.each_release
def test_its_templates_scripts_help_pages_and_translations_are_there(site: Site) -> None:
    api, folder = site.comfyui.api, site.comfyui.pack
    templates = {path.stem for path in (folder / "example_workflows").glob("*.json")}
    assert set(api.get("/workflow_templates")[PACK]) == templates
    for name in templates:
        assert api.get(f"/api/workflow_templates/{PACK}/{name}.json")["nodes"]
    scripts = {f"/extensions/{PACK}/{path.name}" for path in (folder / "web").glob("*.js")}
    assert {path for path in api.get("/extensions") if f"/{PACK}/" in path} == scripts
    for path in (folder / "web").rglob("*.*"):
        served = f"/extensions/{PACK}/{path.relative_to(folder / 'web').as_posix()}"
        assert api.status_of(served) == (200, path.read_text("utf-8"))
    for language in (folder / "locales").iterdir():
        nodes = json.loads((language / "nodeDefs.json").read_text("utf-8"))
        assert api.get("/i18n")[language.name]["nodeDefs"] == nodes


@pytest.mark.each_release
@pytest.mark.parametrize("offload", ["each step", "whole loop"])
def test_a_prompt_runs_on_a_worker_out_of_it(site: Site, proxy: Proxy, offload: str) -> None:
    assert site.worker.source == site.comfyui.pack / "src"
    scene = Scene.of(DIGITS)
    scene.sample("KSampler", scene.workflow.local(DIGITS), Sampling(seed=5), "here")
    scene.sample("RemoteSampler", scene.workflow.remote(DIGITS.file), Sampling(seed=5), "there", offload)
    site.comfyui.run(scene.workflow.graph)
    assert site.comfyui.saved("there").equal(site.comfyui.saved("here"))
    assert proxy.exchanges("sample" if offload == "whole loop" else "forward")


_READ_METADATA = """
import json, sys
from comfy_config.config_parser import extract_node_configuration
print(extract_node_configuration(sys.argv[1]).model_dump_json())
"""


def test_the_metadata_are_read_as_meant(site: Site) -> None:
    """By ComfyUI's parser, which is kept equal to that of the registry's client."""
    done = subprocess.run(
        [site.python, "-c", _READ_METADATA, site.comfyui.pack],
        env=environment({"PYTHONPATH": str(site.checkout.root)}),
        cwd=site.comfyui.base,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    read = json.loads(done.stdout)
    project, comfy = read["project"], read["tool_comfy"]
    assert (project["name"], comfy["publisher_id"], comfy["display_name"]) == (PACK, PACK, "GPU Offload")
    assert project["license"]["text"] == "GPL-3.0-or-later"
    assert all(project["urls"].values())
    assert comfy["icon"].endswith(".svg")
    # No accelerator, so that no user is warned of one that is not needed here.
    assert (project["supported_os"], project["supported_accelerators"]) == (["OS Independent"], [])
    assert project["supported_comfyui_version"] == ">=0.3.64"
    assert site.checkout.version in SpecifierSet(project["supported_comfyui_version"])


@pytest.mark.parametrize("command", ["doctor", "models"])
def test_its_commands_run(site: Site, command: str) -> None:
    variables = {
        "COMFY_GPU_OFFLOAD_URL": f"http://127.0.0.1:{site.worker.port}",
        "COMFY_GPU_OFFLOAD_TOKEN": site.token,
        "PYTHONPATH": str(site.comfyui.pack / "src"),
    }
    done = subprocess.run(
        [site.python, "-m", "comfy_gpu_offload", command],
        env=environment(variables),
        cwd=site.comfyui.base,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if command == "models":
        assert DIGITS.file in done.stdout
