"""The stand-in for RunPod: it keeps state, bills, refuses as RunPod does, and runs real workers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests
import torch
from pydantic import SecretStr
from tests.support.faults import Fault, bad_gateway
from tests.support.platforms import needs_posix
from tests.support.runpod_cloud import PodPlan, RunpodCloud
from tests.support.runpod_cloud.containers import Running, start_script, worker

from comfy_gpu_offload.client.connect import connect
from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.digits import sampling
from comfy_gpu_offload.digits.model import load
from comfy_gpu_offload.errors import (
    RunPodBalanceError,
    RunPodCapacityError,
    RunPodForbiddenError,
    RunPodNotFoundError,
    RunPodRuleError,
)
from comfy_gpu_offload.rental.start_script import StartOptions, start_args
from comfy_gpu_offload.runpod.rest.client import RestClient
from comfy_gpu_offload.runpod.rest.creation_requests import EndpointRequest, PodRequest, VolumeRequest
from comfy_gpu_offload.runpod.rest.options import RestOptions
from comfy_gpu_offload.runpod.rest.schema import PodStatus, WorkerStatus

pytestmark = needs_posix

TOKEN = "a-token-of-the-pods-own"
ENV = {"COMFY_GPU_OFFLOAD_TOKEN": TOKEN}
DIGITS = ("--backend", "diffusers", "--cpu")
HOUR = 3600.0


def wanted(name: str = "comfy-gpu-offload-0123abcd", gpu_id: str = "NVIDIA L4", **fields: object) -> PodRequest:
    return PodRequest.of(**{"name": name, "image": "a/b:c", "gpu_id": gpu_id, "env": ENV, **fields})


def client_of(cloud: RunpodCloud, key: str | None = None) -> RestClient:
    return RestClient(
        SecretStr(key or cloud.key),
        base_url=Address.parse(cloud.api),
        pod_template=cloud.pod_template,
        options=RestOptions(look_after_s=(0.0, 0.0)),
    )


@pytest.fixture
def cloud() -> Iterator[RunpodCloud]:
    """Run a cloud whose pods hold nothing."""
    with RunpodCloud() as made:
        yield made


def container_of(cloud: RunpodCloud, pod_id: str) -> Running:
    container = cloud.pods[pod_id].container
    assert container is not None
    return container


def test_a_pod_runs_a_real_worker_until_it_is_deleted(tmp_path: Path) -> None:
    with RunpodCloud(worker(*DIGITS, folder=tmp_path)) as cloud, client_of(cloud) as client:
        pod = client.create_pod(wanted())
        address = str(client.pod_address(pod.id, 8288))
        states = [client.pod(pod.id).status for _ in range(3)]
        assert states == [PodStatus.PROVISIONING, PodStatus.STARTING, PodStatus.RUNNING]
        with connect(address, TOKEN, retry_s=120) as session:
            remote = session.model("digits")
            there = sampling.sample(remote, [3, 8], steps=2, dtype=remote.dtype)
            assert torch.equal(there, sampling.sample(load(remote.dtype), [3, 8], steps=2, dtype=remote.dtype))
        container = container_of(cloud, pod.id)
        assert container.starts == 1
        cloud.crash(pod.id)
        assert cloud.wait_for(lambda: container.starts == 2 and container.url is not None, 120)
        assert [line.line for line in client.pod_logs(pod.id, source="system", quiet_s=0.2)] == [
            "create container",
            "start container",
        ]
        assert any("listening on" in line.line for line in client.pod_logs(pod.id, quiet_s=0.2))
        client.delete_pod(pod.id)
        assert cloud.billing_now() == []
        assert cloud.wait_for(lambda: not container.runs, 60)
        assert requests.get(f"{address}/ping", timeout=30).status_code == 502


def test_the_start_script_runs_as_the_pods_command_and_deletes_its_pod(tmp_path: Path) -> None:
    with RunpodCloud() as cloud:
        cloud.set_starter(start_script(tmp_path))
        options = StartOptions(
            "0.1.0", None, True, api=cloud.api, graphql=cloud.graphql, gone_s=1, again_s=1, pause_s=1
        )
        env = {**ENV, "COMFY_GPU_OFFLOAD_IDLE_EXIT_MINUTES": "20"}
        pod = client_of(cloud).create_pod(wanted(args=start_args(options), env=env))
        # `python -m worker` is not in a stock folder: it crashes until the script gives up and ends the pod.
        assert cloud.wait_for(lambda: not cloud.billing_now(), 120), cloud.pods[pod.id].log.text()
        assert ("DELETE", f"/pods/{pod.id}") in cloud.asked
        assert TOKEN not in cloud.pods[pod.id].log.text()


def test_an_endpoint_has_an_address_a_worker_and_its_health(tmp_path: Path) -> None:
    with RunpodCloud(worker(*DIGITS, folder=tmp_path)) as cloud, client_of(cloud) as client:
        made = client.create_endpoint(EndpointRequest.of(name="a", image="a/b", gpu_pools=("AMPERE_24",)))
        assert made.name == "a -fb"
        edge = cloud.endpoints[made.id].edge
        assert edge.wait_until_ready(timeout_s=120)
        assert [each.status for each in client.endpoint_workers(made.id)] == [WorkerStatus.IDLE]
        health = requests.get(
            f"{cloud.settings()['RUNPOD_BASE_URL']}/{made.id}/health",
            headers={"Authorization": f"Bearer {cloud.key}"},
            timeout=30,
        )
        assert health.json()["workers"]["ready"] == 1
        client.delete_endpoint(made.id)
        assert cloud.billing_now() == []


@pytest.mark.parametrize(
    ("plan", "status"),
    [
        (PodPlan(0, 0), PodStatus.RUNNING),
        (PodPlan(0, 0, "error"), PodStatus.ERROR),
        (PodPlan(0, 0, "exited"), PodStatus.EXITED),
        (PodPlan(0, 0, "stuck"), PodStatus.PROVISIONING),
    ],
)
def test_each_plan_ends_where_it_says_and_bills(plan: PodPlan, status: PodStatus) -> None:
    with RunpodCloud(plans=[plan]) as cloud:
        client = client_of(cloud)
        pod = client.create_pod(wanted())
        assert client.pod(pod.id).status is status
        assert [bill.id for bill in cloud.billing_now()] == [pod.id]
        cloud.advance(2 * HOUR)
        (record,) = client.pod_billing(pod.id)
        assert record.total == pytest.approx(0.78, rel=0.01)


def test_a_pod_that_vanishes_is_gone_and_bills_no_more() -> None:
    with RunpodCloud(plans=[PodPlan(0, 0, "vanishes"), PodPlan()]) as cloud:
        client = client_of(cloud)
        pod = client.create_pod(wanted())
        with pytest.raises(RunPodNotFoundError):
            client.pod(pod.id)
        assert client.pods() == []
        assert cloud.billing_now() == []


def test_what_is_empty_is_refused_and_the_catalogue_may_be_late(cloud: RunpodCloud) -> None:
    client = client_of(cloud)
    cloud.capacity.empty = {"NVIDIA L4", "NVIDIA L40S COMMUNITY", "NVIDIA RTX A4000 EU-RO-1"}
    offers = {offer.id: offer for offer in client.gpus("POD", cloud="COMMUNITY")}
    assert offers["NVIDIA L4"].availability == offers["NVIDIA L40S"].availability == "NONE"
    assert [centre.availability for centre in offers["NVIDIA RTX A4000"].data_centres] == ["NONE", "HIGH"]
    cloud.capacity.is_late = True
    assert {offer.availability for offer in client.gpus("POD")} == {"HIGH"}
    for refused in (
        wanted(),
        wanted(gpu_id="NVIDIA L40S", cloud="COMMUNITY"),
        wanted(gpu_id="NVIDIA RTX A4000", data_centres=("EU-RO-1",)),
        wanted(gpu_id="NVIDIA A100 80GB PCIe", data_centres=("XX-NO-1",)),
    ):
        with pytest.raises(RunPodCapacityError):
            client.create_pod(refused)
    assert cloud.billing_now() == []


def test_a_gpu_without_a_count_looks_like_no_capacity(cloud: RunpodCloud) -> None:
    reply = requests.post(
        f"{cloud.api}/pods",
        json={"name": "a", "image": "b", "gpu": {"id": "NVIDIA L4"}},
        headers={"Authorization": f"Bearer {cloud.key}"},
        timeout=30,
    )
    assert reply.status_code == 400
    assert "no longer any instances" in reply.json()["detail"]


def test_wrong_keys_empty_accounts_and_wrong_bodies_are_refused() -> None:
    with RunpodCloud(balance=0.5, read_only=False) as cloud:
        client = client_of(cloud)
        with pytest.raises(RunPodBalanceError):
            client.create_pod(wanted(gpu_id="NVIDIA A100 80GB PCIe"))
        with pytest.raises(RunPodRuleError, match="unknown data center"):
            client.create_volume(VolumeRequest.of(name="a", size_gb=10, data_centre="XX-NO-1"))
        pod = client.create_pod(wanted(gpu_id="NVIDIA L4"))
        cloud.pod_key_may = frozenset()
        with pytest.raises(RunPodForbiddenError):
            client_of(cloud, cloud.pods[pod.id].key).delete_pod(pod.id)


def test_a_volume_bills_until_it_is_deleted(cloud: RunpodCloud) -> None:
    client = client_of(cloud)
    volume = client.create_volume(VolumeRequest.of(name="a", size_gb=100, data_centre="EU-RO-1"))
    pod = client.create_pod(wanted(volume_id=volume.id))
    assert client.pod(pod.id).data_centre == "EU-RO-1"
    client.delete_pod(pod.id)
    assert [bill.kind for bill in cloud.billing_now()] == ["volume"]
    client.delete_volume(volume.id)
    assert cloud.billing_now() == []
    assert client.volumes() == []


def test_the_minutes_limit_is_told_and_enforced() -> None:
    with RunpodCloud(per_minute=2) as cloud:
        headers = {"Authorization": f"Bearer {cloud.key}"}
        replies = [requests.get(f"{cloud.api}/pods", headers=headers, timeout=30) for _ in range(3)]
        assert [reply.status_code for reply in replies] == [200, 200, 429]
        assert "r=0" in replies[1].headers["RateLimit"]
        assert 0 < int(replies[2].headers["Retry-After"]) <= 60
        cloud.advance(60)
        assert requests.get(f"{cloud.api}/pods", headers=headers, timeout=30).status_code == 200


def test_graphql_ends_a_pod_and_makes_one_that_ends_by_itself(cloud: RunpodCloud) -> None:
    def ask(key: str, query: str) -> dict[str, object]:
        headers = {"Authorization": f"Bearer {key}"}
        return dict(requests.post(cloud.graphql, json={"query": query}, headers=headers, timeout=30).json())

    pod = client_of(cloud).create_pod(wanted())
    end = f'mutation {{ podTerminate(input: {{podId: "{pod.id}"}}) }}'
    assert "errors" in ask("rpa_wrong", end)
    assert ask(cloud.pods[pod.id].key, end) == {"data": {"podTerminate": None}}
    assert "errors" in ask(cloud.key, end)
    made = ask(
        cloud.key,
        'mutation { podFindAndDeployOnDemand(input: {name: "a", imageName: "b", gpuTypeId: "NVIDIA L4", '
        'gpuCount: 1, terminateAfter: "2100-01-01T00:00:00Z"}) { id } }',
    )
    assert "errors" not in made
    assert len(cloud.billing_now()) == 1
    cloud.advance(80 * 365 * 24 * HOUR)
    assert cloud.billing_now() == []


def test_a_delete_without_effect_bills_on_until_it_has_one() -> None:
    with RunpodCloud(plans=[PodPlan(undeletable=1)]) as cloud:
        client = client_of(cloud)
        pod = client.create_pod(wanted())
        client.delete_pod(pod.id)
        assert [bill.id for bill in cloud.billing_now()] == [pod.id]
        client.delete_pod(pod.id)
        assert cloud.billing_now() == []


def test_a_create_whose_reply_is_lost_leaves_one_pod(cloud: RunpodCloud) -> None:
    for fault in (Fault(drop="reply"), Fault(drop="request"), bad_gateway()):
        cloud.faults.add("POST /pods", fault)
        pod = client_of(cloud).create_pod(wanted())
        assert [bill.id for bill in cloud.billing_now()] == [pod.id]
        client_of(cloud).delete_pod(pod.id)


def test_a_log_is_followed_and_taken_up_where_it_was_lost(cloud: RunpodCloud) -> None:
    with closing(client_of(cloud)) as client:
        pod = client.create_pod(wanted())
        log = cloud.pods[pod.id].log
        log.add("one")
        lines = client.pod_logs(pod.id, source="container")
        assert next(lines).line == "one"
        threading.Timer(0.2, log.add, ["two\x1b[2J"]).start()
        assert next(lines).line == "two\ufffd[2J"
        cloud.drop_connections()
        log.add("three")
        assert next(lines).line == "three"
        cloud.vanish(pod.id)
        assert list(lines) == []
