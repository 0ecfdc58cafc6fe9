"""The plan of a rental: the image and its start script, the worker's environment, disk and volume."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr

from ..config.settings import PREFIX
from ..runpod.rest.creation_requests import EndpointRequest, PodRequest
from .gpu_choice import Candidate

PORT = 8288
POD_VOLUME, ENDPOINT_VOLUME = "/workspace", "/runpod-volume"
# ComfyUI, PyTorch and a model beside them; where there is a volume, models lie there.
DISK_GB, DISK_WITH_VOLUME_GB = 80, 30
# Of the CUDA that PyTorch's builds in the images are for.
MIN_CUDA = "12.8"


@dataclass(frozen=True)
class Plan:
    """A plan for a rental, whichever GPU it gets.

    Attributes:
        image: of the container.
        args: replaces its command; empty for its own.
        idle_minutes: after which the worker leaves; 0 for never. Of an endpoint, the platform ends idle workers.
        at_most_minutes: after which the worker leaves in any case; None for no limit.
        volume_id: of a network volume.
        disk_gb: of the container's disk; None for a usual size.
        workers: of an endpoint, at most.
    """

    image: str
    args: str = ""
    idle_minutes: int = 20
    at_most_minutes: int | None = None
    volume_id: str | None = None
    disk_gb: int | None = None
    workers: int = 1

    def pod(self, name: str, candidate: Candidate, token: SecretStr) -> PodRequest:
        """Return the request for a pod.

        Raises:
            RunPodRequestError: a part of it is wrong.
        """
        return PodRequest.of(
            **self._container(name, candidate),
            env=self._environment() | {f"{PREFIX}TOKEN": token} | self._limits(),
            args=self.args,
            gpu_id=candidate.gpu,
            cloud=candidate.cloud,
            volume_id=self.volume_id,
            volume_path=POD_VOLUME,
        )

    def endpoint(self, name: str, candidate: Candidate) -> EndpointRequest:
        """Return the request for a load-balancing endpoint. It has no token: RunPod's edge takes the account's key.

        Raises:
            RunPodRequestError: a part of it is wrong.
        """
        return EndpointRequest.of(
            **self._container(name, candidate),
            env=self._environment() | {"PORT_HEALTH": SecretStr(str(PORT))},
            args=self.args,
            gpu_pools=(candidate.gpu,),
            workers_max=self.workers,
            # RunPod keeps no idle worker for longer than an hour; so neither does 0, for never.
            idle_timeout_s=min(3600, self.idle_minutes * 60 or 3600),
            volume_ids=() if self.volume_id is None else (self.volume_id,),
        )

    def _container(self, name: str, candidate: Candidate) -> dict[str, object]:
        with_volume = DISK_GB if self.volume_id is None else DISK_WITH_VOLUME_GB
        return {
            "name": name,
            "image": self.image,
            "disk_gb": self.disk_gb or with_volume,
            "ports": (f"{PORT}/http",),
            "data_centres": candidate.data_centres,
            "min_cuda": MIN_CUDA,
        }

    def _environment(self) -> dict[str, SecretStr]:
        values = {f"{PREFIX}SERVE": "http", "PORT": str(PORT), f"{PREFIX}MODEL_DOWNLOADS": "on"}
        return {name: SecretStr(value) for name, value in values.items()}

    def _limits(self) -> dict[str, SecretStr]:
        values = {f"{PREFIX}IDLE_EXIT_MINUTES": str(self.idle_minutes)}
        if self.at_most_minutes is not None:
            values[f"{PREFIX}AT_MOST_MINUTES"] = str(self.at_most_minutes)
        return {name: SecretStr(value) for name, value in values.items()}
