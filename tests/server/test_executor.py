from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import pytest

from comfy_gpu_offload.server.executor import Executor, ExecutorClosedError, JobCancelledError, Turn


class Bench:
    """An executor whose first job holds it until `open` is set, so that a queue builds up behind it."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.open = threading.Event()
        self.holding = threading.Event()
        self.executor = Executor()
        self.first = self.submit("holder", "hold", self._hold)
        assert self.holding.wait(60)

    def _hold(self, _: float) -> str:
        self.holding.set()
        assert self.open.wait(60)
        return "held"

    def submit(self, client: str, name: str, function: Any = None) -> Future[Any]:
        def record(_: float) -> str:
            self.order.append(name)
            return name

        return run_aside(self.executor.enter(client, name), function or record)


def run_aside(turn: Turn, function: Any) -> Future[Any]:
    """Run the turn on a thread of its own, as a connection does."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(turn.run(function))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


@pytest.fixture
def bench() -> Any:
    made = Bench()
    yield made
    made.open.set()
    made.executor.close(10)


def test_clients_take_turns_and_keep_their_own_order(bench: Bench) -> None:
    futures = [bench.submit("greedy", f"greedy {i}") for i in range(3)]
    futures += [bench.submit("modest", "modest 0"), bench.submit("late", "late 0")]
    bench.open.set()
    for future in futures:
        future.result(10)
    assert bench.order == ["greedy 0", "modest 0", "late 0", "greedy 1", "greedy 2"]


def test_one_job_at_a_time(bench: Bench) -> None:
    running = threading.Semaphore(1)

    def job(_: float) -> bool:
        alone = running.acquire(blocking=False)
        threading.Event().wait(0.005)
        running.release()
        return alone

    futures = [bench.submit(f"client {i}", str(i), job) for i in range(8)]
    bench.open.set()
    assert all(future.result(10) for future in futures)


def test_a_waiting_job_is_taken_out_and_never_runs(bench: Bench) -> None:
    waiting = bench.submit("client", "waiting")
    assert bench.executor.cancel("waiting", pytest.fail) == "queued"
    assert isinstance(waiting.exception(10), JobCancelledError)
    bench.open.set()
    bench.submit("client", "after").result(10)
    assert bench.order == ["after"]


def test_a_running_job_is_interrupted_and_only_it(bench: Bench) -> None:
    hit = threading.Event()
    assert bench.executor.cancel("hold", hit.set) == "running"
    assert hit.is_set()
    assert bench.executor.cancel("never heard of", pytest.fail) == "unknown"


def test_what_a_job_raises_reaches_who_waits_and_the_next_one_runs(bench: Bench) -> None:
    def fail(_: float) -> None:
        raise ValueError("mine")

    failing, after = bench.submit("client", "fail", fail), bench.submit("client", "after")
    bench.open.set()
    with pytest.raises(ValueError, match="mine"):
        failing.result(10)
    assert after.result(10) == "after"


def test_closing_finishes_the_running_job_and_drops_the_rest(bench: Bench) -> None:
    waiting = bench.submit("client", "waiting")
    assert not bench.executor.close(0.01)
    assert isinstance(waiting.exception(10), ExecutorClosedError)
    bench.open.set()
    assert bench.executor.close(10)
    assert bench.first.result(10) == "held"
    assert isinstance(bench.submit("client", "too late").exception(10), ExecutorClosedError)


def test_jobs_learn_how_long_they_waited(bench: Bench) -> None:
    waited = bench.submit("client", "waited", lambda queue_s: queue_s)
    threading.Event().wait(0.02)
    bench.open.set()
    assert waited.result(10) >= 0.02


def test_an_interrupt_is_cleared_before_each_job_and_never_in_between() -> None:
    flag = threading.Event()
    executor = Executor(flag.clear)
    for _ in range(3):
        flag.set()  # left over from a job before
        assert executor.enter("client", "job").run(lambda _: flag.is_set()) is False


def test_a_job_runs_on_the_thread_that_brought_it(bench: Bench) -> None:
    bench.open.set()
    bench.first.result(10)
    assert bench.executor.enter("client", "job").run(lambda _: threading.get_ident()) == threading.get_ident()
