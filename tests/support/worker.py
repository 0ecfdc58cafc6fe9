"""A worker on a real socket in a thread of the test's process, so that a test can look inside."""

from __future__ import annotations

import asyncio
import ssl
import threading
from types import TracebackType

from pydantic import SecretStr

from comfy_gpu_offload.backends.base import Backend
from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.io.frame import FrameLimits
from comfy_gpu_offload.server.abandoned_runs import Grace
from comfy_gpu_offload.server.executor import QueueLimits
from comfy_gpu_offload.server.handler import Handler, HandlerOptions
from comfy_gpu_offload.server.http.routes import WorkerState
from comfy_gpu_offload.server.http.tokens import Tokens
from comfy_gpu_offload.server.lifetime import Activity
from comfy_gpu_offload.server.model_downloads.downloads import DownloadOptions
from comfy_gpu_offload.server.serve import ServeOptions, serve


class ThreadWorker:
    """`with ThreadWorker(backend) as worker:` listens at `worker.url` until the block ends."""

    def __init__(
        self,
        backend: Backend,
        *,
        token: str | None = None,
        tokens: Tokens | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        limits: FrameLimits | None = None,
        store_bytes: int = 64 * 1024**2,
        tls: ssl.SSLContext | None = None,
        hosts: tuple[str, ...] = (),
        is_behind_edge: bool = False,
        queue: QueueLimits | None = None,
        grace: Grace | None = None,
        activity: Activity | None = None,
        takes_models: bool = False,
        downloads: DownloadOptions | None = None,
    ) -> None:
        self._backend = backend
        self._limits = limits or FrameLimits()
        tokens = tokens or Tokens(None if token is None else SecretStr(token))
        self._state = WorkerState(self._limits, tokens, hosts=hosts, is_behind_edge=is_behind_edge)
        handler = HandlerOptions(
            self._limits,
            store_bytes,
            queue=queue or QueueLimits(),
            grace=grace or Grace(),
            activity=activity or Activity(),
            takes_models=takes_models,
            downloads=downloads or DownloadOptions(),
        )
        self._options = ServeOptions(host, port, handler, self._announced, tls)
        self._ready = threading.Event()
        self._stopping: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self.address = Address("http", "")

    @property
    def url(self) -> str:
        return str(self.address)

    @property
    def port(self) -> int:
        return self.address.tcp_port

    @property
    def handler(self) -> Handler:
        assert self._state.handler is not None
        return self._state.handler

    def _announced(self, address: Address) -> None:
        self.address = address
        self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        await serve(self._state, lambda: self._backend, self._options, self._stopping)

    def __enter__(self) -> ThreadWorker:
        self._thread.start()
        assert self._ready.wait(30), "the worker did not start"
        return self

    def stop(self) -> None:
        """Stop it, as SIGTERM would."""
        if self._loop is not None and self._stopping is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(30)
        assert not self._thread.is_alive(), "the worker did not stop"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
