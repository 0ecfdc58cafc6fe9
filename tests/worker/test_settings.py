from __future__ import annotations

import re
from pathlib import Path

import pytest
from worker.settings import JOB_OUTPUT_BYTES, WorkerSettings, load_worker_settings, variable

from comfy_gpu_offload.config.settings import PREFIX, Settings
from comfy_gpu_offload.errors import ConfigError

ROOT = Path(__file__).parents[2]
VARIABLES = [variable(name) for name in WorkerSettings.model_fields]


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COMFY_GPU_OFFLOAD_BACKEND", "diffusers")


def test_without_anything_set_it_is_a_queue_endpoints_comfyui_worker() -> None:
    settings = WorkerSettings.model_construct()
    assert (settings.serve, settings.backend) == ("queue", "comfyui")
    assert (settings.concurrency, settings.port, settings.health_port) == (3, 8288, None)
    assert settings.job_output_bytes == JOB_OUTPUT_BYTES == 9_500_000


def test_every_variable_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = {
        "COMFY_GPU_OFFLOAD_SERVE": "http",
        "COMFY_GPU_OFFLOAD_BACKEND": "diffusers",
        "COMFY_GPU_OFFLOAD_COMFYUI": str(tmp_path),
        "COMFY_GPU_OFFLOAD_MODELS": str(tmp_path),
        "COMFY_GPU_OFFLOAD_PRELOAD": "some-model",
        "COMFY_GPU_OFFLOAD_CONCURRENCY": "5",
        "COMFY_GPU_OFFLOAD_JOB_OUTPUT_BYTES": "1000000",
        "PORT": "80",
        "PORT_HEALTH": "81",
        "RUNPOD_POD_ID": "pod",
        "RUNPOD_ENDPOINT_ID": "endpoint",
    }
    assert sorted(given) == sorted(VARIABLES)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    read = load_worker_settings()
    assert {variable(name): str(getattr(read, name)) for name in WorkerSettings.model_fields} == given


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        if not name.endswith("BACKEND"):
            monkeypatch.setenv(name, "")
    settings = load_worker_settings()
    assert (settings.preload, settings.models, settings.health_port, settings.endpoint_id) == (None,) * 4


def test_they_cannot_be_changed() -> None:
    with pytest.raises(Exception, match="frozen"):
        load_worker_settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COMFY_GPU_OFFLOAD_SERVE", "both-SECRET"),
        ("COMFY_GPU_OFFLOAD_BACKEND", "magic-SECRET"),
        ("COMFY_GPU_OFFLOAD_CONCURRENCY", "0"),
        ("COMFY_GPU_OFFLOAD_CONCURRENCY", "many-SECRET"),
        ("COMFY_GPU_OFFLOAD_JOB_OUTPUT_BYTES", "30000000"),
        ("COMFY_GPU_OFFLOAD_PRELOAD", "SECRET" * 100),
        ("PORT", "65536"),
        ("PORT_HEALTH", "http-SECRET"),
    ],
)
def test_a_wrong_value_names_the_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as refused:
        load_worker_settings()
    assert f"  {name}: " in str(refused.value)
    assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"COMFY_GPU_OFFLOAD_BACKEND": "comfyui"}, "COMFY_GPU_OFFLOAD_COMFYUI="),
        (
            {"COMFY_GPU_OFFLOAD_BACKEND": "comfyui", "COMFY_GPU_OFFLOAD_COMFYUI": "/nowhere"},
            "COMFY_GPU_OFFLOAD_COMFYUI",
        ),
        ({"COMFY_GPU_OFFLOAD_MODELS": "/runpod-volume/nothing"}, "network volume"),
    ],
)
def test_a_folder_that_is_not_there_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], says: str
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=re.escape(says)):
        load_worker_settings()


SHARED = ("token", "frame_bytes", "store_bytes", "upload_folder", "upload_bytes", "model_bytes")


def test_the_readme_explains_every_variable() -> None:
    text = (ROOT / "worker" / "README.md").read_text()
    shared = [f"{PREFIX}{name.upper()}" for name in SHARED]
    assert {name.removeprefix(PREFIX).lower() for name in shared} <= Settings.model_fields.keys()
    for name in VARIABLES + shared:
        assert f"| `{name}` |" in text, name
