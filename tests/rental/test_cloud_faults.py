"""Faults at RunPod while a pod is rented or given back, through the real client: a worker or one clear error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import sleep

import pytest
from pydantic import SecretStr
from tests.support.platforms import needs_posix
from tests.support.runpod_cloud import RunpodCloud
from tests.support.runpod_cloud.containers import ThreadContainer
from tests.support.runpod_cloud.fault_plans import DOWN, UP, FaultPlan

from comfy_gpu_offload.config.settings import Settings, given_settings, variable
from comfy_gpu_offload.errors import OffloadError
from comfy_gpu_offload.net.clock import Clock
from comfy_gpu_offload.rental import ending
from comfy_gpu_offload.rental.context import RentalContext
from comfy_gpu_offload.rental.ending import chosen, end_all, raised_together
from comfy_gpu_offload.rental.give_back import give_back
from comfy_gpu_offload.rental.gpu_choice import Candidate
from comfy_gpu_offload.rental.interruptions import Interruptions
from comfy_gpu_offload.rental.plan import Plan
from comfy_gpu_offload.rental.pods import PodRental
from comfy_gpu_offload.rental.progress import Progress
from comfy_gpu_offload.rental.records import Records, Rental
from comfy_gpu_offload.rental.renting import Renting
from comfy_gpu_offload.runpod.rest.client import RestClient
from comfy_gpu_offload.runpod.rest.schema import Availability

CANDIDATES = tuple(
    Candidate(gpu, gpu, 24, cloud, price, Availability.HIGH)
    for gpu, cloud, price in [("NVIDIA L4", "COMMUNITY", 0.29), ("NVIDIA L4", "SECURE", 0.39)]
)
BEFORE = "COMFY_GPU_OFFLOAD_URL=https://before.example\n"
_BRIEFLY_S = 0.001


class Said:
    """The lines that a user was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, text: str) -> None:
        self.lines.append(text)

    detail = note = stage


@dataclass
class Desk:
    """Everything that a rental takes, and a clock that passes only while it is waited by, at the cloud as here."""

    cloud: RunpodCloud
    context: RentalContext
    said: Said
    env_file: Path
    clock: Clock

    def rent(self) -> Rental:
        pods = PodRental(self.context, Plan("image:1", "args"), clock=self.clock)
        return Renting(self.context, pods, self.env_file, self.give_back).rent(CANDIDATES)[0]

    def end(self) -> None:
        api, records = self.context.api, self.context.records
        ended, errors = end_all(self.context, chosen(api, records, [], everything=True, volumes=False))
        raised_together(errors)
        assert len(ended) == 1

    def give_back(self, api: RestClient, rental: Rental, progress: Progress) -> int:
        return give_back(api, rental, progress, wait=self.clock.sleep)


@contextmanager
def desk_at(cloud: RunpodCloud, folder: Path) -> Iterator[Desk]:
    time = [0.0]

    def pass_time(seconds: float) -> None:
        time[0] += seconds
        cloud.pass_time(seconds)
        sleep(_BRIEFLY_S)  # for the threads of workers and logs

    clock = Clock(monotonic=lambda: time[0], wall=cloud.now, sleep=pass_time)
    given = {
        "runpod_api_key": SecretStr(cloud.key),
        "runpod_api": cloud.api,
        "runpod_pod_address": cloud.pod_template,
        "rental_folder": folder / "rentals",
        "ready_timeout_s": 120,
    }
    settings = given_settings(**given)
    env_file = folder / ".env"
    env_file.write_text(BEFORE)
    said = Said()
    with RestClient.of(settings, clock) as api, Interruptions() as interruptions:
        context = RentalContext(api, settings, Records(settings.rental_folder), said, interruptions)
        yield Desk(cloud, context, said, env_file, clock)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)


def assert_no_secret_in(text: str, cloud: RunpodCloud) -> None:
    assert cloud.key not in text
    for pod in cloud.pods.values():
        assert pod.body["env"]["COMFY_GPU_OFFLOAD_TOKEN"] not in text


@needs_posix
@pytest.mark.parametrize("plan", UP.values(), ids=UP.keys())
def test_up_ends_in_a_worker_or_one_clear_error(plan: FaultPlan, tmp_path: Path) -> None:
    with RunpodCloud(ThreadContainer, plan.plans, **plan.cloud) as cloud, desk_at(cloud, tmp_path) as desk:
        plan.apply(cloud)
        if plan.error is None:
            rental = desk.rent()
            assert [bill.id for bill in cloud.billing_now()] == [rental.id], desk.said.lines
            assert desk.context.records.all() == (rental,)
            assert f"COMFY_GPU_OFFLOAD_URL={rental.url}" in desk.env_file.read_text()
        else:
            with pytest.raises(OffloadError) as raised:
                desk.rent()
            assert type(raised.value) is plan.error, str(raised.value)
            assert len(cloud.billing_now()) == plan.bills
            assert len(desk.context.records.all()) == plan.bills  # `down` finds it
            assert desk.env_file.read_text() == BEFORE
            assert_no_secret_in(str(raised.value), cloud)
        if plan.bills == 0:
            assert len(cloud.pods) == plan.pods, desk.said.lines
        assert_no_secret_in("\n".join(desk.said.lines), cloud)


@needs_posix
@pytest.mark.parametrize("plan", DOWN.values(), ids=DOWN.keys())
def test_down_ends_with_nothing_left_or_one_clear_error(
    plan: FaultPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunpodCloud(None, plan.plans, **plan.cloud) as cloud, desk_at(cloud, tmp_path) as desk:
        monkeypatch.setattr(ending, "give_back", desk.give_back)
        body = {"name": "comfy-gpu-offload-0123abcd", "image": "a", "gpu": {"id": "NVIDIA L4", "count": 1}}
        pod = cloud.make_pod(body, 0.39)
        desk.context.records.save(Rental(name=pod.name, kind="pod", machine="L4", id=pod.id))
        plan.apply(cloud)
        if plan.error is None:
            desk.end()
            assert desk.context.records.all() == ()
        else:
            with pytest.raises(OffloadError) as raised:
                desk.end()
            assert type(raised.value) is plan.error, str(raised.value)
            assert len(desk.context.records.all()) == plan.bills
        assert len(cloud.billing_now()) == plan.bills


def test_there_are_at_least_thirty_faults() -> None:
    assert len(UP) >= 30
