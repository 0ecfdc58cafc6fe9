from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import requests
import urllib3
from pydantic import SecretStr
from requests_mock import Mocker
from tests.support.runpod_api import ENDPOINT, JOB, KEY, FakeClock, job_reply

from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.errors import (
    ConfigError,
    RunPodAuthError,
    RunPodError,
    RunPodJobFailedError,
    RunPodJobUnfinishedError,
    RunPodNetworkError,
    RunPodNotFoundError,
    RunPodOutputLostError,
    RunPodPayloadTooLargeError,
    RunPodRateLimitError,
    RunPodReplyError,
    RunPodRequestError,
    RunPodServerError,
    RunPodWrongKindError,
)
from comfy_gpu_offload.runpod.client import RunPodClient
from comfy_gpu_offload.runpod.options import RUN_BODY_BYTES, RUNSYNC_BODY_BYTES, JobPolicy, RunPodOptions
from comfy_gpu_offload.runpod.schema import JobStatus

BASE = f"https://api.runpod.ai/v2/{ENDPOINT}"
RUN, RUNSYNC, HEALTH = f"{BASE}/run", f"{BASE}/runsync", f"{BASE}/health"
STATUS, STREAM, CANCEL = (f"{BASE}/{route}/{JOB}" for route in ("status", "stream", "cancel"))
PAYLOAD = {"frame": "AAAA"}
SERVER_FAILURES = (500, 502, 503, 504, 524)


@pytest.fixture
def mock() -> Iterator[Mocker]:
    with Mocker() as mocker:
        yield mocker


@pytest.fixture
def fake() -> FakeClock:
    return FakeClock()


@pytest.fixture
def client(fake: FakeClock) -> RunPodClient:
    return RunPodClient(SecretStr(KEY), ENDPOINT, clock=fake.clock)


def sent(mock: Mocker, index: int = 0) -> Any:
    return json.loads(mock.request_history[index].body.getvalue())


def unconnected() -> requests.ConnectionError:
    """Return the error that requests raises where nothing listens."""
    refused = urllib3.exceptions.NewConnectionError(None, "refused")  # type: ignore[arg-type]
    return requests.ConnectionError(urllib3.exceptions.MaxRetryError(None, "/", refused))  # type: ignore[arg-type]


# --- what is asked ------------------------------------------------------------------------------------


def test_a_job_is_submitted_with_the_key_its_input_and_its_policy(client: RunPodClient, mock: Mocker) -> None:
    mock.post(RUN, json=job_reply())
    policy = JobPolicy(execution_timeout_s=330, ttl_s=900.5, low_priority=False)
    job = client.submit_job(PAYLOAD, policy=policy)
    assert (job.id, job.status) == (JOB, JobStatus.IN_QUEUE)
    request = mock.request_history[0]
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.headers["Content-Type"] == "application/json"
    assert sent(mock) == {
        "input": PAYLOAD,
        "policy": {"executionTimeout": 330_000, "ttl": 900_500, "lowPriority": False},
    }
    client.submit_job(PAYLOAD)
    assert sent(mock, 1) == {"input": PAYLOAD}


def test_every_route_has_its_own_timeout(client: RunPodClient, mock: Mocker) -> None:
    mock.post(RUN, json=job_reply())
    mock.post(RUNSYNC, json=job_reply())
    mock.get(STATUS, json=job_reply())
    mock.get(STREAM, json={"status": "COMPLETED", "stream": []})
    mock.post(CANCEL, json=job_reply("CANCELLED"))
    mock.get(HEALTH, json={"jobs": {}, "workers": {}})
    client.submit_job(PAYLOAD)
    client.run_sync(PAYLOAD)
    client.get_job_status(JOB)
    list(client.stream(JOB, timeout_s=60))
    client.cancel(JOB)
    client.health()
    timeouts = [request.timeout for request in mock.request_history]
    assert timeouts == [(10, 60), (10, 100), (10, 15), (10, 15), (10, 5), (10, 15)]
    assert all(request.verify for request in mock.request_history)


def test_runsync_says_how_long_to_wait_and_may_be_unfinished(client: RunPodClient, mock: Mocker) -> None:
    mock.post(f"{RUNSYNC}?wait=90000", json=job_reply("IN_PROGRESS"))
    mock.post(f"{RUNSYNC}?wait=1500", json=job_reply("COMPLETED", output={"x": 1}))
    assert client.run_sync(PAYLOAD).status is JobStatus.IN_PROGRESS
    done = client.run_sync(PAYLOAD, wait_s=1.5)
    assert (done.status, done.output) == (JobStatus.COMPLETED, {"x": 1})


@pytest.mark.parametrize("wait_s", [0.9, 90.1, -1, float("nan")])
def test_runsync_waits_within_bounds(client: RunPodClient, mock: Mocker, wait_s: float) -> None:
    with pytest.raises(RunPodRequestError, match="1 to 90 s"):
        client.run_sync(PAYLOAD, wait_s=wait_s)
    assert mock.call_count == 0


@pytest.mark.parametrize("payload", [{}, {"x": float("nan")}, {"x": b"bytes"}, {"x": object()}, {("a",): 1}])
def test_what_cannot_be_a_jobs_input_is_not_sent(client: RunPodClient, mock: Mocker, payload: Any) -> None:
    for submit in (client.submit_job, client.run_sync):
        with pytest.raises(RunPodRequestError):
            submit(payload)
    assert mock.call_count == 0


@pytest.mark.parametrize(
    ("route", "limit", "other"), [(RUN, RUN_BODY_BYTES, "9.5 MB"), (RUNSYNC, RUNSYNC_BODY_BYTES, "19.0 MB")]
)
def test_the_size_is_judged_before_sending(
    client: RunPodClient, mock: Mocker, route: str, limit: int, other: str
) -> None:
    mock.post(route, json=job_reply())
    submit = client.submit_job if route == RUN else client.run_sync
    around = len('{"input":{"frame":""}}')
    submit({"frame": "A" * (limit - around)})
    assert int(mock.request_history[0].headers["Content-Length"]) == limit
    with pytest.raises(RunPodPayloadTooLargeError, match=other) as caught:
        submit({"frame": "A" * (limit - around + 1)})
    assert (caught.value.size_bytes, caught.value.limit_bytes) == (limit + 1, limit)
    assert not caught.value.retryable
    assert mock.call_count == 1


def test_the_size_is_that_of_the_encoded_text(client: RunPodClient, mock: Mocker) -> None:
    with pytest.raises(RunPodPayloadTooLargeError):
        client.submit_job({"prompt": "é" * (RUN_BODY_BYTES // 6)})
    assert mock.call_count == 0


BAD_IDS = ["", "../x", "a/b", "a?b", "a b", "a%2fb", "a\n", "é", "-a", "a" * 129]


@pytest.mark.parametrize("job_id", BAD_IDS)
def test_a_jobs_id_is_checked_before_it_enters_an_address(client: RunPodClient, mock: Mocker, job_id: str) -> None:
    for ask in (
        lambda: client.get_job_status(job_id),
        lambda: client.get_result(job_id, timeout_s=5),
        lambda: client.stream(job_id, timeout_s=5),
        lambda: client.cancel(job_id),
    ):
        with pytest.raises(RunPodRequestError, match="id"):
            ask()
    assert mock.call_count == 0


@pytest.mark.parametrize("endpoint_id", BAD_IDS)
def test_an_endpoints_id_is_checked(endpoint_id: str) -> None:
    with pytest.raises(ConfigError, match="RUNPOD_ENDPOINT_ID"):
        RunPodClient(SecretStr(KEY), endpoint_id)


@pytest.mark.parametrize("key", ["", "a b", "a\r\nX: y", "é"])
def test_a_key_that_cannot_be_one_is_refused_unshown(key: str) -> None:
    with pytest.raises(ConfigError, match=r"RUNPOD_API_KEY.*console\.runpod\.io/user/settings") as caught:
        RunPodClient(SecretStr(key), ENDPOINT)
    assert not key.strip() or f"{key}" not in str(caught.value)


def test_the_base_address_may_be_another(mock: Mocker, fake: FakeClock) -> None:
    mock.get(f"http://127.0.0.1:9/base/{ENDPOINT}/health", json={"jobs": {}, "workers": {"ready": 2}})
    with RunPodClient(SecretStr(KEY), ENDPOINT, base_url=Address.parse("http://127.0.0.1:9/base/")) as client:
        assert client.health().workers.ready == 2


# --- what the replies mean ----------------------------------------------------------------------------

ENDED = [
    (401, "", RunPodAuthError, "RUNPOD_API_KEY.*console.runpod.io/user/settings"),
    (403, "Forbidden", RunPodAuthError, "RUNPOD_API_KEY"),
    (404, '{"error": "not found"}', RunPodNotFoundError, "RUNPOD_ENDPOINT_ID"),
    (400, '{"error": "not allowed for QB API"}', RunPodWrongKindError, "load-balancing endpoint"),
    (403 + 2, '{"error": "not allowed for QB API"}', RunPodWrongKindError, "load-balancing endpoint"),
    (400, "exceeded max body size of 10MiB", RunPodPayloadTooLargeError, "9.5 MB"),
    (400, '{"error": "exceeded max body size of 10MiB"}', RunPodPayloadTooLargeError, "9.5 MB"),
    (413, "", RunPodPayloadTooLargeError, "9.5 MB"),
    (400, '{"error": "input is wrong\\nsecond"}', RunPodRequestError, "It says: 'input is wrong'"),
    (422, '{"detail": "bad"}', RunPodRequestError, "422.*'bad'"),
    (400, "<html>\n" + "x" * 500, RunPodRequestError, "'<html>'"),
    (400, '{"a": {"b": 1}}', RunPodRequestError, "'{"),
    (400, b"\xff\xfe\x00", RunPodRequestError, "400"),
    (418, "", RunPodRequestError, "418"),
    (302, "", RunPodReplyError, "leads elsewhere"),
    (304, "", RunPodReplyError, "leads elsewhere"),
]


@pytest.mark.parametrize(("status", "body", "kind", "says"), ENDED)
def test_a_refusal_is_final_and_says_what_to_do(
    client: RunPodClient,
    fake: FakeClock,
    mock: Mocker,
    status: int,
    body: str | bytes,
    kind: type[RunPodError],
    says: str,
) -> None:
    mock.post(RUN, status_code=status, content=body if isinstance(body, bytes) else body.encode())
    with pytest.raises(kind, match=says) as caught:
        client.submit_job(PAYLOAD)
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert not caught.value.retryable
    assert not caught.value.maybe_submitted
    assert (mock.call_count, fake.slept) == (1, 0.0)


def test_a_servers_text_is_cut(client: RunPodClient, mock: Mocker) -> None:
    mock.post(RUN, status_code=400, json={"error": "y" * 3000})
    with pytest.raises(RunPodRequestError) as caught:
        client.submit_job(PAYLOAD)
    assert str(caught.value).count("y") < 210
    assert "y" * 200 in str(caught.value)


def test_a_server_that_echoes_the_key_does_not_get_it_shown(client: RunPodClient, mock: Mocker) -> None:
    mock.post(RUN, status_code=400, text=f"header Authorization: Bearer {KEY}")
    with pytest.raises(RunPodRequestError, match=r"Bearer \*\*\*") as caught:
        client.submit_job(PAYLOAD)
    assert KEY not in str(caught.value)


def test_the_key_does_not_follow_a_redirect(client: RunPodClient, mock: Mocker) -> None:
    mock.get(STATUS, status_code=307, headers={"Location": "https://evil.example/take"})
    elsewhere = mock.get("https://evil.example/take", json=job_reply())
    with pytest.raises(RunPodReplyError, match="RUNPOD_BASE_URL"):
        client.get_job_status(JOB)
    assert not elsewhere.called


@pytest.mark.parametrize("body", [b"", b"<html>login</html>", b"\xff", b"[]", b'{"id": 5, "status": "IN_QUEUE"}'])
def test_a_reply_that_is_none_leaves_a_submission_in_doubt(client: RunPodClient, mock: Mocker, body: bytes) -> None:
    mock.post(RUN, content=body)
    mock.get(STATUS, content=body)
    with pytest.raises(RunPodReplyError, match="bill it twice") as caught:
        client.submit_job(PAYLOAD)
    assert caught.value.maybe_submitted
    with pytest.raises(RunPodReplyError) as caught:
        client.get_job_status(JOB)
    assert not caught.value.maybe_submitted
    assert mock.call_count == 2


def test_replies_are_bounded_in_size(mock: Mocker, fake: FakeClock) -> None:
    small = RunPodClient(SecretStr(KEY), ENDPOINT, options=RunPodOptions(reply_bytes=100_000), clock=fake.clock)
    mock.get(STATUS, json=job_reply("COMPLETED", output="x" * 99_000))
    assert len(small.get_job_status(JOB).output) == 99_000
    mock.get(STATUS, json=job_reply("COMPLETED", output="x" * 101_000))
    with pytest.raises(RunPodReplyError, match="larger than") as caught:
        small.get_job_status(JOB)
    assert not caught.value.retryable


def test_a_job_that_is_gone_is_not_asked_for_again(client: RunPodClient, fake: FakeClock, mock: Mocker) -> None:
    mock.get(STATUS, [{"json": job_reply("IN_PROGRESS")}, {"status_code": 404}])
    with pytest.raises(RunPodNotFoundError, match=JOB):
        client.get_result(JOB, timeout_s=60)
    assert mock.call_count == 2


# --- what is tried again ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", SERVER_FAILURES)
def test_a_submission_that_the_server_failed_is_not_repeated(
    client: RunPodClient, mock: Mocker, status: int
) -> None:
    for route, submit in ((RUN, client.submit_job), (RUNSYNC, client.run_sync)):
        route_mock = mock.post(route, status_code=status)
        with pytest.raises(RunPodServerError, match="bill it twice") as caught:
            submit(PAYLOAD)
        assert caught.value.maybe_submitted
        assert not caught.value.retryable
        assert route_mock.call_count == 1


@pytest.mark.parametrize(
    "lost",
    [
        requests.ReadTimeout(),
        requests.ConnectionError(urllib3.exceptions.ProtocolError("aborted", ConnectionResetError())),
        requests.exceptions.ChunkedEncodingError(),
        requests.exceptions.SSLError("EOF"),
    ],
)
def test_a_submission_whose_reply_is_lost_is_not_repeated(
    client: RunPodClient, mock: Mocker, lost: Exception
) -> None:
    for route, submit in ((RUN, client.submit_job), (RUNSYNC, client.run_sync)):
        route_mock = mock.post(route, exc=lost)
        with pytest.raises(RunPodNetworkError, match="bill it twice") as caught:
            submit(PAYLOAD)
        assert caught.value.maybe_submitted
        assert not caught.value.retryable
        assert caught.value.connected
        assert route_mock.call_count == 1


def test_a_submission_that_was_turned_away_for_its_rate_is_repeated_whole(
    client: RunPodClient, mock: Mocker
) -> None:
    for route, submit in ((RUN, client.submit_job), (RUNSYNC, client.run_sync)):
        mock.post(route, [{"status_code": 429}, {"status_code": 429}, {"json": job_reply()}])
        assert submit(PAYLOAD).id == JOB
    assert mock.call_count == 6
    assert all(sent(mock, i) == {"input": PAYLOAD} for i in range(6))


def test_a_submission_without_a_connection_is_tried_three_times(client: RunPodClient, mock: Mocker) -> None:
    for failure in (unconnected(), requests.ConnectTimeout(), requests.exceptions.ProxyError()):
        mock.reset_mock()
        mock.post(RUN, exc=failure)
        with pytest.raises(RunPodNetworkError, match="cannot be reached") as caught:
            client.submit_job(PAYLOAD)
        assert caught.value.retryable
        assert not caught.value.maybe_submitted
        assert mock.call_count == 3


def test_a_submission_goes_through_once_there_is_a_connection(client: RunPodClient, mock: Mocker) -> None:
    mock.post(RUN, [{"exc": unconnected()}, {"exc": unconnected()}, {"json": job_reply()}])
    assert client.submit_job(PAYLOAD).id == JOB


def test_a_rate_limit_that_stays_is_an_error_in_the_end(
    client: RunPodClient, fake: FakeClock, mock: Mocker
) -> None:
    mock.post(RUN, status_code=429, headers={"Retry-After": "25"}, json={"error": "slow down"})
    with pytest.raises(RunPodRateLimitError, match="slow down") as caught:
        client.submit_job(PAYLOAD)
    assert caught.value.retryable
    assert caught.value.retry_after_s == 25.0
    assert mock.call_count == 3  # 25 s each, within 60 s
    assert 50.0 <= fake.slept <= 60.0


def test_a_date_is_waited_for(client: RunPodClient, fake: FakeClock, mock: Mocker) -> None:
    date = "Tue, 14 Nov 2023 22:13:29 GMT"  # 9 s after FakeClock's beginning
    mock.post(RUN, [{"status_code": 429, "headers": {"Retry-After": date}}, {"json": job_reply()}])
    client.submit_job(PAYLOAD)
    assert fake.slept == pytest.approx(9.0)


@pytest.mark.parametrize("status", [429, *SERVER_FAILURES])
def test_looking_at_a_job_is_repeated(client: RunPodClient, mock: Mocker, status: int) -> None:
    failures = [{"status_code": status}] * 5
    mock.get(STATUS, [*failures, {"json": job_reply("RUNNING")}])
    assert client.get_job_status(JOB).status is JobStatus.RUNNING
    mock.get(HEALTH, [*failures, {"json": {"jobs": {}, "workers": {}}}])
    client.health()
    mock.get(STATUS, status_code=status)
    mock.reset_mock()
    with pytest.raises(RunPodError) as caught:
        client.get_job_status(JOB)
    assert caught.value.retryable
    assert not caught.value.maybe_submitted
    assert mock.call_count == 6


def test_looking_at_a_job_is_repeated_after_a_lost_reply(client: RunPodClient, mock: Mocker) -> None:
    mock.get(STATUS, [{"exc": requests.ReadTimeout()}, {"exc": unconnected()}, {"json": job_reply("RUNNING")}])
    assert client.get_job_status(JOB).status is JobStatus.RUNNING


def test_a_busy_server_may_say_when_to_come_back(client: RunPodClient, fake: FakeClock, mock: Mocker) -> None:
    mock.get(STATUS, [{"status_code": 503, "headers": {"Retry-After": "11"}}, {"json": job_reply()}])
    client.get_job_status(JOB)
    assert fake.slept == pytest.approx(11.0)


def test_a_cancel_is_tried_twice(client: RunPodClient, mock: Mocker) -> None:
    mock.post(CANCEL, [{"exc": requests.ReadTimeout()}, {"json": job_reply("CANCELLED")}])
    client.cancel(JOB)
    for failure in ({"exc": requests.ReadTimeout()}, {"exc": unconnected()}, {"status_code": 502}):
        mock.reset_mock()
        mock.post(CANCEL, [failure])
        with pytest.raises(RunPodError):
            client.cancel(JOB)
        assert mock.call_count == 2
    mock.reset_mock()
    mock.post(CANCEL, status_code=404)
    with pytest.raises(RunPodNotFoundError):
        client.cancel(JOB)
    assert mock.call_count == 1


@pytest.mark.parametrize(
    ("name", "value"), [("HTTPS_PROXY", "http://:0:0"), ("REQUESTS_CA_BUNDLE", "/nonexistent.pem")]
)
def test_what_the_environment_says_wrongly_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for exempt in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(exempt, raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name):
        RunPodClient(SecretStr(KEY), ENDPOINT)


# --- waiting for a job --------------------------------------------------------------------------------


def test_a_result_is_looked_for_ever_more_seldom(client: RunPodClient, fake: FakeClock, mock: Mocker) -> None:
    times: list[float] = []

    def reply(*_: Any) -> dict[str, Any]:
        times.append(fake.slept)
        return job_reply("COMPLETED", output={"x": 1}) if len(times) == 12 else job_reply("IN_PROGRESS")

    mock.get(STATUS, json=reply)
    assert client.get_result(JOB, timeout_s=100) == {"x": 1}
    waits = [b - a for a, b in pairwise([0.0, *times])]
    assert waits[0] == pytest.approx(0.25)
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(waits))
    assert waits[-1] == pytest.approx(2.0)


def test_a_result_that_is_no_output_is_an_error(client: RunPodClient, mock: Mocker) -> None:
    mock.get(STATUS, json=job_reply("COMPLETED"))
    with pytest.raises(RunPodOutputLostError):
        client.get_result(JOB, timeout_s=100)
    mock.get(STATUS, json=job_reply("FAILED", error='{"code": "busy", "message": "m", "retryable": true}'))
    with pytest.raises(RunPodJobFailedError) as caught:
        client.get_result(JOB, timeout_s=100)
    assert caught.value.code == "busy"


def test_a_job_that_does_not_end_in_time_is_left_and_said_to_go_on(
    client: RunPodClient, fake: FakeClock, mock: Mocker
) -> None:
    mock.get(STATUS, json=job_reply("IN_QUEUE"))
    with pytest.raises(RunPodJobUnfinishedError, match="within 7 s") as caught:
        client.get_result(JOB, timeout_s=7)
    assert not caught.value.retryable
    assert fake.slept == pytest.approx(7.0)
    assert {request.method for request in mock.request_history} == {"GET"}


def test_a_wait_survives_an_outage(client: RunPodClient, mock: Mocker) -> None:
    failures = [{"exc": unconnected()}] * 6 + [{"status_code": 502}] * 6 + [{"exc": requests.ReadTimeout()}] * 3
    mock.get(STATUS, [{"json": job_reply("RUNNING")}, *failures, {"json": job_reply("COMPLETED", output=5)}])
    assert client.get_result(JOB, timeout_s=600) == 5


def test_an_outage_does_not_outlast_the_wait(client: RunPodClient, fake: FakeClock, mock: Mocker) -> None:
    mock.get(STATUS, exc=unconnected())
    with pytest.raises(RunPodNetworkError):
        client.get_result(JOB, timeout_s=5)
    assert fake.slept <= 5.0


def test_the_last_looks_take_no_longer_than_is_left(client: RunPodClient, mock: Mocker) -> None:
    mock.get(STATUS, json=job_reply("IN_QUEUE"))
    with pytest.raises(RunPodJobUnfinishedError):
        client.get_result(JOB, timeout_s=30)
    timeouts = [request.timeout[1] for request in mock.request_history]
    assert timeouts[0] == 15
    assert timeouts[-1] == 1
    assert all(later <= earlier for earlier, later in pairwise(timeouts))


def test_a_check_runs_between_the_looks_and_ends_the_wait(
    client: RunPodClient, fake: FakeClock, mock: Mocker
) -> None:
    class StopError(Exception):
        pass

    asked: list[float] = []

    def check() -> None:
        asked.append(fake.slept)
        if fake.slept > 20.0:
            raise StopError

    mock.get(STATUS, json=job_reply("RUNNING"))
    with pytest.raises(StopError):
        client.get_result(JOB, timeout_s=100, check=check)
    assert max(b - a for a, b in pairwise(asked)) <= 0.1 + 1e-6


def test_nothing_is_sent_after_an_interrupt(client: RunPodClient, mock: Mocker) -> None:
    def check() -> None:
        raise KeyboardInterrupt

    for ask in (
        lambda: client.submit_job(PAYLOAD, check=check),
        lambda: client.run_sync(PAYLOAD, check=check),
        lambda: client.get_job_status(JOB, check=check),
        lambda: client.get_result(JOB, timeout_s=5, check=check),
        lambda: next(iter(client.stream(JOB, timeout_s=5, check=check))),
        lambda: client.health(check=check),
    ):
        with pytest.raises(KeyboardInterrupt):
            ask()
    assert mock.call_count == 0


# --- streams ------------------------------------------------------------------------------------------


def chunks(status: str, *outputs: Any) -> dict[str, Any]:
    return {"json": {"status": status, "stream": [{"output": output} for output in outputs]}}


def test_a_stream_is_drained_to_its_end(client: RunPodClient, mock: Mocker) -> None:
    queued = {"json": {"status": "IN_QUEUE"}}
    mock.get(
        STREAM,
        [
            queued,
            chunks("IN_PROGRESS", 1, {"a": 2}),
            chunks("IN_PROGRESS"),
            chunks("COMPLETED", 3),
            chunks("COMPLETED", None),
            chunks("COMPLETED"),
        ],
    )
    assert list(client.stream(JOB, timeout_s=60)) == [1, {"a": 2}, 3, None]


def test_a_stream_is_read_as_it_comes(client: RunPodClient, mock: Mocker) -> None:
    mock.get(STREAM, [chunks("IN_PROGRESS", "first"), chunks("COMPLETED", "second"), chunks("COMPLETED")])
    stream = client.stream(JOB, timeout_s=60)
    assert mock.call_count == 0
    assert next(stream) == "first"
    assert mock.call_count == 1


def test_a_stream_survives_an_outage_and_speeds_up_again(
    client: RunPodClient, fake: FakeClock, mock: Mocker
) -> None:
    times: list[float] = []

    def note(*_: Any) -> dict[str, Any]:
        times.append(fake.slept)
        return {"status": "IN_PROGRESS", "stream": [{"output": 1}] if len(times) == 8 else []}

    mock.get(
        STREAM,
        [
            *[{"json": note}] * 9,
            {"status_code": 502},
            {"status_code": 429},
            chunks("COMPLETED", 2),
            chunks("COMPLETED"),
        ],
    )
    assert list(client.stream(JOB, timeout_s=60)) == [1, 2]
    assert times[7] - times[6] == pytest.approx(2.0)
    assert times[8] - times[7] == pytest.approx(0.25)


def test_a_stream_of_a_job_that_failed_ends_with_its_error(client: RunPodClient, mock: Mocker) -> None:
    mock.get(STREAM, [chunks("IN_PROGRESS", 1), chunks("FAILED")])
    mock.get(STATUS, json=job_reply("FAILED", error='{"code": "model_failed", "message": "m"}'))
    stream = client.stream(JOB, timeout_s=60)
    assert next(stream) == 1
    with pytest.raises(RunPodJobFailedError) as caught:
        next(stream)
    assert caught.value.code == "model_failed"


def test_a_stream_that_does_not_end_in_time_is_an_error(
    client: RunPodClient, fake: FakeClock, mock: Mocker
) -> None:
    mock.get(STREAM, **chunks("IN_PROGRESS"))
    with pytest.raises(RunPodJobUnfinishedError):
        list(client.stream(JOB, timeout_s=9))
    assert fake.slept == pytest.approx(9.0)
