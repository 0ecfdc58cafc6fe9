"""The worker of a load-balancing endpoint or a pod, started as `python -m worker.server` or as this file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http import HTTPStatus
from pathlib import Path

from pydantic import SecretStr

if not __package__:  # started as a file: the package is in the folder above
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from worker.settings import WorkerSettings, load_worker_settings
from worker.start import exit_status, ready_backend

from comfy_gpu_offload.cli.worker_command import serve_process
from comfy_gpu_offload.config.findings import checked_settings
from comfy_gpu_offload.config.settings import PREFIX, Settings
from comfy_gpu_offload.config.token_strength import advice, weakness
from comfy_gpu_offload.errors import ConfigError
from comfy_gpu_offload.server.handler_options import handler_options, lifetime_limits
from comfy_gpu_offload.server.http.reply import Reply
from comfy_gpu_offload.server.http.request import Request
from comfy_gpu_offload.server.http.routes import Routes, WorkerState
from comfy_gpu_offload.server.http.server import HttpServer, listen
from comfy_gpu_offload.server.http.tokens import Tokens
from comfy_gpu_offload.server.lifetime import LifetimeLimits
from comfy_gpu_offload.server.serve import ServeOptions

logger = logging.getLogger(__name__)

# The platform's proxy is on another machine. `_token` decides who is let in.
_HOST = "0.0.0.0"  # noqa: S104  # nosec B104


def main() -> int:
    """Serve until SIGTERM; return the exit status."""
    return exit_status(_run)


def _run() -> None:
    worker, settings = load_worker_settings(), checked_settings()
    options = handler_options(settings)
    token = _token(worker, settings)
    # Without a token only the platform's edge can reach the worker, under names that the platform chooses.
    state = WorkerState(options.limits, Tokens(token), is_behind_edge=token is None)
    serving = ServeOptions(
        host=_HOST,
        port=worker.port,
        handler=options,
        announce=lambda address: print(f"listening on {address}", flush=True),
        life=_life(worker, settings),
    )
    apart = worker.health_port not in {None, worker.port}
    with _pinged(state, worker.health_port or 0) if apart else nullcontext():
        serve_process(state, lambda: ready_backend(worker, settings), serving)


def _life(worker: WorkerSettings, settings: Settings) -> LifetimeLimits:
    """Return when the worker leaves by itself; never in an endpoint, which starts and stops its workers."""
    return LifetimeLimits() if _is_of_endpoint(worker) else lifetime_limits(settings)


def _is_of_endpoint(worker: WorkerSettings) -> bool:
    """Return whether this is an endpoint's worker. RUNPOD_ENDPOINT_ID alone may come from a client's settings."""
    return bool(worker.endpoint_id and worker.pod_id)


def _token(worker: WorkerSettings, settings: Settings) -> SecretStr | None:
    """Return the token that callers must send, or None behind a load-balancing endpoint: its edge asks for a key.

    Raises:
        ConfigError: anyone could use this GPU, since the token is missing or easy to guess.
    """
    if _is_of_endpoint(worker):
        logger.info("no token is required here: RunPod's edge lets in nobody without an API key of the account")
        if settings.token is not None:
            logger.warning(
                "%sTOKEN is ignored: the bearer token that arrives here is the caller's RunPod API key, which "
                "would never match it. Remove the variable from the endpoint.",
                PREFIX,
            )
        return None
    if settings.token is None:
        where = (
            "A pod's proxy address is public and lets anyone in"
            if worker.pod_id
            else f"Anyone on the network could use a GPU that listens on {_HOST}"
        )
        raise ConfigError(f"{where}, so a token is required. {advice()}")
    weak = weakness(settings.token)
    if weak is not None:
        raise ConfigError(
            f"{PREFIX}TOKEN is too easy to guess for an address that others reach: {weak}. {advice()}"
        )
    return settings.token


@contextmanager
def _pinged(state: WorkerState, port: int) -> Iterator[None]:
    """Answer `/ping`, and nothing else, on a port of its own.

    Raises:
        ConfigError: the port cannot be listened on.
    """
    routes = Routes(state)

    def ping(request: Request) -> Reply:
        return routes(request) if request.path == "/ping" else Reply(HTTPStatus.NOT_FOUND)

    try:
        server = HttpServer(ping, listen(_HOST, port))
    except OSError as error:
        raise ConfigError(f"PORT_HEALTH: cannot listen on {_HOST}:{port}: {error.strerror}") from error
    try:
        yield
    finally:
        server.close()


if __name__ == "__main__":
    sys.exit(main())
