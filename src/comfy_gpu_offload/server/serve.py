"""The life of a worker's process: listen, make the backend, serve, and stop in order."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from ..backends.base import Backend
from ..config.address import HTTP, HTTPS, Address
from .handler import Handler, HandlerOptions
from .http.routes import Routes, WorkerState
from .http.server import HttpServer, listen
from .lifetime import Lifetime, LifetimeLimits, told, watch
from .malloc_tuning import keep_freed_memory
from .signals import Signals

logger = logging.getLogger(__name__)

# Platforms commonly wait 30 s between SIGTERM and SIGKILL. Where nobody kills the worker, a call may take longer.
_DRAIN_S = 600.0
# For replies that are being sent: a large one over a slow line.
_DELIVER_S = 30.0


class ListenError(OSError):
    """The address cannot be listened on."""


@dataclass(frozen=True)
class ServeOptions:
    """The address to listen on, and the settings of what is served there.

    Attributes:
        port: 0 for any free port.
        announce: called once with the address when the worker is ready.
        life: when the worker leaves by itself.
    """

    host: str
    port: int
    handler: HandlerOptions
    announce: Callable[[Address], None]
    tls: ssl.SSLContext | None = None
    life: LifetimeLimits = field(default_factory=LifetimeLimits)


async def serve_until_signalled(
    state: WorkerState, make_backend: Callable[[], Backend], options: ServeOptions
) -> bool:
    """Serve until a signal says stop (`Signals`). For a process of its own, whose malloc it also tunes."""
    keep_freed_memory()
    stopping = asyncio.Event()
    Signals(state, stopping).listen()
    return await serve(state, make_backend, options, stopping)


async def serve(
    state: WorkerState,
    make_backend: Callable[[], Backend],
    options: ServeOptions,
    stopping: asyncio.Event,
) -> bool:
    """Serve until `stopping` is set; listen at once, and answer `/ping` with 204 until the backend is made.

    At the end of the life that `options` allow, the worker sets it itself.
    Stopping refuses new calls, lets the running one finish, and sends its reply. Returns False if a thread is still
    at work then: making the backend, or in a call that took too long.

    Raises:
        ListenError: the address cannot be listened on.
        Whatever `make_backend` raises.
    """
    server = _listening(state, options)
    try:
        ready = asyncio.wrap_future(_begun(make_backend))
        stopped = asyncio.ensure_future(stopping.wait())
        leaving = asyncio.ensure_future(watch(Lifetime(options.life, options.handler.activity), stopping))
        either: set[asyncio.Future[Any]] = {ready, stopped}
        with options.handler.activity.in_use():
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            return False
        if limits := told(options.life):
            logger.info("this worker leaves %s", limits)
        state.handler = Handler(ready.result(), options.handler)
        options.announce(_address(server, options))
        await stopped
        leaving.cancel()
        logger.info("stopping: the running call is finished first")
        finished = await asyncio.to_thread(state.handler.close, _DRAIN_S)
        if not finished:
            logger.warning("the running call did not finish within %.0f s", _DRAIN_S)
        return finished
    finally:
        await asyncio.to_thread(server.close, _DELIVER_S)


def _listening(state: WorkerState, options: ServeOptions) -> HttpServer:
    try:
        routes = Routes(state, has_tls=options.tls is not None)
        return HttpServer(routes, listen(options.host, options.port), options.tls)
    except OSError as error:
        raise ListenError(error.errno, error.strerror) from error


def _begun(make_backend: Callable[[], Backend]) -> Future[Backend]:
    """Make the backend on a thread of its own: asyncio does not end before the threads that it started itself."""
    made: Future[Backend] = Future()

    def make() -> None:
        try:
            backend = make_backend()
        except BaseException as error:  # for whoever waits for the future
            made.set_exception(error)
        else:
            made.set_result(backend)

    threading.Thread(target=make, name="comfy-gpu-offload-backend", daemon=True).start()
    return made


def _address(server: HttpServer, options: ServeOptions) -> Address:
    return Address(HTTP if options.tls is None else HTTPS, *server.address)
