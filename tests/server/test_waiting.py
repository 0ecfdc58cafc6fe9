"""Calls that wait behind others: whose caller is gone, who are too many, and what those who wait are told."""

from __future__ import annotations

import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep
from typing import Any

import pytest
import torch
from tests.support import deaf_socket
from tests.support.backend import FINGERPRINT, FunctionBackend
from tests.support.frames import forward_frame
from tests.support.platforms import needs_hang_ups
from tests.support.worker import ThreadWorker

from comfy_gpu_offload.io.tree import pack
from comfy_gpu_offload.net.sockets import notice_loss
from comfy_gpu_offload.protocol.envelope import open_frame, seal
from comfy_gpu_offload.protocol.messages import Fault, FaultCode, Follow, Message, ModelRef, Progress, SampleJob
from comfy_gpu_offload.server.abandoned_runs import Grace
from comfy_gpu_offload.server.executor import QueueLimits
from comfy_gpu_offload.server.http import server
from comfy_gpu_offload.server.waiting import Waiting

LONG = Grace(alone_s=3600, others_wait_s=3600)


def until(condition: Callable[[], object]) -> None:
    deadline = monotonic() + 60
    while not condition():
        assert monotonic() < deadline
        sleep(0.01)


def send(port: int, frame: bytes, route: str = "forward", **headers: str) -> socket.socket:
    """Return a connection on which the frame has been sent."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=60)
    lines = [f"POST /v1/{route} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/octet-stream"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    sock.sendall("\r\n".join([*lines, f"Content-Length: {len(frame)}", "", ""]).encode() + frame)
    return sock


def reset(sock: socket.socket) -> None:
    """End a connection as a killed process does whose system holds bytes that it has not read."""
    sock.setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
    )
    sock.close()


def call(model: str = "double", request: str = "request-1", client: str = "client-b") -> bytes:
    return bytes(forward_frame(torch.ones(2), model=model, request=request, client=client).joined())


def read_reply(sock: socket.socket) -> Message:
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(65536)
    head, _, data = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(data) < length:
        data += sock.recv(65536)
    return open_frame(data).message


@pytest.fixture
def backend() -> Iterator[FunctionBackend]:
    made = FunctionBackend()
    yield made
    made.release.set()


def begin(worker: ThreadWorker, backend: FunctionBackend) -> socket.socket:
    """Begin a call of another client that runs until it is released."""
    running = send(worker.port, call("wait", "request-wait", "client-a"))
    assert backend.started.wait(60)
    return running


def waiting(worker: ThreadWorker) -> int:
    return len(worker.handler._parts.executor._line)


@needs_hang_ups
@pytest.mark.parametrize("end", [socket.socket.close, reset])
def test_calls_whose_client_is_gone_never_run(
    backend: FunctionBackend, end: Callable[[socket.socket], None]
) -> None:
    with ThreadWorker(backend) as worker, begin(worker, backend) as running:
        left = [send(worker.port, call(request=f"request-{n}", client=f"client-{n % 9}")) for n in range(100)]
        kept = send(worker.port, call(request="request-kept"))
        until(lambda: waiting(worker) == 101)
        for sock in left:
            # Bytes that are unread do not hide its end.
            sock.sendall(b"\r\n")
            end(sock)
        until(lambda: waiting(worker) == 1)
        backend.release.set()
        assert read_reply(running).request == "request-wait"  # type: ignore[attr-defined]
        assert read_reply(kept).request == "request-kept"  # type: ignore[attr-defined]
        kept.close()
    assert [name for name, _, _ in backend.calls] == ["wait", "double"]


@pytest.mark.skipif(not deaf_socket.POSSIBLE, reason="this system cannot be made to lose what arrives")
def test_a_call_whose_client_went_without_a_word_never_runs(
    backend: FunctionBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A laptop that sleeps: nothing closes its connection."""
    monkeypatch.setattr(server, "notice_loss", lambda sock, _: notice_loss(sock, gone_s=1))
    with ThreadWorker(backend, queue=QueueLimits(untold_s=3600)) as worker, begin(worker, backend):
        lost = send(worker.port, call(request="request-lost"))
        until(lambda: waiting(worker) == 1)
        deaf_socket.make_deaf(lost)
        until(lambda: waiting(worker) == 0)
        backend.release.set()
        lost.close()
    assert [name for name, _, _ in backend.calls] == ["wait"]


@needs_hang_ups
def test_a_client_that_is_gone_when_its_turn_comes_does_not_take_the_device(backend: FunctionBackend) -> None:
    with ThreadWorker(backend) as worker, begin(worker, backend) as running:
        left = send(worker.port, call())
        until(lambda: waiting(worker) == 1)
        left.close()
        backend.release.set()
        read_reply(running)
        until(lambda: worker.handler.running() is None)
    assert [name for name, _, _ in backend.calls] == ["wait"]


def test_a_call_that_is_asked_for_again_by_another_connection_is_kept(backend: FunctionBackend) -> None:
    with ThreadWorker(backend) as worker, begin(worker, backend):
        first = send(worker.port, call(request="request-twice"))
        until(lambda: waiting(worker) == 1)
        second = send(worker.port, call(request="request-twice"))
        replies = worker.handler._parts.calls._replies
        until(lambda: replies._replies["request-twice"].joined == 1)
        first.close()
        sleep(1.5)  # so long that it would have been noticed
        backend.release.set()
        assert read_reply(second).request == "request-twice"  # type: ignore[attr-defined]
        second.close()
    assert [name for name, _, _ in backend.calls] == ["wait", "double"]


def test_a_call_that_was_dropped_is_computed_when_it_is_asked_for_again(backend: FunctionBackend) -> None:
    with ThreadWorker(backend) as worker, begin(worker, backend):
        send(worker.port, call(request="request-again")).close()
        until(lambda: not worker.handler._parts.calls._replies._replies.keys() - {"request-wait"})
        again = send(worker.port, call(request="request-again"))
        until(lambda: waiting(worker) == 1)
        backend.release.set()
        assert read_reply(again).request == "request-again"  # type: ignore[attr-defined]
        again.close()


def test_the_queue_is_bounded_in_all_and_for_each_client(backend: FunctionBackend) -> None:
    limits = QueueLimits(waiting=3, waiting_each=2)
    with ThreadWorker(backend, queue=limits) as worker, begin(worker, backend):
        waits = [send(worker.port, call(request=f"request-{n}", client="client-b")) for n in range(2)]
        until(lambda: waiting(worker) == 2)
        with send(worker.port, call(request="request-2", client="client-b")) as third:
            busy = read_reply(third)
        waits.append(send(worker.port, call(request="request-3", client="client-c")))
        until(lambda: waiting(worker) == 3)
        with send(worker.port, call(request="request-4", client="client-d")) as fourth:
            full = read_reply(fourth)
        for fault in (busy, full):
            assert isinstance(fault, Fault)
            assert fault.code is FaultCode.BUSY
            assert fault.retryable
        backend.release.set()
        for sock in waits:
            assert not isinstance(read_reply(sock), Fault)
            sock.close()


def test_who_waits_long_is_asked_to_come_again_and_keeps_its_place(backend: FunctionBackend) -> None:
    with ThreadWorker(backend, queue=QueueLimits(untold_s=0.1)) as worker, begin(worker, backend):
        line = worker.handler._parts.executor._line
        with send(worker.port, call(request="request-first", client="client-b")) as first:
            fault = read_reply(first)
        assert isinstance(fault, Fault)
        assert fault.code is FaultCode.BUSY
        assert "behind 1 other: a call of wait" in fault.message
        worker.handler._parts.executor.limits = QueueLimits()
        # It came later, and comes later.
        other = send(worker.port, call("echo", "request-other", "client-c"))
        until(lambda: len(line) == 1)
        again = send(worker.port, call(request="request-first", client="client-b"))
        until(lambda: len(line) == 2)
        backend.release.set()
        for sock in (again, other):
            assert not isinstance(read_reply(sock), Fault)
            sock.close()
    assert [name for name, _, _ in backend.calls] == ["wait", "double", "echo"]


def test_a_kept_place_that_nobody_comes_back_to_holds_up_nobody(backend: FunctionBackend) -> None:
    """A prompt is cancelled between two attempts, and the same session's next one waits behind it."""
    with ThreadWorker(backend, queue=QueueLimits(untold_s=0.1)) as worker, begin(worker, backend):
        with send(worker.port, call(request="request-first")) as first:
            assert isinstance(read_reply(first), Fault)
        worker.handler._parts.executor.limits = QueueLimits()
        with send(worker.port, call(request="request-second")) as second:
            until(lambda: waiting(worker) == 1)
            backend.release.set()
            assert not isinstance(read_reply(second), Fault)


def test_who_waits_long_is_told_behind_how_many_and_for_what(backend: FunctionBackend) -> None:
    with ThreadWorker(backend, queue=QueueLimits(untold_s=0.1)) as worker, begin(worker, backend):
        for ahead, words in enumerate(("1 other", "2 others"), start=1):
            frame = call(request=f"request-{ahead}", client=f"client-{ahead}")
            with send(worker.port, frame) as sock:
                fault = read_reply(sock)
            assert isinstance(fault, Fault)
            assert f"waiting at the worker behind {words}: a call of wait, " in fault.message
        backend.release.set()


def test_a_wait_reads_as_a_sentence() -> None:
    assert str(Waiting(1, "loading x", 4.2)) == "waiting at the worker behind 1 other: loading x, 4 s"
    assert str(Waiting(3, "a run of x", 61)) == "waiting at the worker behind 3 others: a run of x, 61 s"


def job(request: str = "run-00001", client: str = "client-r", model: str = "wait", steps: int = 3) -> bytes:
    message = SampleJob(
        request=request,
        client=client,
        model=ModelRef(name="m"),
        fingerprint=FINGERPRINT,
        reply_codec="raw",
        sampler=model,
        scheduler="normal",
        seed=0,
        steps=steps,
        cfg=1.0,
    )
    tree: dict[str, Any] = {"latent": torch.ones(2), "positive": [], "negative": []}
    return bytes(seal(message, pack(tree, "job")).joined())


@pytest.mark.parametrize("end", [socket.socket.close, reset])
def test_a_run_whose_client_is_gone_ends_when_another_waits(
    backend: FunctionBackend, end: Callable[[socket.socket], None]
) -> None:
    with ThreadWorker(backend, grace=Grace(alone_s=3600, others_wait_s=0.1)) as worker:
        following = send(worker.port, job(), "sample")
        assert backend.started.wait(60)
        end(following)
        with send(worker.port, call(request="request-next")) as sock:
            assert read_reply(sock).request == "request-next"  # type: ignore[attr-defined]
        assert backend.steps_done == 0
        with send(worker.port, bytes(seal(Follow(request="run-00001", after=0)).joined()), "sample") as late:
            fault = read_reply(late)
        assert isinstance(fault, Fault)
        assert fault.code is FaultCode.UNKNOWN_RUN
        assert fault.retryable


def test_a_run_whose_client_is_gone_ends_by_itself_in_the_end(backend: FunctionBackend) -> None:
    with ThreadWorker(backend, grace=Grace(alone_s=0.2, others_wait_s=0.1)) as worker:
        send(worker.port, job(), "sample").close()
        assert backend.started.wait(60)
        until(lambda: worker.handler.running() is None)
    assert backend.steps_done == 0


def test_a_run_begins_where_no_thread_is_left_to_look_after_it(
    backend: FunctionBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its place in the queue would be nobody's, and hold up all others."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "comfy-gpu-offload-abandoned":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with ThreadWorker(backend, grace=LONG) as worker, send(worker.port, job(), "sample"):
        assert backend.started.wait(60)
        backend.release.set()
        until(lambda: worker.handler.running() is None)


def test_a_run_that_is_followed_goes_on_and_a_reconnect_resumes_it(backend: FunctionBackend) -> None:
    with ThreadWorker(backend, grace=LONG) as worker, ThreadPoolExecutor(1) as threads:
        first = send(worker.port, job(), "sample")
        assert backend.started.wait(60)
        first.close()
        (run,) = worker.handler._parts.runs._runs._runs.values()
        until(lambda: run._followers == 0)
        other = threads.submit(lambda: read_reply(send(worker.port, call())))
        with send(worker.port, bytes(seal(Follow(request="run-00001", after=0)).joined()), "sample") as again:
            until(lambda: run._followers == 1)
            backend.release.set()
            said = b""
            while not said.endswith(b"0\r\n\r\n"):
                said += again.recv(65536)
        assert not isinstance(other.result(60), Fault)
        assert run.end is not None
    assert backend.steps_done == 3


def test_a_run_that_waits_tells_a_client_that_knows_of_it(backend: FunctionBackend) -> None:
    with ThreadWorker(backend, grace=LONG) as worker, begin(worker, backend):

        def first_words(**headers: str) -> list[Progress]:
            with send(worker.port, job(f"run-{len(headers)}0000", model="echo"), "sample", **headers) as sock:
                runs = worker.handler._parts.runs._runs._runs
                until(lambda: any(run._waiting is not None and run._followers for run in runs.values()))
                sleep(1.5)  # so long that it would have been told
                data = sock.recv(65536)
                runs.clear()
            body = data.partition(b"\r\n\r\n")[2]
            frames = []
            while body:
                size, _, body = body.partition(b"\r\n")
                frames.append(open_frame(bytearray(body[: int(size, 16)])).message)
                body = body[int(size, 16) + 2 :]
            return [frame for frame in frames if isinstance(frame, Progress)]

        told = first_words(takes_waiting="1")
        assert any("behind 1 other: a call of wait" in (each.waiting or "") for each in told)
        assert all(each.waiting is None for each in first_words())
        backend.release.set()


def test_a_client_process_that_is_killed_leaves_nothing_running(backend: FunctionBackend) -> None:
    with ThreadWorker(backend, grace=Grace(alone_s=3600, others_wait_s=0.1)) as worker:
        ours = [send(worker.port, job(f"run-0000{n}", f"client-{n}"), "sample") for n in range(5)]
        until(lambda: waiting(worker) == 4)
        for sock in ours:
            sock.close()
        with send(worker.port, call(request="request-next")) as sock:
            assert read_reply(sock).request == "request-next"  # type: ignore[attr-defined]
        assert backend.steps_done == 0
