"""`up`, `status`, `logs` and `down` against a stand-in of RunPod whose pods run real workers."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from tests.rental.command_process import BEFORE, Place
from tests.support.faults import Fault
from tests.support.runpod_cloud import PodPlan, RunpodCloud

from comfy_gpu_offload.cli.main import main
from comfy_gpu_offload.client.connect import connect_from
from comfy_gpu_offload.config.settings import Settings, load_settings, variable
from comfy_gpu_offload.digits import model, sampling

UP = ("up", "--yes", "--image", "stock")


def assert_digits_equal(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sample through the worker that the `.env` names, and on this machine."""
    monkeypatch.chdir(place.folder)
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)
    for name, value in place.env.items():
        if name.startswith(("RUNPOD_", "COMFY_GPU_OFFLOAD_")):
            monkeypatch.setenv(name, value)
    with connect_from(load_settings(), await_worker=True) as session:
        remote = session.model("digits")
        there = sampling.sample(remote, [3, 7], steps=3, seed=5, dtype=remote.dtype)
        here = sampling.sample(model.load(remote.dtype), [3, 7], steps=3, seed=5, dtype=remote.dtype)
    assert torch.equal(there, here)


def test_from_a_key_to_digits_and_back(digits: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [digits.run(*UP, "--memory", "20")]
    (pod,) = digits.cloud.pods.values()
    (rental,) = digits.rentals
    assert_digits_equal(digits, monkeypatch)
    env = pod.body["env"]
    assert (env["COMFY_GPU_OFFLOAD_IDLE_EXIT_MINUTES"], env["COMFY_GPU_OFFLOAD_AT_MOST_MINUTES"]) == ("20", "720")
    said.append(digits.run("status"))
    assert f"{rental.name}  pod   NVIDIA L4" in said[-1]
    assert "$0.290 an hour" in said[-1]
    said.append(digits.run("logs"))
    assert "listening on" in said[-1]
    said.append(digits.run("up", "--yes"))
    assert f"{rental.name} runs already" in said[-1]
    assert len(digits.cloud.pods) == 1
    assert_digits_equal(digits, monkeypatch)
    said.append(digits.run("down"))
    assert f"{rental.name} (pod) is given back" in said[-1]
    assert digits.cloud.billing_now() == []
    assert (digits.rentals, digits.env_file) == ((), BEFORE)
    assert "Nothing of yours is rented" in digits.run("status")
    for secret in (digits.cloud.key, env["COMFY_GPU_OFFLOAD_TOKEN"], pod.key):
        assert secret not in "".join(said)


def test_an_endpoint_is_used_and_given_back_too(digits: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = digits.run(*UP, "--endpoint", status=2)
    assert "--image NAME:TAG" in refused
    digits.run("up", "--yes", "--endpoint", "--image", "me/worker:1")
    (endpoint,) = digits.cloud.endpoints.values()
    assert f"RUNPOD_ENDPOINT_ID={endpoint.id}" in digits.env_file
    assert_digits_equal(digits, monkeypatch)
    assert "1 worker now" in digits.run("status")
    assert "listening on" in digits.run("logs")
    digits.run("down")
    assert digits.cloud.billing_now() == []
    assert digits.env_file == BEFORE


def test_an_endpoint_without_a_worker_is_given_back(empty: Place) -> None:
    empty.env["COMFY_GPU_OFFLOAD_READY_TIMEOUT_S"] = "1"
    said = empty.run("up", "--yes", "--endpoint", "--image", "me/worker:1", status=1)
    assert "no worker of it answered in time" in said
    assert len(empty.cloud.endpoints) == 3
    assert empty.cloud.billing_now() == []
    assert (empty.rentals, empty.env_file) == ((), BEFORE)


def test_a_new_volume_stays_where_the_pod_gave_itself_back(digits: Place) -> None:
    said = digits.run(*UP, "--volume", "new:50")
    assert "$3.50 a month" in said
    (pod,) = digits.cloud.pods.values()
    (volume,) = digits.cloud.volumes.values()
    assert pod.body["mounts"]["network"] == [{"volumeId": volume.id, "path": "/workspace"}]
    assert pod.body["cloud"] == "SECURE"
    assert pod.body["dataCenterIds"] == [volume.body["dataCenter"]]
    digits.cloud.vanish(pod.id)
    said = digits.run("status")
    assert f"{pod.name} is not at RunPod any more" in said
    assert volume.name in said
    assert "was gone already" in digits.run("down")
    assert digits.env_file == BEFORE
    assert [bill.kind for bill in digits.cloud.billing_now()] == ["volume"]
    digits.run("down", "--volumes")
    assert digits.cloud.billing_now() == []
    assert digits.rentals == ()


def test_a_volume_is_not_left_where_no_pod_could_be_had(empty: Place) -> None:
    empty.cloud.capacity.is_late = True
    empty.cloud.capacity.empty = {gpu.id for gpu in empty.cloud.capacity.gpus}
    said = empty.run(*UP, "--volume", "new:50", status=1)
    assert "None of the GPUs that fit could be had" in said
    assert len(empty.cloud.volumes) == 1
    assert empty.cloud.billing_now() == []
    assert empty.rentals == ()


def test_down_all_takes_what_up_made_and_nothing_else(empty: Place) -> None:
    names = ["comfy-gpu-offload-0123abcd", "comfy-gpu-offload-89abcdef", "somebody-elses"]
    for name in names:
        empty.cloud.make_pod({"name": name, "image": "a", "gpu": {"id": "NVIDIA L4", "count": 1}}, 0.4)
    refused = empty.run("down", status=2)
    assert names[0] in refused
    assert "--all" in refused
    assert len(empty.cloud.billing_now()) == 3
    assert "no" in empty.run("down", "somebody-elses", status=2)
    empty.run("down", names[1])
    empty.run("down", "--all")
    assert [bill.name for bill in empty.cloud.billing_now()] == ["somebody-elses"]


@pytest.mark.parametrize("outage", [Fault(drop="request"), Fault(503, {"title": "broken"})], ids=["away", "broken"])
def test_a_deletion_that_fails_is_made_again(empty: Place, outage: Fault) -> None:
    name = "comfy-gpu-offload-0123abcd"
    empty.cloud.make_pod({"name": name, "image": "a", "gpu": {"id": "NVIDIA L4", "count": 1}}, 0.4)
    empty.cloud.faults.add("DELETE /pods/{id}", outage, times=2)
    empty.run("down")
    assert empty.cloud.billing_now() == []


def test_a_deletion_without_effect_is_made_again(tmp_path: Path) -> None:
    with RunpodCloud(plans=[PodPlan(undeletable=2)]) as cloud, Place(tmp_path, cloud) as place:
        cloud.make_pod(
            {"name": "comfy-gpu-offload-0123abcd", "image": "a", "gpu": {"id": "NVIDIA L4", "count": 1}}, 0.4
        )
        place.run("down")
        assert cloud.billing_now() == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"RUNPOD_API_KEY": ""}, "RUNPOD_API_KEY is missing"),
        ({"RUNPOD_API_KEY": "rpa_WRONG0123456789"}, "RUNPOD_API_KEY"),
    ],
)
@pytest.mark.parametrize("command", [("up", "--yes"), ("down",), ("status",), ("logs",)], ids=lambda each: each[0])
def test_a_wrong_key_is_said_and_not_shown(
    empty: Place, command: tuple[str, ...], settings: dict[str, str], said: str
) -> None:
    empty.env |= settings
    process = empty.start(*command)
    assert process.wait() in {1, 2}
    assert said in process.output
    assert "WRONG0123456789" not in process.output


def test_a_key_in_a_misnamed_file_is_found(empty: Place) -> None:
    empty.env["RUNPOD_API_KEY"] = ""
    (empty.folder / ".env.txt").write_text("RUNPOD_API_KEY=rpa_X0123456789\n")
    assert ".env.txt is not read" in empty.run("up", "--yes", status=2)


def test_nobody_is_asked_where_nobody_is(empty: Place) -> None:
    assert "add --yes" in empty.run("up", status=2)
    assert empty.cloud.asked == []


@pytest.mark.parametrize("answer", ["n", "", "yess", None])
def test_anything_but_yes_rents_nothing(empty: Place, monkeypatch: pytest.MonkeyPatch, answer: str | None) -> None:
    for name, value in empty.env.items():
        if name.startswith(("RUNPOD_", "COMFY_GPU_OFFLOAD_")):
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(empty.folder)
    monkeypatch.setattr("sys.stdin", Terminal())

    def reply(question: str) -> str:
        assert "Rent it?" in question
        if answer is None:
            raise EOFError
        return answer

    monkeypatch.setattr("builtins.input", reply)
    assert main([*UP[:1], *UP[2:]]) == 1
    assert empty.cloud.count("POST", "/pods") == 0
    assert empty.rentals == ()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True
