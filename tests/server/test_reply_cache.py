"""Replies that are kept for a connection that was lost, and threads that wait for another's reply."""

from __future__ import annotations

import threading

import pytest

from comfy_gpu_offload.io.frame import EncodedFrame
from comfy_gpu_offload.server.executor import CallerGoneError
from comfy_gpu_offload.server.reply_cache import PendingReply, ReplyCache
from comfy_gpu_offload.server.waiting import PatientCaller


def put(cache: ReplyCache, client: str, request: str, size_bytes: int = 1) -> EncodedFrame:
    frame = EncodedFrame((bytes(size_bytes),))
    reply, first = cache.claim(request)
    assert first
    cache.finish(client, request, reply, frame)
    return frame


def test_a_client_can_ask_for_its_last_replies_again_and_others_do_not_push_them_out() -> None:
    cache = ReplyCache(for_each=2)
    frames = [put(cache, "a", f"a{n}") for n in range(3)]
    for n in range(10):
        put(cache, "b", f"b{n}")
    assert cache.join("a0") is None
    kept = [cache.join("a1"), cache.join("a2")]
    assert [reply.result() for reply in kept if reply is not None] == frames[1:]


def test_replies_leave_by_number_and_by_bytes() -> None:
    cache = ReplyCache(budget_bytes=100, count=3)
    for n in range(4):
        put(cache, f"client {n}", str(n))
    assert [cache.join(str(n)) is not None for n in range(4)] == [False, True, True, True]
    put(cache, "large", "4", 99)
    assert [cache.join(str(n)) is not None for n in range(5)] == [False, False, False, True, True]
    put(cache, "too large", "5", 101)
    assert cache.join("5") is None


def test_whoever_waits_gets_the_reply_or_what_kept_it_from_being_made() -> None:
    cache = ReplyCache()
    for error in (None, ValueError("not today")):
        reply, _ = cache.claim("request")
        again, first = cache.claim("request")
        assert again is reply
        assert not first
        ends: list[object] = []

        def wait(ends: list[object] = ends, reply=reply) -> None:  # type: ignore[no-untyped-def]
            try:
                ends.append(reply.result())
            except ValueError as raised:
                ends.append(raised)

        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        frame = EncodedFrame((b"x",))
        if error is None:
            cache.finish("client", "request", reply, frame)
        else:
            reply.set_exception(error)
        for thread in threads:
            thread.join(60)
        assert ends == [error or frame] * 3
        cache.forget("request", reply)
    with pytest.raises(ValueError, match="not today"):
        reply.result()


class GoneCaller(PatientCaller):
    """A caller whose connection has ended."""

    def is_gone(self) -> bool:
        return True


def test_who_has_gone_does_not_wait_for_anothers_reply() -> None:
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            PendingReply().result(GoneCaller())
        except CallerGoneError as error:
            raised.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(20)
    assert len(raised) == 1


def test_a_reply_that_is_fetched_in_parts_is_kept_beyond_the_budget_until_the_next_one() -> None:
    cache = ReplyCache(budget_bytes=100)
    put(cache, "a", "small", 50)
    large = EncodedFrame((bytes(1000),))
    reply, _ = cache.claim("large")
    cache.finish("a", "large", reply, large, awaited=True)
    assert cache.finished("large") is large
    assert cache.finished("small") is None
    put(cache, "b", "next", 1)
    assert cache.finished("large") is None
    assert cache.finished("next") is not None


def test_a_reply_that_was_asked_for_last_leaves_last() -> None:
    cache = ReplyCache(budget_bytes=100)
    put(cache, "a", "first", 40)
    put(cache, "b", "second", 40)
    assert cache.finished("first") is not None
    put(cache, "c", "third", 40)
    assert cache.finished("second") is None
    assert cache.finished("first") is not None
