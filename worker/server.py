"""The worker of a load-balancing endpoint or a pod: `python -m worker.server`, or this file itself."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http import HTTPStatus
from pathlib import Path

from pydantic import SecretStr

if not __package__:  # run as a file: the folder above holds the package
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from worker.settings import WorkerSettings, load_worker_settings
from worker.start import exit_status, handler_options, ready_backend

from comfy_gpu_offload.cli.worker_command import serve_process
from comfy_gpu_offload.config.findings import checked_settings
from comfy_gpu_offload.config.settings import PREFIX, Settings
from comfy_gpu_offload.config.token_strength import advice, weakness
from comfy_gpu_offload.errors import ConfigError
from comfy_gpu_offload.server.http.reply import Reply
from comfy_gpu_offload.server.http.request import Request
from comfy_gpu_offload.server.http.routes import Routes, WorkerState
from comfy_gpu_offload.server.http.server import HttpServer
from comfy_gpu_offload.server.serve import ServeOptions

logger = logging.getLogger(__name__)

# The platform's proxy comes from another machine. `_token` says who may.
_HOST = "0.0.0.0"  # noqa: S104  # nosec B104


def main() -> int:
    """Serves until SIGTERM; the exit status."""
    return exit_status(_run)


def _run() -> None:
    worker, settings = load_worker_settings(), checked_settings()
    options = handler_options(settings)
    token = _token(worker, settings)
    # Without a token only the edge can reach this, under names that are the platform's to choose.
    state = WorkerState(options.limits, token, is_behind_edge=token is None)
    serving = ServeOptions(
        host=_HOST,
        port=worker.port,
        handler=options,
        announce=lambda address: print(f"listening on {address}", flush=True),
    )
    apart = worker.health_port not in {None, worker.port}
    with _pinged(state, worker.health_port or 0) if apart else nullcontext():
        serve_process(state, lambda: ready_backend(worker, settings), serving)


def _token(worker: WorkerSettings, settings: Settings) -> SecretStr | None:
    """The token that callers must send; None behind a load-balancing endpoint, whose edge asks for RunPod's key.

    Both names must be set for that: a client's settings hold RUNPOD_ENDPOINT_ID too, and may lie about anywhere.

    Raises:
        ConfigError: anyone could use this GPU.
    """
    if worker.endpoint_id and worker.pod_id:
        logger.info("no token is asked for here: RunPod's edge lets in nobody without an API key of the account")
        if settings.token is not None:
            logger.warning(
                "%sTOKEN is ignored: what arrives as the bearer here is the caller's RunPod API key, which would "
                "never match it. Remove the variable from the endpoint.",
                PREFIX,
            )
        return None
    if settings.token is None:
        where = (
            "A pod's proxy address is public and asks nobody who they are"
            if worker.pod_id
            else f"Listening on {_HOST} would let anyone on the network use this GPU"
        )
        raise ConfigError(f"{where}: it takes a token. {advice()}")
    weak = weakness(settings.token)
    if weak is not None:
        raise ConfigError(
            f"{PREFIX}TOKEN is too easy to guess for an address that others reach: {weak}. {advice()}"
        )
    return settings.token


@contextmanager
def _pinged(state: WorkerState, port: int) -> Iterator[None]:
    """Answers `/ping`, and nothing else, on a port of its own.

    Raises:
        ConfigError: the port cannot be listened on.
    """
    routes = Routes(state)

    def ping(request: Request) -> Reply:
        return routes(request) if request.path == "/ping" else Reply(HTTPStatus.NOT_FOUND)

    try:
        server = HttpServer(ping, _HOST, port)
    except OSError as error:
        raise ConfigError(f"PORT_HEALTH: cannot listen on {_HOST}:{port}: {error.strerror}") from error
    try:
        yield
    finally:
        server.close()


if __name__ == "__main__":
    sys.exit(main())
