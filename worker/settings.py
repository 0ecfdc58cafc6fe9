"""The settings of a worker's container, from its environment. README.md lists the variables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from comfy_gpu_offload.backend_factory import BackendName
from comfy_gpu_offload.config.settings import PREFIX, reason
from comfy_gpu_offload.errors import ConfigError

Port = Annotated[int, Field(ge=0, le=65_535)]

# RunPod drops results of over 10 MB without a word: the job completes without an output.
JOB_OUTPUT_BYTES = 9_500_000


class WorkerSettings(BaseSettings):
    """The settings in force, frozen; only from the environment, in which an empty variable counts as unset.

    Attributes:
        serve: `queue` for a queue endpoint, `http` for a load-balancing endpoint or a pod.
        backend: runs the models.
        comfyui: ComfyUI's folder, for the comfyui backend.
        models: a further folder of models, as for `comfy-gpu-offload worker --models`.
        preload: a model to load before the worker is ready.
        concurrency: number of queue jobs that are taken at a time; the model still runs one. With 1, the SDK's
            default, successive jobs begin a second apart; with 3 a trivial one takes 103 ms in place of 1010.
        job_output_bytes: the largest encoded output of a queue job.
        port: on which the HTTP worker listens; 0 for any free port.
        health_port: on which `/ping` is answered as well; None or the number of `port` for no other port.
        pod_id: RunPod's name of this container, set in a pod and in an endpoint's worker.
        endpoint_id: RunPod's name of the endpoint that this worker belongs to.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True)

    serve: Literal["queue", "http"] = "queue"
    backend: BackendName = "comfyui"
    comfyui: Path | None = None
    models: Path | None = None
    preload: Annotated[str, Field(max_length=256)] | None = None
    concurrency: Annotated[int, Field(ge=1, le=64)] = 3
    job_output_bytes: Annotated[int, Field(ge=1_000, le=20_000_000)] = JOB_OUTPUT_BYTES
    port: Port = Field(default=8288, validation_alias="PORT")
    health_port: Port | None = Field(default=None, validation_alias="PORT_HEALTH")
    pod_id: str | None = Field(default=None, validation_alias="RUNPOD_POD_ID")
    endpoint_id: str | None = Field(default=None, validation_alias="RUNPOD_ENDPOINT_ID")


def load_worker_settings() -> WorkerSettings:
    """Return the settings in force.

    Raises:
        ConfigError: a value is wrong; the message names the variable and the reason, never the value.
    """
    try:
        settings = WorkerSettings()
    except ValidationError as error:
        wrong = "\n".join(f"  {variable(str(e['loc'][0]))}: {reason(e['msg'])}" for e in error.errors())
        raise ConfigError(f"Wrong settings:\n{wrong}") from None
    _check_folders(settings)
    return settings


def _check_folders(settings: WorkerSettings) -> None:
    if settings.backend == "comfyui" and not _is_comfyui(settings.comfyui):
        raise ConfigError(
            f"{PREFIX}COMFYUI={settings.comfyui or ''}: this is no ComfyUI folder; name the one that has main.py "
            f"and comfyui_version.py, or set {PREFIX}BACKEND=diffusers."
        )
    if settings.models is not None and not settings.models.exists():
        raise ConfigError(
            f"{PREFIX}MODELS={settings.models}: there is no such file or folder; is the network volume attached? "
            "It is at /runpod-volume in an endpoint's worker and at /workspace in a pod."
        )


def _is_comfyui(folder: Path | None) -> bool:
    return folder is not None and (folder / "comfyui_version.py").is_file()


def variable(name: str) -> str:
    """Return the environment variable of the setting `name`; of an alias, the variable itself."""
    field = WorkerSettings.model_fields.get(name)
    if field is None:
        return name.upper()
    alias = field.validation_alias
    return alias if isinstance(alias, str) else PREFIX + name.upper()
