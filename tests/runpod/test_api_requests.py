"""The client against a real server on this machine: what goes wrong with connections, and who is told what."""

from __future__ import annotations

import logging
import shutil
import socket
import ssl
import subprocess
import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from time import sleep

import pytest
from tests.support.runpod_api import (
    ENDPOINT,
    JOB,
    KEY,
    Answer,
    FakeClock,
    breaks_off,
    job_reply,
    loopback_api,
    says,
)

from comfy_gpu_offload.errors import (
    OffloadError,
    RunPodAuthError,
    RunPodError,
    RunPodJobFailedError,
    RunPodNetworkError,
    RunPodReplyError,
    TlsError,
)
from comfy_gpu_offload.runpod import api_requests
from comfy_gpu_offload.runpod.options import RunPodOptions

PAYLOAD = {"frame": "AAAA"}
RUN = ("POST", f"/v2/{ENDPOINT}/run")
CANCEL = ("POST", f"/v2/{ENDPOINT}/cancel/{JOB}")


class StopError(Exception):
    pass


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Give an event that a server waits for before it answers. Set it at the end, so that none is left waiting."""
    event = threading.Event()
    yield event
    event.set()


def later(gate: threading.Event, answer: Answer) -> Answer:
    def wait(handler: BaseHTTPRequestHandler) -> None:
        gate.wait(30)
        answer(handler)

    return wait


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# --- lost and broken ----------------------------------------------------------------------------------


def test_a_submission_that_is_lost_on_the_way_back_is_sent_once() -> None:
    with loopback_api(breaks_off, says(200, job_reply())) as api:
        with pytest.raises(RunPodNetworkError, match="bill it twice") as caught:
            api.client(clock=FakeClock().clock).submit_job(PAYLOAD)
        assert caught.value.maybe_submitted
        assert api.requests == [RUN]


def test_a_look_that_is_lost_is_repeated() -> None:
    with loopback_api(breaks_off, breaks_off, says(200, job_reply("COMPLETED", output=3))) as api:
        assert api.client(clock=FakeClock().clock).get_result(JOB, timeout_s=30) == 3
        assert len(api.requests) == 3


def test_a_submission_that_nobody_answers_in_time_is_in_doubt(gate: threading.Event) -> None:
    with loopback_api(later(gate, breaks_off)) as api:
        client = api.client(RunPodOptions(run_timeout_s=0.2), FakeClock().clock)
        with pytest.raises(RunPodNetworkError, match="bill it twice") as caught:
            client.submit_job(PAYLOAD)
        assert caught.value.maybe_submitted
        assert api.requests == [RUN]


def test_a_look_that_nobody_answers_in_time_is_repeated(gate: threading.Event) -> None:
    with loopback_api(later(gate, breaks_off), says(200, job_reply("RUNNING"))) as api:
        client = api.client(RunPodOptions(status_timeout_s=0.2), FakeClock().clock)
        assert client.get_job_status(JOB).id == JOB


def test_nothing_that_listens_is_tried_three_times_and_was_not_submitted() -> None:
    fake = FakeClock()
    with loopback_api(says(200, {})) as api:
        api.url = f"http://127.0.0.1:{free_port()}/v2"
        with pytest.raises(RunPodNetworkError, match="ConnectionRefusedError") as caught:
            api.client(clock=fake.clock).submit_job(PAYLOAD)
    assert not caught.value.connected
    assert not caught.value.maybe_submitted
    assert caught.value.retryable
    assert 0.0 < fake.slept <= 0.75


def test_a_name_that_leads_nowhere_was_not_submitted() -> None:
    with loopback_api(says(200, {})) as api:
        api.url = "https://nowhere.invalid/v2"
        client = api.client(clock=FakeClock().clock)
        with pytest.raises(RunPodNetworkError, match="cannot be reached") as caught:
            client.submit_job(PAYLOAD)
    assert not caught.value.maybe_submitted


def test_a_proxy_that_refuses_was_not_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def refuse() -> None:
        for _ in range(3):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    thread = threading.Thread(target=refuse, daemon=True)
    thread.start()
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{listener.getsockname()[1]}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with listener, loopback_api(says(200, {})) as api:
        api.url = "https://nowhere.invalid/v2"
        with pytest.raises(RunPodNetworkError, match="HTTPS_PROXY") as caught:
            api.client(clock=FakeClock().clock).submit_job(PAYLOAD)
    assert not caught.value.connected
    assert not caught.value.maybe_submitted


def raw(text: bytes) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.wfile.write(text)

    return answer


@pytest.mark.parametrize(
    "text",
    [
        b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"id": "abc"',
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
    ],
)
def test_half_a_reply_is_a_lost_one(text: bytes) -> None:
    with loopback_api(raw(text)) as api:
        with pytest.raises((RunPodNetworkError, RunPodReplyError)) as caught:
            api.client(clock=FakeClock().clock).submit_job(PAYLOAD)
        assert caught.value.maybe_submitted
        assert api.requests == [RUN]


def test_a_reply_that_trickles_does_not_hold_the_caller(gate: threading.Event) -> None:
    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not gate.wait(0.05):
            handler.wfile.write(b"x")

    with loopback_api(trickle) as api:
        client = api.client(RunPodOptions(connect_timeout_s=0.2, run_timeout_s=0.4), FakeClock().clock)
        with pytest.raises(RunPodNetworkError, match="no complete reply"):
            client.submit_job(PAYLOAD)


def test_a_slow_line_may_take_longer_for_a_large_job_than_a_connection_may_take() -> None:
    received: list[int] = []

    def slowly(handler: BaseHTTPRequestHandler) -> None:
        left = int(handler.headers["Content-Length"])
        while left:
            left -= len(handler.rfile.read(min(left, 400_000)))
            sleep(0.05)
        received.append(left)
        says(200, job_reply())(handler)

    with loopback_api(slowly, reads=False) as api:
        options = RunPodOptions(connect_timeout_s=0.3, run_timeout_s=2.0)
        assert api.client(options, FakeClock().clock).submit_job({"frame": "A" * 9_000_000}).id == JOB
    assert received == [0]


def test_a_refusal_that_comes_before_all_is_sent_is_what_counts() -> None:
    def refuse(handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(1000)
        says(401, {})(handler)
        handler.wfile.flush()
        while handler.rfile.read1(1_000_000):
            pass

    with loopback_api(refuse, reads=False) as api, pytest.raises(RunPodAuthError):
        api.client(clock=FakeClock().clock).submit_job({"frame": "A" * 5_000_000})


# --- connections --------------------------------------------------------------------------------------


def test_one_connection_carries_many_requests() -> None:
    with loopback_api(says(200, job_reply("RUNNING"))) as api:
        client = api.client()
        for _ in range(5):
            client.get_job_status(JOB)
        assert len(api.connections) == 1
        client.close()
        client.get_job_status(JOB)
        assert len(api.connections) == 2


def test_a_connection_that_lay_idle_is_not_trusted_with_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    with loopback_api(says(200, job_reply("RUNNING"))) as api:
        client = api.client()
        client.submit_job(PAYLOAD)
        monkeypatch.setattr(api_requests, "_IDLE_S", -1.0)
        client.submit_job(PAYLOAD)
        assert len(api.connections) == 2


def test_requests_may_overlap() -> None:
    together = threading.Barrier(4)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        together.wait(60)
        says(200, job_reply("RUNNING"))(handler)

    results: list[str] = []
    with loopback_api(answer) as api:
        client = api.client()
        threads = [threading.Thread(target=lambda: results.append(client.get_job_status(JOB).id)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert results == [JOB] * 4


def test_cookies_are_not_kept() -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Set-Cookie", "a=b; Path=/")
        handler.send_header("Content-Length", "2")
        handler.end_headers()
        handler.wfile.write(b"{}")

    with loopback_api(answer, says(200, job_reply())) as api:
        client = api.client()
        with pytest.raises(RunPodReplyError):
            client.get_job_status(JOB)
        client.get_job_status(JOB)
        assert "Cookie" not in api.headers[1]


# --- interrupts ---------------------------------------------------------------------------------------


def stopping(api_asked: threading.Condition, requests: list[tuple[str, str]]) -> None:
    with api_asked:
        if requests:
            raise StopError


def test_an_interrupt_ends_a_wait_for_a_reply(gate: threading.Event) -> None:
    """The server does not answer before the caller has been let go: otherwise this waits for a minute and more."""
    with loopback_api(later(gate, breaks_off)) as api:
        client = api.client()
        for ask in (client.submit_job, client.run_sync):
            with pytest.raises(StopError):
                ask(PAYLOAD, check=lambda: stopping(api.asked, api.requests))
            assert not gate.is_set()
            api.requests.clear()


def test_a_job_that_is_taken_after_its_caller_has_gone_is_cancelled(gate: threading.Event) -> None:
    with loopback_api(later(gate, says(200, job_reply())), says(200, job_reply("CANCELLED"))) as api:
        with pytest.raises(StopError):
            api.client().submit_job(PAYLOAD, check=lambda: stopping(api.asked, api.requests))
        assert CANCEL not in api.requests
        gate.set()
        assert api.wait_for(CANCEL)


def test_a_job_that_is_taken_after_its_time_is_cancelled(gate: threading.Event) -> None:
    options = RunPodOptions(connect_timeout_s=0.1, run_timeout_s=0.5)

    def trickle(handler: BaseHTTPRequestHandler) -> None:
        # In time for each read, and late in all.
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while not gate.wait(0.05):
            handler.wfile.write(b" ")
        handler.close_connection = True
        handler.wfile.write(f'{{"id": "{JOB}", "status": "IN_QUEUE"}}'.encode())

    with loopback_api(trickle, says(200, job_reply("CANCELLED"))) as api:
        with pytest.raises(RunPodNetworkError, match="no complete reply"):
            api.client(options).submit_job(PAYLOAD)
        gate.set()
        assert api.wait_for(CANCEL)


def test_a_job_that_had_ended_by_then_is_not_cancelled(
    gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    with loopback_api(later(gate, says(200, job_reply("COMPLETED", output=1)))) as api:
        client = api.client()
        with pytest.raises(StopError):
            client.run_sync(PAYLOAD, check=lambda: stopping(api.asked, api.requests))
        gate.set()
        for thread in threading.enumerate():
            if thread.name == "comfy-gpu-offload-runpod":
                thread.join(60)
        assert len(api.requests) == 1


# --- secrets ------------------------------------------------------------------------------------------


def test_the_key_and_the_contents_appear_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "a prompt about cats"
    failed = job_reply("FAILED", error="handler: no")
    answers = [says(401, {"error": KEY}), breaks_off, says(502, secret), says(200, secret), says(200, failed)]
    errors: list[OffloadError] = []
    with loopback_api(*answers) as api:
        client = api.client(clock=FakeClock().clock)
        for _ in range(4):
            with pytest.raises(RunPodError) as caught:
                client.submit_job({"prompt": secret})
            errors.append(caught.value)
        with pytest.raises(RunPodJobFailedError) as failure:
            client.get_result(JOB, timeout_s=5)
        errors.append(failure.value)
        assert {headers["Authorization"] for headers in api.headers} == {f"Bearer {KEY}"}
        shown = [repr(client), str(vars(client)), repr(vars(client._http)), caplog.text]
    for error in errors:
        shown += [str(error), repr(error), repr(vars(error)), "".join(traceback.format_exception(error))]
        cause = error.__cause__
        assert getattr(cause, "request", None) is None
        assert getattr(cause, "response", None) is None
    assert "/run" in caplog.text  # the logs of urllib3 were seen
    assert KEY not in "\n".join(shown)
    log = "\n".join([caplog.text, *map(str, errors[:2])])
    assert secret not in log


def test_a_netrc_entry_does_not_replace_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with loopback_api(says(200, job_reply())) as api:
        api.client().submit_job(PAYLOAD)
        assert api.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_a_certificate_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=api"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with loopback_api(says(200, job_reply()), tls=context) as api:
        with pytest.raises(TlsError, match="certificate") as caught:
            api.client(clock=FakeClock().clock).submit_job(PAYLOAD)
        assert not caught.value.retryable
        assert api.requests == []
