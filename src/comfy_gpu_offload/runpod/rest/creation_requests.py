"""Descriptions of the pods, endpoints and volumes to make, and the JSON that RunPod takes for them.

Fields that RunPod would fill in to our harm are always sent: without `gpu.count` each create fails as if there were
no capacity, without `timeout` no call of an endpoint may take any time, and without `ports` nothing can be reached.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from ...errors import RunPodRequestError

Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[ -~]+$")]
CudaFloor = Annotated[str, Field(pattern=r"^\d+\.\d+$")]
Ports = Annotated[tuple[Annotated[str, Field(pattern=r"^\d{1,5}/(http|tcp)$")], ...], Field(min_length=1)]
CloudName = Literal["SECURE", "COMMUNITY"]
DISK_GB = 30


class _Creation(BaseModel):
    """Something to make. Its environment and arguments are not shown."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: Name

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """Return a description of these fields.

        Raises:
            RunPodRequestError: one of them is wrong; names it, and says nothing of its value.
        """
        try:
            return cls(**fields)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RunPodRequestError(f"RunPod would refuse what is asked for ({wrong}).")

    def body(self) -> dict[str, Any]:
        """Return the JSON that RunPod takes."""
        raise NotImplementedError

    def secrets(self) -> tuple[str, ...]:
        """Return the texts that no message may repeat."""
        return ()


class _ContainerCreation(_Creation):
    """Something that runs a container.

    Attributes:
        image: of the container.
        args: what replaces the image's command, in one string; empty for the image's own.
        env: the container's environment.
        disk_gb: of the container's disk, which ends with it.
        ports: as ``8288/http``.
        data_centres: the only ones allowed; empty for any. Where none of them has room, RunPod speaks of capacity.
        min_cuda: the least CUDA version of the machine's driver, as ``12.8``.
    """

    image: Annotated[str, Field(min_length=1, pattern=r"^[!-~]+$")]
    args: str = Field(default="", repr=False)
    env: dict[str, SecretStr] = Field(default_factory=dict, repr=False)
    disk_gb: Annotated[int, Field(ge=1)] = DISK_GB
    ports: Ports = ("8288/http",)
    data_centres: tuple[str, ...] = ()
    min_cuda: CudaFloor | None = None
    gpu_count: Annotated[int, Field(ge=1)] = 1

    def secrets(self) -> tuple[str, ...]:
        """See `_Creation`."""
        # A short value, such as `on`, is no secret, and would garble a message.
        return tuple(text for value in self.env.values() if len(text := value.get_secret_value()) >= 8)

    def _container(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "image": self.image,
            "disk": self.disk_gb,
            "ports": list(self.ports),
            "env": {name: value.get_secret_value() for name, value in self.env.items()},
            **({"args": self.args} if self.args else {}),
            **({"dataCenterIds": list(self.data_centres)} if self.data_centres else {}),
        }

    def _gpu(self) -> dict[str, Any]:
        floor = {} if self.min_cuda is None else {"minCudaVersion": self.min_cuda}
        return {"count": self.gpu_count, **floor}


class PodRequest(_ContainerCreation):
    """A pod to make.

    Attributes:
        name: different from that of any other pod: a create whose reply is lost is found by it.
        gpu_id: one type of GPU, as `GpuOffer.id`.
        volume_id, volume_path: a network volume and the folder at which it is mounted; it decides the data centre.
        start_ssh: let the account's SSH keys in.
    """

    gpu_id: Annotated[str, Field(min_length=1)]
    cloud: CloudName = "SECURE"
    volume_id: str | None = None
    volume_path: str = "/workspace"
    start_ssh: bool = False

    def body(self) -> dict[str, Any]:
        """See `_Creation`."""
        network = [{"volumeId": self.volume_id, "path": self.volume_path}]
        return {
            **self._container(),
            "cloud": self.cloud,
            "gpu": {"id": self.gpu_id, **self._gpu()},
            "startSsh": self.start_ssh,
            **({"mounts": {"network": network}} if self.volume_id is not None else {}),
        }


class EndpointRequest(_ContainerCreation):
    """A serverless load-balancing endpoint to make.

    Attributes:
        gpu_pools: any of these serves, as `GpuOffer.pool`.
        excluded_gpus: GPU types, as `GpuOffer.id`, that do not serve all the same.
        workers_min, workers_max: the number of workers; of the least, each bills all the time.
        idle_timeout_s: after which an idle worker ends.
        requests_per_worker: beyond which another worker is started.
        timeout_ms: how long one request may take.
        flashboot: whether RunPod may keep a worker's state for a faster start.
    """

    gpu_pools: Annotated[tuple[str, ...], Field(min_length=1)]
    excluded_gpus: tuple[str, ...] = ()
    workers_min: Annotated[int, Field(ge=0)] = 0
    workers_max: Annotated[int, Field(ge=1)] = 1
    idle_timeout_s: Annotated[int, Field(ge=1, le=3600)] = 60
    requests_per_worker: Annotated[int, Field(ge=1)] = 4
    timeout_ms: Annotated[int, Field(ge=1)] = 330_000
    flashboot: bool = True
    volume_ids: tuple[str, ...] = ()

    def body(self) -> dict[str, Any]:
        """See `_Creation`."""
        excluded = {"excludedTypes": list(self.excluded_gpus)} if self.excluded_gpus else {}
        return {
            **self._container(),
            "type": "LOAD_BALANCER",
            "gpu": {"pools": list(self.gpu_pools), **self._gpu(), **excluded},
            "workers": {"min": self.workers_min, "max": self.workers_max, "idleTimeout": self.idle_timeout_s},
            "scaling": {"type": "REQUEST_COUNT", "requestCount": self.requests_per_worker},
            "timeout": self.timeout_ms,
            "flashboot": "FLASHBOOT" if self.flashboot else "OFF",
            "networkVolumes": list(self.volume_ids),
        }


class VolumeRequest(_Creation):
    """A network volume to make. It bills until it is deleted."""

    size_gb: Annotated[int, Field(ge=10, le=4096)]
    data_centre: Annotated[str, Field(min_length=1)]

    def body(self) -> dict[str, Any]:
        """See `_Creation`."""
        return {"name": self.name, "size": self.size_gb, "dataCenter": self.data_centre}
