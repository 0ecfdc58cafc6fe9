from __future__ import annotations

import threading

import pytest

from comfy_gpu_offload.net.websocket.turns import Turns


def nothing() -> None:
    pass


def waiting(turns: Turns, order: list[str], name: str, *, urgent: bool) -> threading.Thread:
    asked = threading.Event()

    def take() -> None:
        turns.take(asked.set, urgent=urgent)
        order.append(name)
        turns.release()

    thread = threading.Thread(target=take)
    thread.start()
    asked.wait(20)
    return thread


def test_those_who_wait_come_in_their_order_urgent_ones_first() -> None:
    turns, order = Turns(), list[str]()
    turns.take(nothing)
    threads = [
        waiting(turns, order, "large", urgent=False),
        waiting(turns, order, "larger", urgent=False),
        waiting(turns, order, "small", urgent=True),
        waiting(turns, order, "smaller", urgent=True),
    ]
    assert not turns.take_if_free()
    turns.release()
    for thread in threads:
        thread.join()
    assert order == ["small", "smaller", "large", "larger"]
    assert turns.take_if_free()


def test_one_who_gives_up_is_passed_over() -> None:
    turns, order = Turns(), list[str]()
    turns.take(nothing)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        turns.take(stop)
    thread = waiting(turns, order, "next", urgent=False)
    turns.release()
    thread.join()
    assert order == ["next"]
