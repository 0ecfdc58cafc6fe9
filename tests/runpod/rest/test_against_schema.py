"""Every route that the client uses, against servers that validate requests by RunPod's own schema."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from pydantic import SecretStr
from tests.support.prism import Prism, needed
from tests.support.runpod_api import KEY, FakeClock
from tests.support.runpod_cloud import RunpodCloud

from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.errors import RunPodAuthError, RunPodRuleError
from comfy_gpu_offload.runpod.rest.client import RestClient
from comfy_gpu_offload.runpod.rest.creation_requests import EndpointRequest, PodRequest, VolumeRequest
from comfy_gpu_offload.runpod.rest.options import RestOptions
from comfy_gpu_offload.runpod.rest.schema import Availability, PodStatus, WorkerStatus

POD = PodRequest.of(
    name="a",
    image="a/b:c",
    gpu_id="NVIDIA L4",
    env={"TOKEN": "a-secret-value"},
    args="sh -c true",
    min_cuda="12.8",
    data_centres=("EU-RO-1",),
    start_ssh=True,
)
ENDPOINT = EndpointRequest.of(
    name="a", image="a/b:c", gpu_pools=("AMPERE_24",), excluded_gpus=("NVIDIA A30",), data_centres=("EU-RO-1",)
)
VOLUME = VolumeRequest.of(name="a", size_gb=20, data_centre="EU-RO-1")
ROUTES: dict[str, Callable[[RestClient], Any]] = {
    "GET /account/ssh-keys": lambda client: client.check_key(),
    "GET /catalog/gpus": lambda client: client.gpus("POD", cloud="COMMUNITY", count=1, min_cuda="12.8"),
    "POST /pods": lambda client: client.create_pod(POD),
    "GET /pods": lambda client: client.pods(),
    "GET /pods/{id}": lambda client: client.pod("abc123"),
    "DELETE /pods/{id}": lambda client: client.delete_pod("abc123"),
    "GET /pods/{id}/logs": lambda client: list(client.pod_logs("abc123", tail=0, source="container")),
    "POST /serverless": lambda client: client.create_endpoint(ENDPOINT),
    "GET /serverless": lambda client: client.endpoints(),
    "GET /serverless/{id}": lambda client: client.endpoint("abc123"),
    "GET /serverless/{id}/workers": lambda client: client.endpoint_workers("abc123"),
    "GET /serverless/{id}/workers/{workerId}/logs": lambda client: list(client.worker_logs("abc123", "def456")),
    "DELETE /serverless/{id}": lambda client: client.delete_endpoint("abc123"),
    "POST /network-volumes": lambda client: client.create_volume(VOLUME),
    "GET /network-volumes": lambda client: client.volumes(),
    "DELETE /network-volumes/{id}": lambda client: client.delete_volume("abc123"),
    "GET /billing/pods": lambda client: client.pod_billing("abc123", last=3, bucket="hour"),
    "GET /billing/serverless": lambda client: client.endpoint_billing("abc123"),
    "GET /billing/network-volumes": lambda client: client.volume_billing(),
}


def client_of(url: str, key: str = KEY) -> RestClient:
    # The examples of RunPod's schema tell of an exhausted limit, which no test need wait for.
    return RestClient(
        SecretStr(key),
        base_url=Address.parse(f"{url}/v2"),
        clock=FakeClock().clock,
        options=RestOptions(look_after_s=(0.0,)),
    )


@pytest.fixture(scope="module")
def prism(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prism]:
    needed()
    with Prism(tmp_path_factory.mktemp("prism")) as made:
        yield made


@pytest.mark.parametrize("route", ROUTES)
def test_each_request_is_valid_and_each_reply_is_understood(prism: Prism, route: str) -> None:
    begun = len(prism.log)
    reply = ROUTES[route](client_of(prism.url))
    log = prism.log[begun:]
    method, path = route.split(" ")
    form = re.sub(r"\{\w+\}", r"[\\w-]+", path)
    assert re.search(rf"\] {method.lower()} /v2{form} .*Request received", log), log
    assert "violat" not in log.lower(), log
    assert reply is None or reply != []


def test_replies_have_the_values_of_the_schemas_examples(prism: Prism) -> None:
    client = client_of(prism.url)
    offer = client.gpus()[0]
    assert (offer.id, offer.pool, offer.memory_gb) == ("NVIDIA GeForce RTX 4090", "ADA_24", 24)
    assert (offer.price.secure, offer.price.community, offer.price.serverless) == (0.44, 0.31, 1.1)
    assert offer.data_centres[0].availability is Availability.HIGH
    pod = client.pod("abc123")
    assert (pod.status, pod.cost, pod.data_centre) == (PodStatus.RUNNING, 0.44, "US-KS-2")
    assert pod.runtime is not None
    assert pod.runtime.ports[0].public == 34446
    assert client.endpoint("abc123").request_urls.base == "https://4m7x2k9q.api.runpod.ai"
    assert client.endpoint_workers("abc123")[0].status is WorkerStatus.RUNNING
    assert next(client.pod_logs("abc123")).line == "Model loaded."
    assert client.pod_billing("abc123")[0].total == 12.34


def changed(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in {**POD.body(), **fields}.items() if value is not None}


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("pods", changed(bogus=1), "bogus"),
        ("pods", changed(gpu={"id": "a", "bogus": 1}), "bogus"),
        ("serverless", {**ENDPOINT.body(), "bogus": 1}, "bogus"),
        ("serverless", {**ENDPOINT.body(), "gpu": {"pools": ["a"], "bogus": 1}}, "bogus"),
        ("pods", changed(name=None), "name"),
        ("pods", changed(image=None), "image"),
        ("pods", changed(cloud="MOON"), "cloud"),
        ("pods", changed(ports="8288/http"), "ports"),
        ("pods", changed(disk=0), "disk"),
        ("pods", changed(gpu={"count": 1}), "id"),
        ("pods", changed(gpu={"id": "a", "count": 0}), "count"),
        ("pods", changed(gpu={"id": "a", "minCudaVersion": "12"}), "minCudaVersion"),
        ("pods", changed(mounts={"network": [{"volumeId": "v"}]}), "path"),
        ("pods", changed(env={"A": 1}), "env"),
        ("serverless", {**ENDPOINT.body(), "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4}}, "scaling"),
        ("serverless", {**ENDPOINT.body(), "gpu": {"count": 1}}, "pools"),
        ("serverless", {**ENDPOINT.body(), "workers": {"idleTimeout": 0}}, "idleTimeout"),
        ("serverless", {**ENDPOINT.body(), "flashboot": True}, "flashboot"),
        ("network-volumes", {**VOLUME.body(), "size": 9}, "size"),
        ("network-volumes", {**VOLUME.body(), "bogus": 1}, "bogus"),
    ],
)
def test_the_schema_refuses_a_wrong_body_by_name(prism: Prism, path: str, body: dict[str, Any], named: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    reply = requests.post(f"{prism.url}/v2/{path}", json=body, headers=headers, timeout=60)
    assert reply.status_code == 422
    assert named in reply.headers["sl-violations"]


def test_a_refusal_by_the_schema_is_a_broken_rule(prism: Prism) -> None:
    wrong = POD.model_copy(update={"disk_gb": 0})
    with pytest.raises(RunPodRuleError, match="breaks a rule"):
        client_of(prism.url).create_pod(wrong)


def test_the_stand_in_keeps_to_the_schema(tmp_path: Path) -> None:
    """Run the client's whole course through a proxy that refuses a request or a reply that breaks the schema."""
    needed()
    with RunpodCloud(per_minute=1000) as cloud, Prism(tmp_path, cloud.url) as proxy:
        client = client_of(proxy.url, cloud.key)
        client.check_key()
        assert {offer.availability for offer in client.gpus("SERVERLESS")} == {"HIGH"}
        volume = client.create_volume(VOLUME)
        pod = client.create_pod(POD.model_copy(update={"volume_id": volume.id}))
        assert [client.pod(pod.id).status for _ in range(3)][-1] is PodStatus.RUNNING
        endpoint = client.create_endpoint(ENDPOINT)
        assert client.endpoint(endpoint.id).name == "a -fb"
        client.endpoint_workers(endpoint.id)
        for listed in (client.pods(), client.endpoints(), client.volumes()):
            assert len(listed) == 1
        assert client.pod_billing()[0].id == pod.id
        assert client.endpoint_billing()[0].id == endpoint.id
        assert client.volume_billing()[0].id == volume.id
        client.delete_pod(pod.id)
        client.delete_endpoint(endpoint.id)
        client.delete_volume(volume.id)
        client.delete_pod(pod.id)
        assert cloud.billing_now() == []
        with pytest.raises(RunPodRuleError):
            client.create_pod(POD.model_copy(update={"gpu_id": "NVIDIA GTX 9"}))
        with pytest.raises(RunPodAuthError):
            client_of(proxy.url, "rpa_wrong").pods()
