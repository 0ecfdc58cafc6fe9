"""A worker within this process that other machines use: `comfy_gpu_offload.share`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from .backend_factory import BackendName, BackendOptions, make_backend
from .backends.base import Backend
from .config.address import HTTPS, Address
from .config.settings import given_settings
from .config.token_strength import weakness
from .errors import ConfigError
from .server.handler_options import handler_options
from .server.http.routes import WorkerState
from .server.http.tokens import Tokens
from .server.pairing.pairings import DEFAULT_NAME
from .server.pairing.share import EVERYWHERE, Share, open_share, shared_addresses
from .server.serve import ListenError, ServeOptions, serve


def share(
    backend: BackendName,
    *,
    models: str | Path | None = None,
    comfyui: str | Path | None = None,
    cpu: bool = False,
    name: str = DEFAULT_NAME,
    host: str | None = None,
    port: int = 8288,
    share_as: str | None = None,
    **settings: Any,
) -> SharedWorker:
    """Return a worker on a thread of this process, ready for other machines. The environment is not read.

    It is the same as the command `worker --share`, with the same key and pairings. `line` of the result is what
    they pass to `connect`, or put into COMFY_GPU_OFFLOAD_URL.

    Args:
        backend: what runs the models, `comfyui` or `diffusers`. ComfyUI must be able to run under this interpreter.
        models: as --models of the command.
        comfyui: the ComfyUI folder, for that backend.
        cpu: use no GPU.
        name: of the pairing. Each name has a line of its own that can be revoked.
        host: to listen on; by default all networks of this machine.
        port: to listen on; 0 for any free one.
        share_as: HOST or HOST:PORT for the line, where it is another than this machine's own.
        settings: any other field of `config.Settings`, e.g. ``pairing_folder="/srv/worker"``.

    Raises:
        ConfigError: a setting is wrong, the address cannot be listened on, or the backend cannot be made.
        ModuleNotFoundError: a package that this needs is not installed.
    """
    given = given_settings(**settings)
    weak = None if given.token is None else weakness(given.token)
    if weak is not None:
        raise ConfigError(f"The token is too easy to guess: {weak}. Leave it out: the pairing line holds one.")
    shown = None if share_as is None else _address(share_as)
    shared = open_share(given.pairing_folder, name)
    options = BackendOptions(
        name=backend,
        comfyui=None if comfyui is None else Path(comfyui),
        models=None if models is None else Path(models),
        cpu=cpu,
        model_bytes=given.model_bytes,
    )
    handler = handler_options(given)
    state = WorkerState(handler.limits, Tokens(given.token, shared.pairings.digests))

    def serving(announce: Callable[[Address], None]) -> ServeOptions:
        return ServeOptions(host or EVERYWHERE, port, handler, announce, shared.certificate.tls)

    return SharedWorker(shared, state, partial(make_backend, options), serving, shown)


class SharedWorker:
    """A worker that others use until it is closed; `with` closes it, and so does the end of the process.

    Attributes:
        addresses: under which others may reach it, the likeliest first.
        line: the pairing line, with the first of these addresses. It is a secret.
    """

    def __init__(
        self,
        shared: Share,
        state: WorkerState,
        make: Callable[[], Backend],
        serving: Callable[[Callable[[Address], None]], ServeOptions],
        shown: Address | None,
    ) -> None:
        """Start it, and wait until it is ready. See `share`."""
        self._state, self._make, self._options = state, make, serving(self._announced)
        self._started = threading.Event()
        self._listening: Address | None = None
        self._error: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="comfy-gpu-offload-shared-worker", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._listening is None:
            raise _explained(self._error, self._options)
        self.addresses = shared_addresses(self._listening.host, self._listening.tcp_port, shown)
        self.line = shared.line(self.addresses[0])

    def wait(self) -> None:
        """Wait until it is closed by another thread. Ctrl-C ends the wait."""
        while self._thread.is_alive():
            self._thread.join(1.0)  # a wait without an end is not interrupted on Windows

    def close(self) -> None:
        """Take no more calls, let the running one end, and release the model. Further calls do nothing."""
        with suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def __enter__(self) -> SharedWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _announced(self, address: Address) -> None:
        self._listening = address
        self._started.set()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(serve(self._state, self._make, self._options, self._stopping))
        except BaseException as error:  # for whoever waits for the start
            self._error = error
        finally:
            self._started.set()


def _explained(error: BaseException | None, options: ServeOptions) -> BaseException:
    if isinstance(error, ListenError):
        return ConfigError(f"Cannot listen on {options.host}, port {options.port}: {error.strerror}")
    return error or RuntimeError("the worker was stopped before it was ready")


def _address(text: str) -> Address:
    try:
        return Address.parse(f"{HTTPS}://{text}")
    except ValueError as error:
        raise ConfigError(f"share_as: {error}") from None
