from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from tests.support.backend import FunctionBackend
from tests.support.worker import ThreadWorker

from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.errors import ConnectError, TlsError
from comfy_gpu_offload.transport.connector import connector_to


class StopError(BaseException):
    """An interrupt that is no `Exception`, as ComfyUI's is not."""


def stop() -> None:
    raise StopError


@pytest.fixture
def full() -> Iterator[int]:
    """Give the port of a server that takes no more connections and refuses none, as a machine that is off does."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_an_interrupt_ends_the_wait_for_a_connection(full: int) -> None:
    with pytest.raises(StopError):
        connector_to(Address.parse(f"http://127.0.0.1:{full}")).connect(3.0, stop)


def test_a_machine_that_does_not_answer_is_given_up_in_time(full: int) -> None:
    with pytest.raises(ConnectError, match="Is it running"):
        connector_to(Address.parse(f"http://127.0.0.1:{full}")).connect(0.2, lambda: None)


def test_a_handshake_that_breaks_off_may_be_tried_again() -> None:
    """A worker that is being restarted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.recv(1)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1000):
                pass
            connection.close()

        hanging = threading.Thread(target=hang_up)
        hanging.start()
        with pytest.raises(ConnectError) as caught:
            connector_to(Address.parse(f"https://127.0.0.1:{listener.getsockname()[1]}")).connect(3.0)
        hanging.join(60)
    assert caught.value.retryable


def test_https_to_a_worker_without_it_says_so() -> None:
    with ThreadWorker(FunctionBackend()) as worker, pytest.raises(TlsError, match="--share"):
        connector_to(Address.parse(worker.url.replace("http:", "https:"))).connect(3.0)
