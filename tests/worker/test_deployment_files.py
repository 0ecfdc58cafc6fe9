"""The image and the Hub's files, as far as they can be judged without building anything."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.backend import FunctionBackend
from tests.support.platforms import needs_posix
from tests.support.process import environment
from worker.example_jobs import files
from worker.queue_jobs import QueueJobs
from worker.settings import WorkerSettings, variable

from comfy_gpu_offload.config.settings import PREFIX, Settings
from comfy_gpu_offload.protocol.envelope import open_frame
from comfy_gpu_offload.protocol.messages import PROTOCOL_VERSION, Hello
from comfy_gpu_offload.server.handler import Handler

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
START = ROOT / "src" / "comfy_gpu_offload" / "rental" / "start.sh"
HUB = json.loads((ROOT / ".runpod" / "hub.json").read_text())
TESTS = json.loads((ROOT / ".runpod" / "tests.json").read_text())
TEST_INPUT = json.loads((ROOT / "worker" / "test_input.json").read_text())
# https://docs.runpod.io/hub/publishing-guide
CATEGORIES = {"audio", "embedding", "language", "video", "image"}
INPUT_TYPES = {"string", "huggingface", "number", "boolean"}
GPU_POOLS = {
    "AMPERE_16",
    "AMPERE_24",
    "ADA_24",
    "ADA_32_PRO",
    "AMPERE_48",
    "ADA_48_PRO",
    "AMPERE_80",
    "ADA_80_PRO",
    "HOPPER_141",
}
KNOWN = {variable(name) for name in WorkerSettings.model_fields} | {
    PREFIX + name.upper() for name in Settings.model_fields
}


def instructions() -> list[tuple[str, list[str]]]:
    """(instruction, words) of the Dockerfile, continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(words[0], words[1:]) for words in (shlex.split(line) for line in joined.splitlines())]


def of(kind: str) -> list[list[str]]:
    return [words for name, words in instructions() if name == kind]


def variables(kind: str) -> dict[str, str]:
    return dict(word.split("=", 1) for words in of(kind) for word in words)


def ignored(path: str) -> bool:
    """Return whether .dockerignore keeps `path` out; the last pattern that matches counts."""
    answer = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        keeps = pattern.startswith("!")
        pattern = pattern.lstrip("!")
        name = Path(path)
        anywhere = pattern.removeprefix("**/")
        parts = [*(str(parent) for parent in name.parents), path]
        hit = (
            any(Path(part).match(anywhere) for part in [*name.parts, path])
            if pattern.startswith("**/")
            else any(Path(part).match(pattern) and len(Path(part).parts) == 1 for part in parts)
        )
        if hit:
            answer = not keeps
    return answer


def test_everything_that_is_copied_is_there_and_enters_the_context() -> None:
    sources = [source for words in of("COPY") for source in words[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source
    copied = {Path(source).parts[0] for source in sources}
    entering = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == entering


@pytest.mark.parametrize(
    "path", [".env", "src/.env", ".git", "tests", ".venv", "benchmarks", "src/comfy_gpu_offload/__pycache__"]
)
def test_no_secret_and_no_clutter_enters_the_context(path: str) -> None:
    assert ignored(path)


@needs_posix
def test_the_entry_starts_the_worker_that_is_copied(tmp_path: Path) -> None:
    (line,) = (line for line in DOCKERFILE.read_text().splitlines() if line.startswith("CMD"))
    words = json.loads(line.removeprefix("CMD"))
    assert not of("ENTRYPOINT")  # which a pod's `args` could not replace
    (workdir,) = of("WORKDIR")
    assert words == ["sh", f"{workdir[0]}/start.sh"]
    assert [START.relative_to(ROOT).as_posix(), words[1]] in of("COPY")
    assert ["worker", f"{workdir[0]}/worker"] in of("COPY")
    assert ["worker/test_input.json", f"{workdir[0]}/test_input.json"] in of("COPY")
    # With the image's own environment, there being no ComfyUI here: it gets as far as looking for one.
    image = {name: value for name, value in variables("ENV").items() if name.startswith(PREFIX)}
    python = {
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
    }
    done = subprocess.run(
        ["sh", START],
        cwd=tmp_path,
        env=environment(**image, **python),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert image["COMFY_GPU_OFFLOAD_COMFYUI"] in done.stderr


def test_the_image_sets_only_variables_that_are_read() -> None:
    set_ours = {name for name in variables("ENV") if name.startswith(PREFIX)}
    assert set_ours
    assert set_ours <= KNOWN


def test_what_is_downloaded_is_pinned() -> None:
    arguments = variables("ARG")
    assert re.fullmatch(r"\d+\.\d+\.\d+", arguments["COMFYUI_VERSION"])
    assert tuple(map(int, arguments["COMFYUI_VERSION"].split("."))) >= (0, 3, 64)
    assert re.fullmatch(r"\d+\.\d+\.\d+", arguments["COMFY_CLI_VERSION"])
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-base-ubuntu[\d.]+", arguments["CUDA_IMAGE"])
    assert f":{arguments['TORCH_CUDA_VERSION']}." in arguments["CUDA_IMAGE"]


def test_what_changes_often_is_copied_after_what_takes_long_to_install() -> None:
    steps = [f"{kind} {' '.join(words)}" for kind, words in instructions()]
    comfyui, requirements, code = (
        next(i for i, step in enumerate(steps) if text in step)
        for text in ("comfy --skip-prompt", "pip install -r", "COPY src")
    )
    assert comfyui < requirements < code


def test_it_does_not_run_as_root() -> None:
    assert of("USER") == [["${WORKER_USER}"]]
    assert variables("ARG")["WORKER_USER"] == "worker"
    assert [name for name, _ in instructions()].index("USER") > len(instructions()) - 4


def test_the_image_installs_what_the_packages_worker_needs() -> None:
    lines = (ROOT / "worker" / "requirements.txt").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["worker"]
    assert wanted[0] == "runpod>=1.10.1"
    assert wanted[1:] == extra


def test_model_folders_lie_on_both_mount_points() -> None:
    config = yaml.safe_load((ROOT / "worker" / "extra_model_paths.yaml").read_text())
    assert [section["base_path"] for section in config.values()] == ["/runpod-volume/models", "/workspace/models"]
    for section in config.values():
        others = {"text_encoders", "vae", "vae_approx", "clip_vision", "upscale_models", "audio_encoders"}
        assert section.keys() == {"base_path", "diffusion_models", "checkpoints", "controlnet", *others}
        assert all(isinstance(folders, str) for folders in section.values())


def test_the_hubs_files_are_where_it_looks_for_them() -> None:
    """It takes its settings from `.runpod/` alone, the rest from there or else from the root."""
    for name in ("hub.json", "tests.json"):
        assert (ROOT / ".runpod" / name).is_file(), name
    for name in ("handler.py", "Dockerfile", "README.md"):
        (found,) = (folder / name for folder in (ROOT / ".runpod", ROOT) if (folder / name).is_file())
        assert found.stat().st_size > 0


def test_there_is_one_dockerfile() -> None:
    folders = [ROOT, *(ROOT / name for name in (".runpod", "worker", "src"))]
    assert [file for folder in folders for file in folder.glob("*Dockerfile*")] == [DOCKERFILE]


def test_the_hubs_listing_is_of_its_form() -> None:
    assert HUB.keys() >= {"title", "description", "type", "category", "config"}
    assert HUB["type"] == "serverless"
    assert HUB["category"] in CATEGORIES
    config = HUB["config"]
    assert config["runsOn"] == "GPU"
    assert isinstance(config["containerDiskInGb"], int)
    assert config["gpuCount"] == 1
    # By it a listing can be deployed as a load-balancing endpoint and as a pod, which both serve over HTTP.
    assert config["endpointType"] == "LB"
    values = {entry["key"]: entry["value"] for entry in config["env"] if "value" in entry}
    port = str(WorkerSettings.model_fields["port"].default)
    assert values == {"COMFY_GPU_OFFLOAD_SERVE": "http", "PORT": port, "PORT_HEALTH": port}
    assert set(config["gpuIds"].split(",")) <= GPU_POOLS


def test_the_hub_offers_only_variables_that_are_read_with_the_defaults_they_have() -> None:
    defaults: dict[str, Any] = {}
    for kind in (Settings, WorkerSettings):
        for name, field in kind.model_fields.items():
            defaults[variable(name) if kind is WorkerSettings else PREFIX + name.upper()] = field.default
    for entry in HUB["config"]["env"]:
        assert entry["key"] in KNOWN
        assert ("value" in entry) != ("input" in entry)
        given = entry.get("input")
        if given is None:
            continue
        assert given["type"] in INPUT_TYPES
        assert given["name"]
        assert given["description"]
        assert given["default"] == ("" if defaults[entry["key"]] is None else defaults[entry["key"]])
        if "options" in given:
            assert given["default"] in {option["value"] for option in given["options"]}


def test_presets_set_only_what_is_offered() -> None:
    offered = {entry["key"] for entry in HUB["config"]["env"] if "input" in entry}
    for preset in HUB["config"]["presets"]:
        assert preset["name"]
        assert preset["defaults"].keys() <= offered


def test_the_hubs_tests_are_of_their_form() -> None:
    assert TESTS.keys() == {"tests", "config"}
    for test in TESTS["tests"]:
        assert test["name"]
        assert isinstance(test["input"], dict)
        assert isinstance(test["timeout"], int)
    assert {entry["key"] for entry in TESTS["config"]["env"]} <= KNOWN
    assert TESTS["config"]["allowedCudaVersions"] == HUB["config"]["allowedCudaVersions"]


def test_no_host_is_allowed_whose_driver_the_image_refuses() -> None:
    cuda = tuple(map(int, variables("ARG")["TORCH_CUDA_VERSION"].split(".")))
    for version in HUB["config"]["allowedCudaVersions"]:
        assert tuple(map(int, version.split("."))) >= cuda


def test_the_jobs_that_try_a_deployment_are_of_this_protocol() -> None:
    """If this fails, the protocol changed: `python -m worker.example_jobs` writes the files anew."""
    for path, content in files().items():
        assert json.loads(path.read_text()) == content, path


@pytest.mark.parametrize("job_input", [TEST_INPUT["input"], *[test["input"] for test in TESTS["tests"]]])
def test_the_jobs_that_try_a_deployment_are_answered(job_input: dict[str, str]) -> None:
    hello = open_frame(base64.b64decode(job_input["frame"], validate=True)).message
    assert isinstance(hello, Hello)
    assert hello.protocol == PROTOCOL_VERSION
    handler = Handler(FunctionBackend(digits=lambda x: x))
    try:
        output = asyncio.run(QueueJobs(handler).answer(job_input))
    finally:
        handler.close(10)
    assert output.keys() == {"frame"}
