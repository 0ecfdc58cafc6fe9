from __future__ import annotations

import threading

import pytest

from comfy_gpu_offload.net.interruptible import interruptibly


class StopError(Exception):
    pass


def nothing(_: object = None) -> None:
    pass


def test_what_the_work_returns_or_raises_comes_back() -> None:
    assert interruptibly(lambda: 5, nothing, nothing) == 5
    with pytest.raises(ZeroDivisionError):
        interruptibly(lambda: 1 / 0, nothing, nothing)


def test_work_that_ends_after_its_caller_has_gone_is_handed_on() -> None:
    gate, handed_on = threading.Event(), threading.Event()
    values: list[int] = []

    def work() -> int:
        gate.wait(20)
        return 7

    def watch() -> None:
        raise StopError

    def late(value: int) -> None:
        values.append(value)
        handed_on.set()

    with pytest.raises(StopError):
        interruptibly(work, watch, late)
    assert values == []
    gate.set()
    assert handed_on.wait(60)
    assert values == [7]


def test_work_that_ends_while_its_caller_goes_is_handed_on_once() -> None:
    started, handed_on = threading.Event(), threading.Event()
    values: list[int] = []
    finished = threading.Event()

    def work() -> int:
        started.wait(60)
        finished.set()
        return 7

    def watch() -> None:
        started.set()
        finished.wait(60)
        for thread in threading.enumerate():  # the work's own, to its end
            if thread.name == "comfy-gpu-offload-runpod":
                thread.join(60)
        raise StopError

    def late(value: int) -> None:
        values.append(value)
        handed_on.set()

    with pytest.raises(StopError):
        interruptibly(work, watch, late)
    assert handed_on.wait(60)
    assert values == [7]


@pytest.mark.parametrize("leaves", [False, True])
def test_work_that_raises_says_so_whether_or_not_its_caller_has_gone(leaves: bool) -> None:
    gate, failed = threading.Event(), threading.Event()

    def work() -> int:
        gate.wait(60)
        raise ZeroDivisionError

    def watch() -> None:
        if leaves:
            raise StopError
        gate.set()

    with pytest.raises(StopError if leaves else ZeroDivisionError):
        interruptibly(work, watch, nothing, failed.set)
    gate.set()
    assert failed.wait(60)
