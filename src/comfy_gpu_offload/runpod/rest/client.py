"""A client of RunPod's REST API, version 2.

Routes: https://docs.runpod.io/api-reference-v2
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel, SecretStr

from ...config.address import Address
from ...config.settings import RUNPOD_POD_ADDRESS, RUNPOD_REST_API, Settings, is_header_text
from ...errors import ConfigError, RunPodNotFoundError, RunPodRequestError
from ...net.clock import Check, Clock
from ..api_requests import ApiHttp, Request
from ..reply_parsing import KEYS_PAGE
from ..schema import ID_PATTERN
from .api_calls import ApiCalls
from .creation import Creatable, Creations
from .creation_requests import CloudName, EndpointRequest, PodRequest, VolumeRequest
from .error_replies import ErrorReplies
from .logs import LogLine, LogQuery, log_lines
from .options import RestOptions
from .pod_address import pod_address
from .schema import (
    BillingRecord,
    BillingRecords,
    Endpoint,
    Endpoints,
    GpuOffer,
    GpuOffers,
    Pod,
    Pods,
    Volume,
    Volumes,
    Worker,
    Workers,
)

Model = TypeVar("Model", bound=BaseModel)
Product = Literal["POD", "SERVERLESS"]
Bucket = Literal["hour", "day", "week", "month", "year"]


class RestClient:
    """RunPod's REST API, asked with one key. Thread-safe.

    `check`, wherever it is taken, is called at least every 0.1 s while something is waited for; what it raises ends
    the wait and is raised. A create that is interrupted so, or by Ctrl-C, gets what it makes deleted; `close`,
    which the end of a `with` block calls, waits for that.

    Args:
        api_key: from https://console.runpod.io/user/settings, with write permission; never shown.
        base_url: the API's address; the key goes nowhere else.
        pod_template: of pods' addresses, as the setting COMFY_GPU_OFFLOAD_RUNPOD_POD_ADDRESS.
        ca_file: certificates to trust besides, as `config.certificates` has it.
        clock: where the time of retries comes from.

    Raises:
        ConfigError: the key is not of the right form.

    Raised by every method that asks RunPod:
        RunPodError: it refused, failed, or could not be asked; which one says why. Those that are retryable have
            been tried again already.
        TlsError: its certificate was not accepted.
    """

    def __init__(
        self,
        api_key: SecretStr,
        *,
        base_url: Address = RUNPOD_REST_API,
        pod_template: str = RUNPOD_POD_ADDRESS,
        ca_file: Path | None = None,
        options: RestOptions | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not is_header_text(api_key.get_secret_value()):
            raise ConfigError(f"RUNPOD_API_KEY: a key is printable ASCII without spaces; make one on {KEYS_PAGE}")
        self._options = options or RestOptions()
        self._pod_template = pod_template
        clock = clock or Clock()
        http = ApiHttp(
            base_url,
            api_key,
            connect_timeout_s=self._options.connect_timeout_s,
            reply_bytes=self._options.reply_bytes,
            ca_file=ca_file,
            setting="COMFY_GPU_OFFLOAD_RUNPOD_API",
        )
        self._calls = ApiCalls(http, ErrorReplies(api_key, clock.wall), clock)
        self._creations = Creations(self._calls, self._options)

    @classmethod
    def of(cls, settings: Settings, clock: Clock | None = None, options: RestOptions | None = None) -> RestClient:
        """Return a client with the key and the addresses of `settings`.

        Raises:
            ConfigError: there is no key.
        """
        if settings.runpod_api_key is None:
            raise ConfigError(
                f"RUNPOD_API_KEY is missing: make a key with write permission at {KEYS_PAGE} (it begins with rpa_) "
                "and put it into the environment or the pack's .env, never into a workflow."
            )
        return cls(
            settings.runpod_api_key,
            base_url=settings.runpod_api,
            pod_template=settings.runpod_pod_address,
            ca_file=settings.ca_file,
            options=options,
            clock=clock,
        )

    def check_key(self, *, check: Check | None = None) -> None:
        """Return if the key is good (``GET /account/ssh-keys``).

        Raises:
            RunPodAuthError: it is not; RunPodForbiddenError if it is known, but may not read this.
        """
        self._calls.call(self._read("/account/ssh-keys"), self._options.retry, check)

    def gpus(
        self,
        product: Product = "POD",
        *,
        cloud: CloudName | None = None,
        count: int = 1,
        min_cuda: str | None = None,
        check: Check | None = None,
    ) -> list[GpuOffer]:
        """Return the GPU types with prices and present stock (``GET /catalog/gpus``).

        Args:
            cloud: whose stock is told; RunPod takes SECURE for None. Prices are told of all.
            min_cuda: count machines with that CUDA version or a later one only.
        """
        query: dict[str, str | int] = {"include": "AVAILABILITY", "product": product, "count": count}
        if cloud is not None:
            query["cloud"] = cloud
        if min_cuda is not None:
            query["minCudaVersion"] = min_cuda
        return list(self._ask(GpuOffers, f"/catalog/gpus?{urlencode(query)}", check).gpus)

    def create_pod(self, wanted: PodRequest, *, check: Check | None = None) -> Pod:
        """Make a pod and return it, which bills from now on (``POST /pods``). Whatever is raised, none is left.

        Raises:
            RunPodCapacityError: there is no such GPU free; another candidate may do.
            RunPodForbiddenError: the account may not have this kind; another candidate may do.
            RunPodBalanceError, RunPodRuleError: no other candidate will do either.
        """
        return self._creations.create(self._pods(), wanted, check)

    def pod(self, pod_id: str, *, check: Check | None = None) -> Pod:
        """Return a pod as it is now (``GET /pods/{id}``)."""
        return self._ask(Pod, f"/pods/{_id(pod_id)}", check)

    def pods(self, *, check: Check | None = None) -> list[Pod]:
        """Return all pods of the account (``GET /pods``)."""
        return list(self._ask(Pods, "/pods", check).pods)

    def pod_address(self, pod_id: str, port: int) -> Address:
        """Return the public address of a pod's HTTP port."""
        return pod_address(self._pod_template, _id(pod_id), port)

    def delete_pod(self, pod_id: str, *, check: Check | None = None) -> None:
        """End a pod for good, with its disk (``DELETE /pods/{id}``). One that is gone already is no error."""
        self._delete(f"/pods/{_id(pod_id)}", check)

    def pod_logs(
        self,
        pod_id: str,
        *,
        tail: int = 100,
        source: Literal["container", "system"] | None = None,
        quiet_s: float | None = None,
        check: Check | None = None,
    ) -> Iterator[LogLine]:
        """Yield the log's last `tail` lines (0 to 5000) and then those that come (``GET /pods/{id}/logs``).

        Ends with the stream, or once `quiet_s` pass without a line; None waits for ever.
        """
        path = f"/pods/{_id(pod_id)}/logs"
        return log_lines(self._calls, path, self._options, LogQuery(tail, source, quiet_s), check)

    def create_endpoint(self, wanted: EndpointRequest, *, check: Check | None = None) -> Endpoint:
        """Make a load-balancing endpoint and return it (``POST /serverless``). Whatever is raised, none is left."""
        return self._creations.create(self._endpoints(), wanted, check)

    def endpoint(self, endpoint_id: str, *, check: Check | None = None) -> Endpoint:
        """Return an endpoint (``GET /serverless/{id}``)."""
        return self._ask(Endpoint, f"/serverless/{_id(endpoint_id)}", check)

    def endpoints(self, *, check: Check | None = None) -> list[Endpoint]:
        """Return all serverless endpoints of the account (``GET /serverless``)."""
        return list(self._ask(Endpoints, "/serverless", check).endpoints)

    def endpoint_workers(self, endpoint_id: str, *, check: Check | None = None) -> list[Worker]:
        """Return an endpoint's workers, which are what bills of it (``GET /serverless/{id}/workers``)."""
        return list(self._ask(Workers, f"/serverless/{_id(endpoint_id)}/workers", check).workers)

    def worker_logs(
        self,
        endpoint_id: str,
        worker_id: str,
        *,
        tail: int = 100,
        quiet_s: float | None = None,
        check: Check | None = None,
    ) -> Iterator[LogLine]:
        """Yield the log of an endpoint's worker, as `pod_logs` does."""
        path = f"/serverless/{_id(endpoint_id)}/workers/{_id(worker_id)}/logs"
        return log_lines(self._calls, path, self._options, LogQuery(tail, None, quiet_s), check)

    def delete_endpoint(self, endpoint_id: str, *, check: Check | None = None) -> None:
        """End an endpoint and its workers (``DELETE /serverless/{id}``). One that is gone already is no error."""
        self._delete(f"/serverless/{_id(endpoint_id)}", check)

    def create_volume(self, wanted: VolumeRequest, *, check: Check | None = None) -> Volume:
        """Make a network volume and return it (``POST /network-volumes``). Whatever is raised, none is left."""
        return self._creations.create(self._volumes(), wanted, check)

    def volumes(self, *, check: Check | None = None) -> list[Volume]:
        """Return all network volumes of the account (``GET /network-volumes``)."""
        return list(self._ask(Volumes, "/network-volumes", check).volumes)

    def delete_volume(self, volume_id: str, *, check: Check | None = None) -> None:
        """Delete a network volume with its files. One that is gone already is no error."""
        self._delete(f"/network-volumes/{_id(volume_id)}", check)

    def pod_billing(
        self, pod_id: str | None = None, *, last: int = 30, bucket: Bucket = "day", check: Check | None = None
    ) -> list[BillingRecord]:
        """Return what that pod, or each pod, cost in each of the last `last` buckets (``GET /billing/pods``)."""
        return self._bill("pods", {"podId": pod_id}, last, bucket, check)

    def endpoint_billing(
        self, endpoint_id: str | None = None, *, last: int = 30, bucket: Bucket = "day", check: Check | None = None
    ) -> list[BillingRecord]:
        """Return what that endpoint, or each, cost in each of the last `last` buckets."""
        return self._bill("serverless", {"serverlessId": endpoint_id}, last, bucket, check)

    def volume_billing(
        self, volume_id: str | None = None, *, last: int = 30, bucket: Bucket = "day", check: Check | None = None
    ) -> list[BillingRecord]:
        """Return what that volume, or each, cost in each of the last `last` buckets."""
        return self._bill("network-volumes", {"networkVolumeId": volume_id}, last, bucket, check)

    def close(self) -> None:
        """Wait for creates whose caller has gone, so that what they make is deleted; close the connections."""
        self._creations.settle(self._options.settle_s)
        self._calls.http.close()

    def __enter__(self) -> RestClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pods(self) -> Creatable[Pod]:
        return Creatable("pod", "/pods", Pod, lambda check: self.pods(check=check), self.delete_pod)

    def _endpoints(self) -> Creatable[Endpoint]:
        return Creatable(
            "endpoint", "/serverless", Endpoint, lambda check: self.endpoints(check=check), self.delete_endpoint
        )

    def _volumes(self) -> Creatable[Volume]:
        return Creatable(
            "volume", "/network-volumes", Volume, lambda check: self.volumes(check=check), self.delete_volume
        )

    def _bill(
        self, of: str, only: dict[str, str | None], last: int, bucket: Bucket, check: Check | None
    ) -> list[BillingRecord]:
        chosen = {name: _id(value) for name, value in only.items() if value is not None}
        query = urlencode({"lastN": last, "bucketSize": bucket, **chosen})
        return list(self._ask(BillingRecords, f"/billing/{of}?{query}", check).records)

    def _ask(self, kind: type[Model], path: str, check: Check | None) -> Model:
        return self._calls.ask(kind, self._read(path), self._options.retry, check)

    def _read(self, path: str) -> Request:
        return Request("GET", path, self._options.read_timeout_s)

    def _delete(self, path: str, check: Check | None) -> None:
        request = Request("DELETE", path, self._options.delete_timeout_s)
        try:
            self._calls.call(request, self._options.delete_retry, check)
        except RunPodNotFoundError:
            return


def _id(text: str) -> str:
    if not re.fullmatch(ID_PATTERN, text):
        raise RunPodRequestError("This is no id of RunPod's: it holds what cannot stand in an address")
    return text
