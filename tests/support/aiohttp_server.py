"""An aiohttp application in a thread of the test's process."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import Self, TypeVar

from aiohttp import web

T = TypeVar("T")

_MAX_BODY_BYTES = 256 * 1024**2


class AiohttpServer:
    """Listens at `url` from `with` on until the block ends. What happens in it happens on the loop's thread."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.url = ""
        self._tls = tls
        self._app = web.Application(client_max_size=_MAX_BODY_BYTES)
        self._is_closing = False
        self._changed = threading.Condition()
        self._turn = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._runner: web.AppRunner | None = None
        self._listening = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def wait_for(self, predicate: Callable[[], bool], timeout_s: float = 30.0) -> bool:
        """Return whether `predicate` becomes true in time. For the test's thread."""
        with self._changed:
            return self._changed.wait_for(predicate, timeout_s)

    async def _begun(self) -> None:
        """Prepare what the first request needs."""

    async def _ending(self) -> None:
        """Clean up after the last request."""

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        # A request whose client has gone is given up, as a real server would.
        self._runner = runner = web.AppRunner(
            self._app, handler_cancellation=True, shutdown_timeout=0.5, access_log=None
        )
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        scheme = "http" if self._tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
        await self._begun()
        self._listening.set()
        await self._stop.wait()
        self._is_closing = True
        self._notify()
        await runner.cleanup()
        await self._ending()

    def _notify(self) -> None:
        """Wake whoever waits for a change."""
        self._turn.set()
        self._turn = asyncio.Event()
        with self._changed:
            self._changed.notify_all()

    def _drop_connections(self) -> None:
        """End every connection without a word. For the loop's thread."""
        assert self._runner is not None
        assert self._runner.server is not None
        for connection in self._runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    async def _until(self, predicate: Callable[[], bool], timeout_s: float) -> bool:
        """Return whether `predicate` becomes true in time, and before the server ends."""
        deadline = monotonic() + timeout_s
        while not predicate():
            left = deadline - monotonic()
            if left <= 0 or self._is_closing:
                return False
            with suppress(TimeoutError):
                await asyncio.wait_for(self._turn.wait(), left)
        return True

    def _on_loop(self, work: Callable[[], T]) -> T:
        """Run `work` on the loop's thread; return what it returns."""

        async def run() -> T:
            try:
                return work()
            finally:
                self._notify()

        assert self._loop is not None, "the server has not started"
        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(30)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(30), "the server did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive(), "the server did not stop"
