"""The command `worker`: holds models and runs their forward passes for others."""

from __future__ import annotations

import argparse
import asyncio
import errno
import logging
import os
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

from ..backend_factory import BackendOptions, make_backend
from ..backends.base import Backend
from ..config.address import Address, host_and_port, is_loopback
from ..config.findings import checked_settings
from ..config.settings import Settings
from ..config.token_strength import advice, weakness
from ..errors import ConfigError
from ..server.handler_options import handler_options, lifetime_limits
from ..server.http.routes import WorkerState
from ..server.http.tls import server_context
from ..server.http.tokens import Tokens
from ..server.lifetime import LifetimeLimits
from ..server.pairing.share import EVERYWHERE, Share, shared_addresses
from ..server.serve import ListenError, ServeOptions, serve_until_signalled
from . import sharing
from .arguments import existing_file, minutes, whole_number
from .comfyui_python import enter_comfyui

logger = logging.getLogger(__name__)

_BUNDLED = "digits"
_HERE = "127.0.0.1"
_REMEDIES = {
    errno.EADDRINUSE: "another program, perhaps another worker, listens there already. End it, or choose another "
    "port (--port, or PORT in a container).",
    errno.EADDRNOTAVAIL: "this machine does not have that address. 127.0.0.1 is for itself and a tunnel, :: for "
    "all of its networks; with --share leave --host out.",
    errno.EACCES: "ports below 1024 need special rights. Choose another port.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--backend", choices=["comfyui", "diffusers"], required=True, help="what runs the models")
    parser.add_argument("--comfyui", type=Path, metavar="PATH", help="the ComfyUI folder (comfyui backend)")
    parser.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="diffusers: a model's folder or file, or a folder of models; "
        "comfyui: a further folder with diffusion_models/ and checkpoints/ in it",
    )
    parser.add_argument(
        "--extra-model-paths-config",
        type=existing_file,
        action="append",
        default=[],
        metavar="YAML",
        help="as ComfyUI's own option of that name; may be repeated",
    )
    sharing.add_arguments(parser)
    parser.add_argument(
        "--host", help=f"address to listen on (default: {_HERE}, with --share all networks of this machine)"
    )
    parser.add_argument(
        "--port", type=whole_number(0, 65_535), default=8288, help="0: any free one (default: %(default)s)"
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name, besides localhost, by which clients may reach a worker without a token; may be repeated",
    )
    parser.add_argument(
        "--tls-cert",
        type=existing_file,
        metavar="PEM",
        help="serve https with this certificate chain, in place of --share",
    )
    parser.add_argument("--tls-key", type=existing_file, metavar="PEM", help="and this private key")
    parser.add_argument(
        "--idle-exit",
        type=minutes,
        metavar="TIME",
        help="leave after so long without use (20m or 20, 2h), so that a rented machine ends; without it never",
    )
    parser.add_argument(
        "--at-most",
        type=minutes,
        metavar="TIME",
        help="leave so long after the start whatever happens; the call that runs then may finish",
    )
    parser.add_argument(
        "--allow-downloads",
        action="store_true",
        help="let clients bring model files (fetch, push) and remove those that they brought, also where other "
        "machines reach this worker",
    )
    parser.add_argument("--cpu", action="store_true", help="use no GPU")


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: a setting or an option is wrong, or the worker would be open to the network.
    """
    settings = checked_settings()
    _check(options, settings)
    share = sharing.opened(options, settings.pairing_folder)
    tls = _tls(options) if share is None else share.certificate.tls
    if options.backend == "comfyui":
        enter_comfyui(options.comfyui, sys.argv[1:], settings.comfyui_python, cpu=options.cpu)
    if tls is None and not is_loopback(_host(options)):
        logger.warning(
            "Listening on %s without a certificate: clients on other machines accept https only. Use --share, "
            "which makes one, or put a proxy that speaks https in front.",
            _host(options),
        )
    if options.allow_downloads:
        settings = settings.model_copy(update={"model_downloads": "on"})
    is_private = options.share is None and is_loopback(_host(options))
    serving = ServeOptions(
        host=_host(options),
        port=options.port,
        handler=handler_options(settings, is_for_this_machine=is_private),
        announce=lambda address: _announce(address, options, share),
        tls=tls,
        life=_life(options, settings),
    )
    backend = _backend(options, settings)
    tokens = Tokens(settings.token, None if share is None else share.pairings.digests)
    state = WorkerState(serving.handler.limits, tokens, hosts=tuple(options.allow_host))
    serve_process(state, lambda: _made(backend), serving)
    return 0


def _life(options: argparse.Namespace, settings: Settings) -> LifetimeLimits:
    limits = lifetime_limits(settings)
    idle_s = limits.idle_s if options.idle_exit is None else options.idle_exit * 60
    return LifetimeLimits(idle_s, limits.at_most_s if options.at_most is None else options.at_most * 60)


def _host(options: argparse.Namespace) -> str:
    return options.host or (_HERE if options.share is None else EVERYWHERE)


def _announce(address: Address, options: argparse.Namespace, share: Share | None) -> None:
    if share is not None:
        sharing.announce(share, shared_addresses(address.host, address.tcp_port, options.share_as))
    else:
        print(f"listening on {address}", flush=True)


def _made(options: BackendOptions) -> Backend:
    backend = make_backend(options)
    names = [entry.name for entry in backend.listing().models]
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
    folders = backend.info().folders
    where = f"put one into {' or '.join(folders)}" if folders else "name a folder of models by --models"
    logger.info("%d %s: %s", len(names), "model" if len(names) == 1 else "models", shown or where)
    if options.name == "diffusers" and options.models is not None and set(names) <= {_BUNDLED}:
        logger.warning(
            "--models %s: there is no diffusers model in it, that is, a config.json beside *.safetensors%s",
            options.models,
            "; only the bundled one is offered" if names else "",
        )
    return backend


def serve_process(state: WorkerState, make: Callable[[], Backend], serving: ServeOptions) -> None:
    """Run `serve_until_signalled` as the only work of this process.

    Raises:
        ConfigError: the address cannot be listened on, or the backend cannot be made.
        Whatever `make` raises.
    """
    try:
        ended = asyncio.run(serve_until_signalled(state, make, serving))
    except ListenError as error:
        raise ConfigError(_cannot_listen(serving, error)) from error
    except OSError as error:  # of the backend's making: of all else the server sees to its own
        raise ConfigError(_cannot_start(error)) from error
    sys.stdout.flush()
    if not ended:
        os._exit(0)  # a thread is inside a library, which Python cannot end: torch would abort the process


def _cannot_listen(serving: ServeOptions, error: OSError) -> str:
    remedy = _REMEDIES.get(error.errno or 0, error.strerror)
    return f"Cannot listen on {host_and_port(serving.host, serving.port)}: {remedy}"


def _cannot_start(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return (
        f"The backend cannot be made: {error.strerror or type(error).__name__}{where}. Look at that file or folder "
        "and at the disk that it lies on."
    )


def _check(options: argparse.Namespace, settings: Settings) -> None:
    host = _host(options)
    if settings.token is None and options.share is None and not is_loopback(host):
        raise ConfigError(
            f"Listening on {host} needs a token: without one anyone on the network could use this GPU. Use "
            f"--share, which makes one and a certificate, in place of --host. Or bring your own: {advice()}"
        )
    weak = None if settings.token is None else weakness(settings.token)
    if weak is not None and not is_loopback(host):
        raise ConfigError(
            f"COMFY_GPU_OFFLOAD_TOKEN is too easy to guess for a worker on {host}: {weak}. {advice()}"
        )
    if weak is not None:
        logger.warning("COMFY_GPU_OFFLOAD_TOKEN is easy to guess: %s. %s", weak, advice())
    if (options.tls_cert is None) != (options.tls_key is None):
        raise ConfigError("--tls-cert and --tls-key belong together")
    if options.share is not None and options.tls_cert is not None:
        raise ConfigError("--share makes a certificate of its own: leave out --tls-cert and --tls-key, or --share.")
    if options.share is None and options.share_as is not None:
        raise ConfigError("--share-as says which address the line of --share holds: add --share.")
    if options.models is not None and not options.models.exists():
        raise ConfigError(f"--models {options.models}: there is no such file or folder")
    if options.models is not None and options.backend == "comfyui" and not options.models.is_dir():
        raise ConfigError(f"--models {options.models}: this is not a folder: name one for the comfyui backend")


def _tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    if options.tls_cert is None:
        return None
    try:
        return server_context(options.tls_cert, options.tls_key)
    except OSError as error:
        raise ConfigError(f"--tls-cert, --tls-key: the certificate cannot be loaded: {error}") from error


def _backend(options: argparse.Namespace, settings: Settings) -> BackendOptions:
    return BackendOptions(
        name=options.backend,
        comfyui=options.comfyui,
        models=options.models,
        extra_model_paths=tuple(options.extra_model_paths_config),
        cpu=options.cpu,
        model_bytes=settings.model_bytes,
    )
