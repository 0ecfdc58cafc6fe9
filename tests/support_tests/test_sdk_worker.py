"""RunPod's own SDK against the gateway: what its worker loop really does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
import requests
from tests.support.faults import Fault, bad_gateway
from tests.support.process import environment
from tests.support.runpod_gateway import ENDPOINT, RunPodGateway
from tests.support.runpod_queue import LOST, QueueLimits
from tests.support.runpod_worker import SdkWorker

HANDLER = Path(__file__).with_name("sdk_handler.py")
BRIEF = QueueLimits(poll_hold_s=0.5)


@pytest.fixture(scope="module")
def gateway() -> Iterator[RunPodGateway]:
    with RunPodGateway(limits=BRIEF) as made:
        yield made


@pytest.fixture(scope="module")
def worker(gateway: RunPodGateway) -> Iterator[SdkWorker]:
    with SdkWorker(gateway, HANDLER, env={"CONCURRENCY": "3"}) as made:
        yield made


@pytest.fixture
def apart() -> Iterator[RunPodGateway]:
    """Start a gateway that has no worker yet."""
    with RunPodGateway(limits=BRIEF) as made:
        yield made


def ask(gateway: RunPodGateway, method: str, path: str, body: Any = None) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {gateway.key}"}
    url = f"{gateway.base_url}/{ENDPOINT}/{path}"
    reply = requests.request(method, url, json=body, headers=headers, timeout=40)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def run(gateway: RunPodGateway, **job_input: Any) -> str:
    return str(ask(gateway, "POST", "run", {"input": job_input})["id"])


def run_sync(gateway: RunPodGateway, **job_input: Any) -> dict[str, Any]:
    return ask(gateway, "POST", "runsync?wait=30000", {"input": job_input})


def says(note: Path, text: str) -> bool:
    """Return whether the file comes to hold that text."""
    until = monotonic() + 20
    while monotonic() < until:
        if note.exists() and note.read_text() == text:
            return True
        sleep(0.02)
    return False


def test_a_job_goes_through(gateway: RunPodGateway, worker: SdkWorker) -> None:
    said = run_sync(gateway, text="grüße", number=1.5)
    expected = {"status": "COMPLETED", "output": {"echo": {"text": "grüße", "number": 1.5}}}
    assert said.items() >= (expected | {"workerId": worker.worker_id}).items()
    assert said["id"] in gateway.workers[worker.worker_id].finished


def test_an_error_that_the_handler_returns_fails_the_job(gateway: RunPodGateway, worker: SdkWorker) -> None:
    said = run_sync(gateway, do="fail")
    assert said.items() >= {"status": "FAILED", "error": "it did not work"}.items()
    assert "output" not in said


def test_an_exception_fails_the_job_with_its_text(gateway: RunPodGateway, worker: SdkWorker) -> None:
    said = run_sync(gateway, do="raise")
    assert said["status"] == "FAILED"
    assert "it broke" in said["error"]


def test_progress_is_the_output_of_a_job_that_runs(gateway: RunPodGateway, worker: SdkWorker) -> None:
    job_id = run(gateway, do="progress", for_s=3)
    assert gateway.wait_for(lambda: gateway.job(job_id).fields == {"output": "half"})
    assert ask(gateway, "GET", f"status/{job_id}").items() >= {"status": "IN_PROGRESS", "output": "half"}.items()
    assert gateway.wait_for_status(job_id, "COMPLETED")


def test_a_cancelled_job_is_cancelled_in_the_handler_and_posts_nothing(
    gateway: RunPodGateway, worker: SdkWorker, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    job_id = run(gateway, do="wait", note=str(note))
    assert says(note, "begun")
    assert ask(gateway, "POST", f"cancel/{job_id}")["status"] == "CANCELLED"
    assert says(note, "cancelled")
    assert run_sync(gateway, after=1)["status"] == "COMPLETED"
    seen = gateway.workers[worker.worker_id]
    assert job_id not in [*seen.finished, *seen.ignored]


def test_an_execution_that_takes_too_long_is_cancelled_in_the_handler(
    gateway: RunPodGateway, worker: SdkWorker, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    body = {"input": {"do": "wait", "note": str(note)}, "policy": {"executionTimeout": 1000}}
    job_id = ask(gateway, "POST", "run", body)["id"]
    assert says(note, "cancelled")
    assert ask(gateway, "GET", f"status/{job_id}")["status"] == "TIMED_OUT"


def test_jobs_run_side_by_side_as_far_as_the_handler_allows(
    gateway: RunPodGateway, worker: SdkWorker, tmp_path: Path
) -> None:
    notes = [tmp_path / str(number) for number in range(3)]
    ids = [run(gateway, do="wait", note=str(note)) for note in notes]
    assert all(says(note, "begun") for note in notes)
    waiting = run(gateway, after=1)
    assert ask(gateway, "GET", "health")["workers"].items() >= {"running": 1, "idle": 0, "ready": 1}.items()
    assert gateway.job(waiting).status == "IN_QUEUE"
    for job_id in ids:
        ask(gateway, "POST", f"cancel/{job_id}")
    assert gateway.wait_for_status(waiting, "COMPLETED")
    assert max(gateway.workers[worker.worker_id].batches) == 3


def test_an_output_over_the_limit_is_lost_and_the_log_says_so(gateway: RunPodGateway, worker: SdkWorker) -> None:
    gateway.limits = replace(BRIEF, output_bytes=100_000)
    said = run_sync(gateway, do="large", size=100_000)
    gateway.limits = BRIEF
    assert said["status"] == "COMPLETED"
    assert "output" not in said
    assert gateway.wait_for(lambda: "Failed to return job results" in worker.text)


def test_a_result_that_met_a_5xx_is_posted_again(gateway: RunPodGateway, worker: SdkWorker) -> None:
    gateway.faults.add("job-done", bad_gateway())
    said = run_sync(gateway, a=1)
    assert said.items() >= {"status": "COMPLETED", "output": {"echo": {"a": 1}}}.items()


def test_a_result_whose_connection_broke_is_not_posted_again(gateway: RunPodGateway, worker: SdkWorker) -> None:
    gateway.limits = replace(BRIEF, unheld_s=0.5)
    gateway.faults.add("job-done", Fault(drop="request"))
    said = run_sync(gateway, a=1)
    gateway.limits = BRIEF
    assert said.items() >= {"status": "COMPLETED", "retries": 1}.items()  # the platform gave the job out again
    assert len(gateway.job(said["id"]).worker_ids) == 2


def test_a_job_with_an_empty_input_fails_as_if_its_time_were_over(apart: RunPodGateway) -> None:
    apart.limits = replace(BRIEF, unheld_s=0.2)
    with SdkWorker(apart, HANDLER):
        said = ask(apart, "POST", "runsync?wait=30000", {"input": {}})
    assert said.items() >= {"status": "FAILED", "error": LOST, "retries": 1}.items()


@pytest.mark.parametrize("route", ["job-take", "job-take-batch", "job-stop"])
def test_the_sdk_lives_through_faults_of_the_routes_it_polls(
    gateway: RunPodGateway, worker: SdkWorker, route: str
) -> None:
    gateway.faults.add(route, bad_gateway())
    gateway.faults.add(route, Fault(400, {}))
    gateway.faults.add(route, Fault(drop="request"))
    assert run_sync(gateway, a=1)["status"] == "COMPLETED"
    gateway.faults.clear()


def test_chunks_drain_in_order_while_the_handler_yields(apart: RunPodGateway) -> None:
    with SdkWorker(apart, HANDLER, env={"STREAM": "1", "AGGREGATE": "1"}):
        job_id = run(apart, count=20)
        replies: list[dict[str, Any]] = []
        while not (replies and replies[-1]["status"] == "COMPLETED" and not replies[-1]["stream"]):
            replies.append(ask(apart, "GET", f"stream/{job_id}"))
            sleep(0.1)
        chunks = [chunk["output"] for reply in replies for chunk in reply["stream"]]
        assert chunks == [{"number": number} for number in range(20)]
        assert sum(bool(reply["stream"]) for reply in replies) > 1, "they all came at once"
        assert ask(apart, "GET", f"status/{job_id}")["output"] == chunks


def test_without_aggregation_a_streams_output_is_an_empty_list(apart: RunPodGateway) -> None:
    with SdkWorker(apart, HANDLER, env={"STREAM": "1"}):
        job_id = run(apart, count=2)
        assert apart.wait_for_status(job_id, "COMPLETED")
        assert ask(apart, "GET", f"status/{job_id}")["output"] == []
        assert len(ask(apart, "GET", f"stream/{job_id}")["stream"]) == 2


def test_two_workers_share_the_jobs_and_one_takes_over_when_the_other_dies(
    apart: RunPodGateway, tmp_path: Path
) -> None:
    with SdkWorker(apart, HANDLER) as first, SdkWorker(apart, HANDLER) as second:
        notes = [tmp_path / "a", tmp_path / "b"]
        ids = [run(apart, do="wait", note=str(note)) for note in notes]
        assert all(says(note, "begun") for note in notes)
        assert {apart.job(job_id).worker_id for job_id in ids} == {first.worker_id, second.worker_id}
        mine, its = sorted(ids, key=lambda job_id: apart.job(job_id).worker_id == second.worker_id)
        first.kill()
        notes[ids.index(mine)].unlink()
        apart.lose_worker(first.worker_id)
        ask(apart, "POST", f"cancel/{its}")
        assert apart.wait_for(lambda: apart.job(mine).worker_id == second.worker_id)
        assert apart.job(mine).retries == 1
        assert says(notes[ids.index(mine)], "begun")
        ask(apart, "POST", f"cancel/{mine}")
        assert says(notes[ids.index(mine)], "cancelled")


def test_sigterm_lets_a_job_end_first(apart: RunPodGateway, tmp_path: Path) -> None:
    with SdkWorker(apart, HANDLER) as worker:
        job_id = run(apart, do="progress", for_s=2)
        assert apart.wait_for_status(job_id, "IN_PROGRESS")
        assert apart.wait_for(lambda: bool(apart.job(job_id).fields))
        assert worker.terminate() == 0
        assert apart.job(job_id).status == "COMPLETED"


def test_a_cancel_after_sigterm_reaches_the_handler_no_more(apart: RunPodGateway, tmp_path: Path) -> None:
    with SdkWorker(apart, HANDLER) as worker:
        note = tmp_path / "note"
        job_id = run(apart, do="wait", note=str(note))
        assert says(note, "begun")
        worker.process.send_signal(signal.SIGTERM)
        assert apart.wait_for(lambda: "Received shutdown signal" in worker.text)
        polls = apart.workers[worker.worker_id].asked["job-stop"]
        sleep(2)  # what it asked before the signal is answered, and it asks no more
        assert apart.workers[worker.worker_id].asked["job-stop"] <= polls + 1
        ask(apart, "POST", f"cancel/{job_id}")
        sleep(1)
        assert note.read_text() == "begun"
        worker.kill()


def test_a_handler_that_does_not_start_says_why(apart: RunPodGateway, tmp_path: Path) -> None:
    broken = tmp_path / "handler.py"
    broken.write_text("raise SystemExit('no model here')")
    with pytest.raises(AssertionError, match="no model here"):
        SdkWorker(apart, broken).__enter__()


def test_a_worker_does_not_outlive_the_process_that_started_it(apart: RunPodGateway) -> None:
    test = (
        "import os, sys; from tests.support.runpod_worker import SdkWorker\n"
        "class Gateway:\n"
        "    def wait_for_worker(self, *_): return True\n"
        "    def worker_environment(self, name):\n"
        "        return {'RUNPOD_WEBHOOK_GET_JOB': sys.argv[1], 'RUNPOD_POD_ID': name}\n"
        "worker = SdkWorker(Gateway(), sys.argv[2]); worker.start()\n"
        "print(worker.process.pid, worker.worker_id, flush=True); sys.stdin.read()"
    )
    take = f"{apart.base_url}/{ENDPOINT}/job-take/$ID?gpu=none"
    root = Path(__file__).parents[2]
    python = subprocess.Popen(
        [sys.executable, "-c", test, take, str(HANDLER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env=environment(PYTHONPATH=f"{root}{os.pathsep}{root / 'src'}"),
    )
    with python:
        assert python.stdout is not None
        pid, worker_id = python.stdout.readline().split()
        assert apart.wait_for_worker(worker_id)
        python.send_signal(signal.SIGKILL)
    until = monotonic() + 20
    while _is_there(int(pid)) and monotonic() < until:
        sleep(0.05)
    assert not _is_there(int(pid))


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
