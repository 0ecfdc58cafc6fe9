"""One session for the same settings, opened once, closed when the settings name another worker."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from comfy_gpu_offload.config.settings import Settings
from comfy_gpu_offload.errors import ConnectError

FIRST, SECOND = Settings(url="http://127.0.0.1:1"), Settings(url="http://127.0.0.1:2")


class Worker:
    """A function in the place of `connect_from`; with `hold` set, it waits as for a worker that starts."""

    def __init__(self) -> None:
        self.opened: list[Settings] = []
        self.waits = threading.Event()
        self.hold: threading.Event | None = None
        self.errors: list[BaseException] = []

    def __call__(
        self, settings: Settings, release: Any, notify: Any, check: Any, *, await_worker: bool, loading: Any
    ) -> Any:
        if self.errors:
            raise self.errors.pop()
        if self.hold is not None:
            if await_worker:
                notify("waiting for the worker, 1 s")
            self.waits.set()
            assert self.hold.wait(10)
        self.opened.append(settings)
        session = SimpleNamespace(is_closed=False, release=release)
        session.close = lambda: setattr(session, "is_closed", True)
        return session


@pytest.fixture
def worker(comfy_stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> Worker:
    from comfy_gpu_offload.comfyui.client import worker_sessions

    made = Worker()
    monkeypatch.setattr(worker_sessions, "connect_from", made)
    return made


@pytest.fixture
def sessions(worker: Worker) -> Any:
    from comfy_gpu_offload.comfyui.client.worker_sessions import Sessions

    return Sessions()


def test_the_same_settings_share_a_session(sessions: Any, worker: Worker) -> None:
    assert sessions.known(FIRST) is None
    first = sessions.opened(FIRST)
    assert sessions.opened(Settings(url="http://127.0.0.1:1", gpu_rate=0.5)) is first
    assert sessions.known(FIRST) is first
    assert sessions.opened(SECOND) is not first
    assert worker.opened == [FIRST, SECOND]
    assert first.release == "0.0.0+stand-in"


def test_other_settings_close_the_session(sessions: Any, worker: Worker) -> None:
    assert sessions.follow(FIRST) is False
    first = sessions.opened(FIRST)
    assert sessions.follow(Settings(url="http://127.0.0.1:1", gpu_rate=0.5)) is False
    assert not first.is_closed
    assert sessions.follow(SECOND) is True
    assert first.is_closed
    assert sessions.known(FIRST) is None
    assert sessions.opened(FIRST) is not first


def test_a_session_that_could_not_be_opened_is_opened_the_next_time(sessions: Any, worker: Worker) -> None:
    worker.errors.append(ConnectError("no connection"))
    with pytest.raises(ConnectError):
        sessions.opened(FIRST)
    assert sessions.opened(FIRST) is sessions.known(FIRST)


def opening(sessions: Any, *, await_worker: bool) -> threading.Thread:
    thread = threading.Thread(target=lambda: sessions.opened(FIRST, await_worker=await_worker))
    thread.start()
    return thread


def test_who_does_not_await_a_worker_does_not_wait_for_one_who_does(sessions: Any, worker: Worker) -> None:
    worker.hold = threading.Event()
    thread = opening(sessions, await_worker=True)
    assert worker.waits.wait(10)
    with pytest.raises(
        ConnectError, match=r"a run is waiting for it: waiting for the worker, 1 s\. Ask again later"
    ):
        sessions.opened(FIRST)
    worker.hold.set()
    thread.join(10)
    assert sessions.opened(FIRST) is sessions.known(FIRST)
    assert len(worker.opened) == 1


def test_a_second_one_waits_for_the_first_and_may_be_interrupted(sessions: Any, worker: Worker) -> None:
    worker.hold = threading.Event()
    thread = opening(sessions, await_worker=False)
    assert worker.waits.wait(10)

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sessions.opened(FIRST, interrupted)
    second = opening(sessions, await_worker=False)
    worker.hold.set()
    thread.join(10)
    second.join(10)
    assert len(worker.opened) == 1
