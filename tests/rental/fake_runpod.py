"""RunPod's REST client as rentals use it, over a dictionary of pods, with real workers and faults on demand."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

from tests.support.backend import FunctionBackend
from tests.support.worker import ThreadWorker

from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.errors import RunPodNotFoundError
from comfy_gpu_offload.runpod.rest.creation_requests import PodRequest, VolumeRequest
from comfy_gpu_offload.runpod.rest.logs import LogLine
from comfy_gpu_offload.runpod.rest.schema import BillingRecord, Endpoint, Pod, PodStatus, Volume

# A port at which nothing listens.
NOWHERE = Address("http", "127.0.0.1", 9)


class FakeRunPod:
    """`with FakeRunPod() as api:` stands for a `RestClient`. `faults[method]` holds what its next calls do.

    A fault is an exception, which is raised, a function, which is called, or None for nothing.

    Attributes:
        pods_made: the requests for pods.
        statuses: through which pods go, one at each look; the last one stays.
        workers_start: whether there is a worker behind a pod.
        worker_token: the worker's, in place of the pod's own.
    """

    def __init__(self) -> None:
        self.faults: dict[str, deque[object]] = defaultdict(deque)
        self.always: dict[str, BaseException] = {}
        self.pods_made: list[PodRequest] = []
        self.requests: list[str] = []
        self.statuses = [PodStatus.PROVISIONING, PodStatus.STARTING, PodStatus.RUNNING]
        self.workers_start = True
        self.worker_token: str | None = None
        self.others = [Pod(id="theirs", name="somebody-elses", status=PodStatus.RUNNING, cost=1.0)]
        self.volumes_there: dict[str, Volume] = {}
        self._pods: dict[str, Pod] = {}
        self._looks: dict[str, int] = {}
        self._workers: dict[str, ThreadWorker] = {}
        self._lines = ["pulling the image", "installing"]

    def __enter__(self) -> FakeRunPod:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.stop()

    @property
    def billing(self) -> list[str]:
        """The names of our pods and volumes, which bill."""
        return sorted([each.name for each in (*self._pods.values(), *self.volumes_there.values())])

    def vanish(self) -> None:
        """Lose all pods, as RunPod may."""
        self._pods.clear()

    def make(self, wanted: PodRequest) -> Pod:
        """Make a pod, whether or not anybody is told."""
        pod_id = f"pod{len(self.pods_made)}"
        self.pods_made.append(wanted)
        self._pods[pod_id] = Pod(id=pod_id, name=wanted.name, status=PodStatus.PROVISIONING, cost=0.4)
        self._looks[pod_id] = 0
        if self.workers_start:
            token = self.worker_token or wanted.env["COMFY_GPU_OFFLOAD_TOKEN"].get_secret_value()
            self._workers[pod_id] = ThreadWorker(FunctionBackend(), token=token).__enter__()
        return self._pods[pod_id]

    def create_pod(self, wanted: PodRequest, **_: object) -> Pod:
        self._begin("create_pod", wanted)
        return self.make(wanted)

    def pod(self, pod_id: str, **_: object) -> Pod:
        self._begin("pod")
        if pod_id not in self._pods:
            raise RunPodNotFoundError("There is no such pod", status=404)
        look = self._looks[pod_id]
        self._looks[pod_id] += 1
        status = self.statuses[min(look, len(self.statuses) - 1)]
        return self._pods[pod_id].model_copy(update={"status": status})

    def pods(self, **_: object) -> list[Pod]:
        self._begin("pods")
        return [*self.others, *self._pods.values()]

    def pod_address(self, pod_id: str, port: int) -> Address:
        assert port == 8288
        return self._workers[pod_id].address if pod_id in self._workers else NOWHERE

    def delete_pod(self, pod_id: str, **_: object) -> None:
        self._begin("delete_pod")
        assert pod_id != "theirs"
        self._pods.pop(pod_id, None)

    def pod_logs(self, pod_id: str, *, tail: int = 100, **_: object) -> Iterator[LogLine]:
        self._begin("pod_logs")
        yield from (LogLine(line=line) for line in (self._lines if tail else []))

    def endpoints(self, **_: object) -> list[Endpoint]:
        self._begin("endpoints")
        return []

    def volumes(self, **_: object) -> list[Volume]:
        self._begin("volumes")
        return list(self.volumes_there.values())

    def create_volume(self, wanted: VolumeRequest, **_: object) -> Volume:
        self._begin("create_volume", wanted)
        made = Volume(id="vol0", name=wanted.name, size_gb=wanted.size_gb, data_centre=wanted.data_centre)
        self.volumes_there[made.id] = made
        return made

    def delete_volume(self, volume_id: str, **_: object) -> None:
        self._begin("delete_volume")
        self.volumes_there.pop(volume_id, None)

    def delete_endpoint(self, endpoint_id: str, **_: object) -> None:
        self._begin("delete_endpoint")

    def pod_billing(self, *_: object, **__: object) -> list[BillingRecord]:
        self._begin("pod_billing")
        return []

    def _begin(self, method: str, *arguments: Any) -> None:
        self.requests.append(method)
        fault = self.faults[method].popleft() if self.faults[method] else self.always.get(method)
        if isinstance(fault, BaseException):
            raise fault
        if fault is not None:
            run: Callable[..., object] = fault  # type: ignore[assignment]
            run(*arguments)
