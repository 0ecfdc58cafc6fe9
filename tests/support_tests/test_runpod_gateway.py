from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from time import monotonic, sleep
from typing import Any

import pytest
import requests
from tests.support.faults import Fault, bad_gateway, edge_timeout, rate_limited
from tests.support.runpod_gateway import ENDPOINT, RunPodGateway
from tests.support.runpod_queue import LOST, MIB, QueueLimits

BRIEF = QueueLimits(poll_hold_s=0.2, stop_after_s=0.0, wait_ms=(50, 300_000))
ROUTES = [
    ("POST", "run"),
    ("POST", "runsync"),
    ("GET", "status/a"),
    ("GET", "stream/a"),
    ("POST", "cancel/a"),
    ("POST", "retry/a"),
    ("POST", "purge-queue"),
    ("GET", "health"),
]


@pytest.fixture
def gateway() -> Iterator[RunPodGateway]:
    with RunPodGateway(limits=BRIEF) as made:
        yield made


def ask(
    gateway: RunPodGateway,
    method: str,
    path: str,
    body: Any = None,
    *,
    key: str | None = None,
    endpoint: str = ENDPOINT,
    timeout: float = 20.0,
) -> requests.Response:
    """Ask the gateway as a client does."""
    headers = {"Authorization": f"Bearer {key or gateway.key}", "Content-Type": "application/json"}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    url = f"{gateway.base_url}/{endpoint}/{path}"
    return requests.request(method, url, data=data, headers=headers, timeout=timeout)


def submit(gateway: RunPodGateway, **fields: Any) -> str:
    reply = ask(gateway, "POST", "run", {"input": {"a": 1}, **fields})
    assert reply.json() == {"id": reply.json()["id"], "status": "IN_QUEUE"}
    return str(reply.json()["id"])


def status(gateway: RunPodGateway, job_id: str) -> dict[str, Any]:
    reply = ask(gateway, "GET", f"status/{job_id}")
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def from_worker(gateway: RunPodGateway, method: str, path: str, body: Any = None) -> requests.Response:
    """Ask the gateway as the SDK does: without a key, and with a query."""
    url = f"{gateway.base_url}/{ENDPOINT}/{path}&job_in_progress=0"
    return requests.request(method, url, data=json.dumps(body), timeout=60)


def take(gateway: RunPodGateway, worker: str = "w1") -> Any:
    reply = from_worker(gateway, "GET", f"job-take/{worker}?gpu=none")
    return None if reply.status_code == 204 else reply.json()


def post(gateway: RunPodGateway, job_id: str, result: Any, worker: str = "w1") -> requests.Response:
    return from_worker(gateway, "POST", f"job-done/{worker}/{job_id}?gpu=none", result)


def stops(gateway: RunPodGateway, worker: str = "w1") -> list[str]:
    reply = from_worker(gateway, "GET", f"job-stop/{worker}?gpu=none")
    return [] if reply.status_code == 204 else reply.json()["jobsToStop"]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_public_route_asks_for_the_key(gateway: RunPodGateway, method: str, path: str) -> None:
    reply = ask(gateway, method, path, {"input": {"a": 1}}, key="rpa_another")
    assert (reply.status_code, reply.json()["status"], reply.json()["title"]) == (401, 401, "Unauthorized")
    assert gateway.submitted == []


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_another_endpoint_is_not_found(gateway: RunPodGateway, method: str, path: str) -> None:
    assert ask(gateway, method, path, {"input": {"a": 1}}, endpoint="another").status_code == 404


@pytest.mark.parametrize(("method", "path"), ROUTES[:-1])
def test_a_load_balancing_endpoint_takes_no_jobs(method: str, path: str) -> None:
    with RunPodGateway(kind="load-balancer") as gateway:
        reply = ask(gateway, method, path, {"input": {"a": 1}})
        assert (reply.status_code, reply.json()) == (400, {"error": "not allowed for QB API"})
        assert ask(gateway, "GET", "health").status_code == 200


def test_a_job_goes_to_a_worker_and_its_output_comes_back(gateway: RunPodGateway) -> None:
    job_id = submit(gateway, policy={"ttl": 60_000})
    assert status(gateway, job_id) == {"id": job_id, "status": "IN_QUEUE"}
    assert take(gateway) == {"id": job_id, "input": {"a": 1}}
    assert status(gateway, job_id).items() >= {"status": "IN_PROGRESS", "workerId": "w1"}.items()
    post(gateway, job_id, {"status": "IN_PROGRESS", "output": "half"})
    assert status(gateway, job_id).items() >= {"status": "IN_PROGRESS", "output": "half"}.items()
    sleep(0.02)
    assert post(gateway, job_id, {"output": {"b": [2]}}).status_code == 200
    said = status(gateway, job_id)
    assert said.items() >= {"status": "COMPLETED", "output": {"b": [2]}, "workerId": "w1"}.items()
    assert said["delayTime"] >= 0
    assert said["executionTime"] >= 20
    job = gateway.job(job_id)
    assert (job.policy, job.route, job.worker_ids) == ({"ttl": 60_000}, "run", ["w1"])
    assert job.body_bytes == len(json.dumps({"input": {"a": 1}, "policy": {"ttl": 60_000}}))
    assert gateway.workers["w1"].finished == [job_id]
    assert gateway.count("status", job_id) == 4


def test_a_workers_error_fails_the_job(gateway: RunPodGateway) -> None:
    job_id = submit(gateway)
    take(gateway)
    post(gateway, job_id, {"error": "no"})
    said = status(gateway, job_id)
    assert said.items() >= {"status": "FAILED", "error": "no", "retries": 0}.items()
    assert "output" not in said


def test_a_batch_is_the_oldest_jobs_and_nobody_elses(gateway: RunPodGateway) -> None:
    ids = [submit(gateway) for _ in range(3)]
    batch = from_worker(gateway, "GET", "job-take-batch/w1?gpu=none&batch_size=2").json()
    assert [job["id"] for job in batch] == ids[:2]
    assert take(gateway, "w2")["id"] == ids[2]
    assert take(gateway, "w2") is None
    assert gateway.workers["w1"].batches == [2]


def test_runsync_answers_when_the_job_has_ended_or_the_wait_is_over(gateway: RunPodGateway) -> None:
    unfinished = ask(gateway, "POST", "runsync?wait=60", {"input": {"a": 1}}).json()
    assert unfinished == {"id": unfinished["id"], "status": "IN_QUEUE"}
    assert unfinished["id"].startswith("sync-")
    take(gateway)
    post(gateway, unfinished["id"], {"output": 7})
    assert status(gateway, unfinished["id"])["output"] == 7


@pytest.mark.parametrize("wait", ["49", "300001", "-1", "1s", ""])
def test_a_wait_out_of_bounds_is_refused(gateway: RunPodGateway, wait: str) -> None:
    assert ask(gateway, "POST", f"runsync?wait={wait}", {"input": {"a": 1}}).status_code == 400
    assert gateway.submitted == []


def test_the_edge_gives_up_on_a_long_wait(gateway: RunPodGateway) -> None:
    gateway.limits = replace(BRIEF, edge_s=0.1)
    reply = ask(gateway, "POST", "runsync?wait=5000", {"input": {"a": 1}})
    assert reply.status_code == 524
    assert [job.status for job in gateway.submitted] == ["IN_QUEUE"]


@pytest.mark.parametrize(("route", "mib"), [("run", 10), ("runsync?wait=50", 20)])
def test_a_body_over_the_limit_is_refused_with_400(gateway: RunPodGateway, route: str, mib: int) -> None:
    frame = b'{"input": {"a": "%s"}}'
    fits = frame % (b"x" * (mib * MIB - len(frame) + 2))
    assert ask(gateway, "POST", route, fits).status_code == 200
    reply = ask(gateway, "POST", route, fits + b" ")
    assert reply.status_code == 400
    assert f"exceeded max body size of {mib}MiB" in reply.json()["error"]
    assert [job.body_bytes for job in gateway.submitted] == [mib * MIB]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"input": {"a": 1}, "policy": 3}'])
def test_what_is_no_job_is_refused(gateway: RunPodGateway, body: bytes) -> None:
    assert ask(gateway, "POST", "run", body).status_code == 400


def test_an_output_over_the_limit_is_lost_and_only_the_worker_learns_why(gateway: RunPodGateway) -> None:
    gateway.limits = replace(BRIEF, output_bytes=100)
    small, large = submit(gateway), submit(gateway)
    take(gateway)
    take(gateway)
    assert post(gateway, small, {"output": "x" * 80}).status_code == 200
    assert post(gateway, large, {"output": "x" * 100}).status_code == 400
    assert status(gateway, small)["output"] == "x" * 80
    said = status(gateway, large)
    assert said["status"] == "COMPLETED"
    assert not said.keys() & {"output", "error"}


def test_an_output_can_be_lost_for_no_reason(gateway: RunPodGateway) -> None:
    gateway.lose_outputs(1)
    said = []
    for _ in range(2):
        job_id = submit(gateway)
        take(gateway)
        post(gateway, job_id, {"output": 1})
        said.append(status(gateway, job_id))
    assert [reply["status"] for reply in said] == ["COMPLETED", "COMPLETED"]
    assert ["output" in reply for reply in said] == [False, True]


def test_a_stream_gives_each_chunk_once_and_in_order(gateway: RunPodGateway) -> None:
    job_id = submit(gateway)
    take(gateway)

    def chunk(value: Any) -> int:
        path = f"job-stream/w1/{job_id}?gpu=none"
        return from_worker(gateway, "POST", path, {"output": value}).status_code

    def drained() -> dict[str, Any]:
        return dict(ask(gateway, "GET", f"stream/{job_id}").json())

    assert drained() == {"status": "IN_PROGRESS", "stream": []}
    assert [chunk(1), chunk({"two": 2})] == [200, 200]
    assert drained() == {"status": "IN_PROGRESS", "stream": [{"output": 1}, {"output": {"two": 2}}]}
    chunk(3)
    assert chunk("x" * MIB) == 400
    post(gateway, job_id, {"output": []})
    assert drained() == {"status": "COMPLETED", "stream": [{"output": 3}]}
    assert drained() == {"status": "COMPLETED", "stream": []}
    assert gateway.job(job_id).chunk_count == 3


def test_a_job_cancelled_in_the_queue_reaches_no_worker(gateway: RunPodGateway) -> None:
    job_id = submit(gateway)
    assert ask(gateway, "POST", f"cancel/{job_id}").json() == {"id": job_id, "status": "CANCELLED"}
    assert take(gateway) is None
    assert stops(gateway) == []


def test_a_running_job_that_is_cancelled_is_told_to_its_worker_once(gateway: RunPodGateway) -> None:
    job_id = submit(gateway)
    take(gateway)
    assert ask(gateway, "POST", f"cancel/{job_id}").json()["status"] == "CANCELLED"
    assert stops(gateway, "w2") == []
    assert stops(gateway) == [job_id]
    assert stops(gateway) == []
    post(gateway, job_id, {"output": "too late"})
    assert status(gateway, job_id)["status"] == "CANCELLED"
    assert "output" not in status(gateway, job_id)
    assert gateway.workers["w1"].ignored == [job_id]


def test_a_worker_is_not_told_to_stop_what_it_cannot_have_begun(gateway: RunPodGateway) -> None:
    gateway.limits = replace(BRIEF, stop_after_s=0.5, poll_hold_s=2.0)
    job_id = submit(gateway)
    take(gateway)
    gateway.cancel(job_id)
    taken_at = gateway.job(job_id).taken_at
    assert stops(gateway) == [job_id]
    assert taken_at is not None
    assert monotonic() - taken_at >= 0.5


def test_a_job_that_has_ended_stays_as_it_is_when_cancelled(gateway: RunPodGateway) -> None:
    job_id = submit(gateway)
    take(gateway)
    post(gateway, job_id, {"output": 1})
    assert ask(gateway, "POST", f"cancel/{job_id}").json()["status"] == "COMPLETED"


def test_an_execution_that_takes_too_long_times_out_and_is_stopped(gateway: RunPodGateway) -> None:
    job_id = submit(gateway, policy={"executionTimeout": 50})
    sleep(0.1)  # in the queue, which does not count
    take(gateway)
    assert gateway.wait_for_status(job_id, "TIMED_OUT")
    assert status(gateway, job_id)["error"] == "executionTimeout exceeded"
    assert stops(gateway) == [job_id]


@pytest.mark.parametrize("is_running", [False, True])
def test_a_job_whose_ttl_is_over_is_gone(gateway: RunPodGateway, is_running: bool) -> None:
    job_id = submit(gateway, policy={"ttl": 400})
    if is_running:
        assert take(gateway)
    assert gateway.wait_for(lambda: gateway.job(job_id).is_forgotten)
    for method, path in (("GET", "status"), ("GET", "stream"), ("POST", "cancel"), ("POST", "retry")):
        assert ask(gateway, method, f"{path}/{job_id}").status_code == 404
    assert stops(gateway) == ([job_id] if is_running else [])


def test_results_are_kept_for_a_while_and_those_of_runsync_for_less(gateway: RunPodGateway) -> None:
    gateway.limits = replace(BRIEF, run_kept_s=60, runsync_kept_s=0.1)
    kept = submit(gateway)
    short = ask(gateway, "POST", "runsync?wait=50", {"input": {"a": 1}}).json()["id"]
    for job_id in (kept, short):
        take(gateway)
        post(gateway, job_id, {"output": 1})
    assert gateway.wait_for(lambda: gateway.job(short).is_forgotten)
    assert ask(gateway, "GET", f"status/{short}").status_code == 404
    assert status(gateway, kept)["output"] == 1


def test_a_job_that_its_worker_does_not_know_of_goes_to_another_and_then_fails(gateway: RunPodGateway) -> None:
    gateway.limits = replace(BRIEF, unheld_s=0.8)  # longer than a poll is held
    job_id = submit(gateway, input={})
    for worker in ("w1", "w2"):
        assert gateway.wait_for_status(job_id, "IN_QUEUE")
        assert take(gateway, worker) == {"id": job_id}
        assert take(gateway, worker) is None
    assert gateway.wait_for_status(job_id, "FAILED")
    assert status(gateway, job_id).items() >= {"error": LOST, "retries": 1, "workerId": "w2"}.items()


def test_a_lost_workers_job_goes_to_another_and_then_fails(gateway: RunPodGateway) -> None:
    job_id = submit(gateway)
    take(gateway, "w1")
    gateway.lose_worker("w1")
    assert take(gateway, "w2")["id"] == job_id
    post(gateway, job_id, {"output": "from the dead"}, "w1")
    assert status(gateway, job_id).items() >= {"status": "IN_PROGRESS", "retries": 1, "workerId": "w2"}.items()
    gateway.lose_worker("w2")
    assert status(gateway, job_id).items() >= {"status": "FAILED", "error": LOST}.items()
    assert ask(gateway, "GET", "health").json()["jobs"].items() >= {"failed": 1, "retried": 1}.items()


def test_a_silent_worker_is_lost_where_the_limits_say_so(gateway: RunPodGateway) -> None:
    gateway.limits = replace(BRIEF, worker_lost_s=0.1)
    job_id = submit(gateway)
    take(gateway)
    assert gateway.wait_for_status(job_id, "IN_QUEUE")


def test_only_what_failed_can_be_retried(gateway: RunPodGateway) -> None:
    failed, done = submit(gateway), submit(gateway)
    take(gateway)
    take(gateway)
    post(gateway, failed, {"error": "no"})
    post(gateway, done, {"output": 1})
    assert ask(gateway, "POST", f"retry/{done}").status_code == 400
    assert ask(gateway, "POST", f"retry/{failed}").json() == {"id": failed, "status": "IN_QUEUE"}
    assert take(gateway)["id"] == failed


def test_purging_forgets_what_waits_and_nothing_else(gateway: RunPodGateway) -> None:
    running, waiting = submit(gateway), submit(gateway)
    assert take(gateway)["id"] == running
    assert ask(gateway, "POST", "purge-queue").json() == {"removed": 1, "status": "completed"}
    assert ask(gateway, "GET", f"status/{waiting}").status_code == 404
    assert status(gateway, running)["status"] == "IN_PROGRESS"


def test_health_counts_what_there_is(gateway: RunPodGateway) -> None:
    def health() -> dict[str, dict[str, int]]:
        return dict(ask(gateway, "GET", "health").json())

    none = dict.fromkeys(("idle", "initializing", "ready", "running", "throttled", "unhealthy"), 0)
    assert health()["workers"] == none
    gateway.other_workers = {"initializing": 1, "throttled": 2}
    for _ in range(3):
        submit(gateway)
    job_id = take(gateway, "w1")["id"]
    take(gateway, "w1")
    post(gateway, job_id, {"output": 1})
    from_worker(gateway, "GET", "job-stop/w2?gpu=none")
    said = health()
    assert said["jobs"] == {"completed": 1, "failed": 0, "inProgress": 1, "inQueue": 1, "retried": 0}
    assert said["workers"] == none | {"idle": 1, "running": 1, "ready": 2, "initializing": 1, "throttled": 2}


def test_too_many_requests_are_told_when_to_come_again(gateway: RunPodGateway) -> None:
    gateway.limits = replace(BRIEF, rates={"cancel": 2}, rate_window_s=1.0)
    job_id = submit(gateway)
    codes = [ask(gateway, "POST", f"cancel/{job_id}").status_code for _ in range(2)]
    refused = ask(gateway, "POST", f"cancel/{job_id}")
    assert [*codes, refused.status_code] == [200, 200, 429]
    sleep(float(refused.headers["Retry-After"]))
    assert ask(gateway, "POST", f"cancel/{job_id}").status_code == 200
    assert status(gateway, job_id)


@pytest.mark.parametrize(
    ("fault", "code"),
    [(bad_gateway(), 502), (edge_timeout(), 524), (rate_limited(3), 429), (Fault(500, "no"), 500)],
)
def test_a_fault_is_answered_so_often_and_nothing_is_done(gateway: RunPodGateway, fault: Fault, code: int) -> None:
    gateway.faults.add("run", fault, times=2, after=1)
    codes = [ask(gateway, "POST", "run", {"input": {"a": 1}}).status_code for _ in range(4)]
    assert codes == [200, code, code, 200]
    assert len(gateway.submitted) == 2
    assert [seen.status for seen in gateway.seen] == codes


def test_a_rate_limit_on_demand_says_when_to_come_again(gateway: RunPodGateway) -> None:
    gateway.faults.add("status", rate_limited(3))
    assert ask(gateway, "GET", "status/a").headers["Retry-After"] == "3"


@pytest.mark.parametrize("after_bytes", [None, 0, 10])
def test_a_reply_can_be_lost_after_the_job_was_taken(gateway: RunPodGateway, after_bytes: int | None) -> None:
    gateway.faults.add("run", Fault(drop="reply", after_bytes=after_bytes))
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        submit(gateway)
    assert [job.status for job in gateway.submitted] == ["IN_QUEUE"]
    assert [seen.status for seen in gateway.seen] == [None]
    assert status(gateway, gateway.submitted[0].id)


@pytest.mark.parametrize("after_bytes", [None, 100_000])
def test_a_request_can_be_lost_before_the_job_was_taken(gateway: RunPodGateway, after_bytes: int | None) -> None:
    gateway.faults.add("run", Fault(drop="request", after_bytes=after_bytes))
    with pytest.raises(requests.ConnectionError):
        ask(gateway, "POST", "run", {"input": {"a": "x" * 4 * MIB}})
    assert gateway.submitted == []


def test_a_slow_reply_outlasts_its_client_and_the_job_is_there(gateway: RunPodGateway) -> None:
    gateway.faults.add("run", Fault(reply_delay_s=30))
    with pytest.raises(requests.ReadTimeout):
        ask(gateway, "POST", "run", {"input": {"a": 1}}, timeout=0.3)
    assert gateway.wait_for(lambda: gateway.count("run") == 1)
    assert [job.status for job in gateway.submitted] == ["IN_QUEUE"]
