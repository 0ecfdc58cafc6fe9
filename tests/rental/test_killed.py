"""`up` that is killed or interrupted at each stage, against a stand-in of RunPod: nothing is left billing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.rental.command_process import BEFORE, Place
from tests.support.faults import Fault
from tests.support.platforms import needs_posix
from tests.support.runpod_cloud import PodPlan, RunpodCloud

pytestmark = needs_posix

UP = ("up", "--yes", "--image", "stock")
EVER = 10**6


def asked(method: str, path: str) -> Callable[[RunpodCloud], bool]:
    return lambda cloud: any(each[0] == method and each[1].startswith(path) for each in cloud.asked)


def looked(times: int) -> Callable[[RunpodCloud], bool]:
    return lambda cloud: any(pod.looks >= times for pod in cloud.pods.values())


def knocked(cloud: RunpodCloud) -> bool:
    return any(pod.requests >= 1 for pod in cloud.pods.values())


# By stage: the pods' plan, the fault of the create, and when the stage is reached.
STAGES: dict[str, tuple[PodPlan, Fault | None, Callable[[RunpodCloud], bool]]] = {
    "before the create is acted on": (PodPlan(), Fault(delay_s=1), asked("POST", "/pods")),
    "before the create's reply": (PodPlan(), Fault(reply_delay_s=1), lambda cloud: bool(cloud.pods)),
    "while a machine is looked for": (PodPlan(outcome="stuck"), None, looked(1)),
    "while the image is fetched": (PodPlan(0, EVER), None, looked(2)),
    "while the worker starts": (PodPlan(0, 0, lies=True), None, knocked),
    "while a failed machine is given back": (PodPlan(0, 0, outcome="error"), None, asked("DELETE", "/pods")),
}


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    plan, fault, _ = STAGES[request.param]
    with RunpodCloud(plans=[plan]) as cloud, Place(tmp_path, cloud) as made:
        if fault is not None:
            cloud.faults.add("POST /pods", fault)
        cloud.faults.add("DELETE /pods/{id}", Fault(delay_s=0.5), times=3)
        yield made


ALL = [pytest.param(stage, stage, id=stage) for stage in STAGES]


@pytest.mark.parametrize(("place", "stage"), ALL, indirect=["place"])
def test_down_ends_what_a_killed_up_left(place: Place, stage: str) -> None:
    up = place.start(*UP)
    assert place.cloud.wait_for(lambda: STAGES[stage][2](place.cloud), 120), up.output
    up.kill()
    place.run("down", "--all")
    assert place.cloud.billing_now() == []
    assert place.rentals == ()
    assert place.env_file == BEFORE


# Any signal at any stage is tested without processes in test_faults.py.
SIGNALS = [(stage, signal.SIGINT) for stage in STAGES] + [
    ("while the worker starts", number) for number in (signal.SIGTERM, signal.SIGHUP)
]


@pytest.mark.parametrize(
    ("place", "stage", "number"),
    [pytest.param(stage, stage, number, id=f"{stage}-{number.name}") for stage, number in SIGNALS],
    indirect=["place"],
)
def test_an_interrupted_up_leaves_nothing(place: Place, stage: str, number: int) -> None:
    up = place.start(*UP)
    assert place.cloud.wait_for(lambda: STAGES[stage][2](place.cloud), 120), up.output
    up.send(number)
    assert up.wait() == 130, up.output
    assert place.cloud.billing_now() == []
    assert place.rentals == ()
    assert place.env_file == BEFORE
    assert place.cloud.key not in up.output


@pytest.mark.parametrize(("place", "stage"), ALL[3:4], indirect=["place"])
def test_down_finds_what_no_record_remembers(place: Place, stage: str) -> None:
    up = place.start(*UP)
    assert place.cloud.wait_for(lambda: STAGES[stage][2](place.cloud), 120), up.output
    up.kill()
    for file in (place.folder / "rentals").iterdir():
        file.unlink()
    (bill,) = place.cloud.billing_now()
    assert bill.name in place.run("status")
    again = place.start(*UP)
    assert again.wait() == 1
    assert f"comfy-gpu-offload down {bill.name}" in again.output
    place.run("down")
    assert place.cloud.billing_now() == []
    assert os.listdir(place.folder / "rentals") == []
