"""The forms of what the REST API says, as frozen pydantic models of the fields that are used.

A list may hold what others made, so only what tells one thing from another is required, and words that RunPod may
add become `UNKNOWN`: nothing that bills may be hidden by a field that cannot be read.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from ..schema import ID_PATTERN

Id = Annotated[str, Field(pattern=ID_PATTERN)]
Dollars = Annotated[float, Field(allow_inf_nan=False)]


class _Word(StrEnum):
    """A word of RunPod's; one that is not listed is `UNKNOWN`."""

    @classmethod
    def _missing_(cls, value: object) -> Any:
        return cls("UNKNOWN") if isinstance(value, str) and value != "UNKNOWN" else None


class PodStatus(_Word):
    """A pod's state."""

    PROVISIONING = "PROVISIONING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    EXITED = "EXITED"
    ERROR = "ERROR"
    TERMINATED = "TERMINATED"
    UNKNOWN = "UNKNOWN"

    @property
    def has_ended(self) -> bool:
        """True if no worker can come of it. A pod that has ended without being deleted may bill its disk."""
        return self in {PodStatus.EXITED, PodStatus.ERROR, PodStatus.TERMINATED}


class Availability(_Word):
    """The stock of a GPU type at present."""

    NONE = "NONE"
    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    UNKNOWN = "UNKNOWN"


class WorkerStatus(_Word):
    """The state of a serverless worker."""

    RUNNING = "RUNNING"
    IDLE = "IDLE"
    INITIALIZING = "INITIALIZING"
    THROTTLED = "THROTTLED"
    UNHEALTHY = "UNHEALTHY"
    UNKNOWN = "UNKNOWN"


class _Reply(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", populate_by_name=True)


class Named(_Reply):
    """Something that can be made and deleted. RunPod does not ask that names differ."""

    id: Id
    name: str


class Price(_Reply):
    """Dollars per hour for one GPU. None where it is not offered; 0 means that, too."""

    secure: Dollars | None = None
    community: Dollars | None = None
    serverless: Dollars | None = None


class DataCentre(_Reply):
    """A data centre, and its stock of one GPU type."""

    id: str
    name: str = ""
    availability: Availability = Availability.UNKNOWN


class CudaVersion(_Reply):
    """A CUDA version of machines with one GPU type, and whether one of them is free."""

    version: str
    available: bool


class GpuOffer(_Reply):
    """A GPU type: its memory, price and stock.

    Attributes:
        id: what a pod is made with.
        pool: what a serverless endpoint is made with; None if it is in none.
        memory_gb: of one GPU, in GB.
        secure, community: whether that cloud has it at all.
    """

    id: str
    name: str = ""
    pool: str | None = None
    manufacturer: str = ""
    memory_gb: Annotated[int, Field(ge=0, alias="memory")]
    secure: bool = False
    community: bool = False
    price: Price
    availability: Availability = Availability.UNKNOWN
    data_centres: tuple[DataCentre, ...] = Field(default=(), alias="dataCenters")
    cuda_versions: tuple[CudaVersion, ...] = Field(default=(), alias="cudaVersions")


class PodGpu(_Reply):
    """The GPUs of a pod."""

    id: str
    count: int = 1


class Port(_Reply):
    """A port of a running pod, and where it is reached by TCP."""

    private: int | None = None
    public: int | None = None
    type: str | None = None
    ip: str | None = None


class Runtime(_Reply):
    """The container of a running pod. `uptime_s`: seconds since it started."""

    uptime_s: int | None = Field(default=None, alias="uptime")
    ports: tuple[Port, ...] = ()


class Pod(Named):
    """A pod. Its environment and arguments, which hold secrets, are not kept.

    Attributes:
        cost: dollars per hour at present; 0 for one that has ended.
    """

    status: PodStatus
    cost: Dollars | None = None
    image: str = ""
    cloud: str | None = None
    gpu: PodGpu | None = None
    data_centre: str | None = Field(default=None, alias="dataCenterId")
    cuda_version: str | None = Field(default=None, alias="cudaVersion")
    runtime: Runtime | None = None
    created_at: datetime | None = Field(default=None, alias="createdAt")
    started_at: datetime | None = Field(default=None, alias="startedAt")


class RequestUrls(_Reply):
    """Addresses of an endpoint. A queue endpoint has no `base`."""

    base: str | None = None
    health: str | None = None


class WorkerLimits(_Reply):
    """Limits on the number of an endpoint's workers, and the seconds after which an idle one ends."""

    min: int = 0
    max: int = 0
    idle_timeout_s: int | None = Field(default=None, alias="idleTimeout")


class Endpoint(Named):
    """A serverless endpoint. Its environment and arguments, which hold secrets, are not kept."""

    type: str | None = None
    image: str = ""
    request_urls: RequestUrls = Field(default=RequestUrls(), alias="requestUrls")
    workers: WorkerLimits = WorkerLimits()
    volume_ids: tuple[str, ...] = Field(default=(), alias="networkVolumes")
    created_at: datetime | None = Field(default=None, alias="createdAt")


class Worker(_Reply):
    """A worker of a serverless endpoint. It bills unless it is throttled."""

    id: Id
    status: WorkerStatus
    gpu_type: str | None = Field(default=None, alias="gpuTypeId")
    data_centre: str | None = Field(default=None, alias="dataCenterId")
    uptime_s: int | None = Field(default=None, alias="uptimeSeconds")


class Volume(Named):
    """A network volume, which bills until it is deleted."""

    size_gb: int = Field(alias="size")
    data_centre: str = Field(alias="dataCenter")


class BillingRecord(_Reply):
    """Dollars spent on one pod, endpoint or volume within one span of time."""

    id: str = Field(validation_alias=AliasChoices("podId", "serverlessId", "networkVolumeId"))
    total: Dollars = Field(alias="totalAmount")
    begin: datetime = Field(alias="startTime")
    end: datetime = Field(alias="endTime")


class GpuOffers(_Reply):
    """The catalogue of GPU types."""

    gpus: tuple[GpuOffer, ...]


class Pods(_Reply):
    """The account's pods."""

    pods: tuple[Pod, ...]


class Endpoints(_Reply):
    """The account's serverless endpoints."""

    endpoints: tuple[Endpoint, ...]


class Workers(_Reply):
    """The workers of an endpoint."""

    workers: tuple[Worker, ...]


class Volumes(_Reply):
    """The account's network volumes."""

    volumes: tuple[Volume, ...] = Field(alias="networkVolumes")


class BillingRecords(_Reply):
    """A bill."""

    records: tuple[BillingRecord, ...]
