"""The command `doctor`: checks the configured worker from the settings to a forward call, and says what to do."""

from __future__ import annotations

import argparse
import logging
import platform
import socket
import statistics
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import torch

from ..client.connect import connect_from
from ..client.remote_model import RemoteModel
from ..client.session import Session
from ..config.address import HTTP, HTTPS, Address
from ..config.endpoint import Direct, Serverless, configured
from ..config.findings import found
from ..config.proxies import Proxy, proxy_for
from ..config.settings import Settings, env_files, load_settings
from ..errors import ConnectError, OffloadError, ProxyError
from ..protocol.capabilities import lacking
from ..runpod.client import RunPodClient
from ..runpod.schema import EndpointHealth
from ..transport.configured import kind_of
from ..transport.connector import Connector, connector_to
from ..transport.health import Health, ping
from ..version import __version__
from .arguments import short_text
from .local_comfyui import comfyui_release
from .models_command import skipped_lines, where_models_belong

_DIGITS = "digits"
_ROUND_TRIPS = 7
# Bytes: enough to reach a connection's speed, little enough for a slow one and for a queue job's limit.
_FIRST_BYTES = 256 * 1024
_MOST_BYTES = 4 * 1024**2
_LONG_ENOUGH_S = 0.5
_CONNECT_S = 10.0

_MEANINGS = {
    Health.WARMING: "the worker is still starting; its log says what it is doing",
    Health.UNHEALTHY: "no worker answers there: is it the worker's port, and nothing after the port?",
    Health.UNREACHABLE: "no answer. To a worker with --share leads the line that it prints, to one with "
    "--tls-cert an https:// address, to any other an http:// one",
}

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--model", type=short_text(256), help="also load this model there; the bundled model digits is called, too"
    )
    parser.add_argument(
        "--comfyui",
        type=Path,
        metavar="PATH",
        help="the ComfyUI folder on this machine, to compare its release with the worker's; found by itself if the "
        "pack lies in it",
    )
    parser.epilog = "Exit status: 0 if a forward call would work, 1 if not, 2 if a setting is wrong."


def run(options: argparse.Namespace) -> int:
    """Print a line for each check, and stop at the first that fails.

    Raises:
        OffloadError: a check failed; says which, and what to do.
    """
    logging.getLogger().setLevel(logging.ERROR)
    for finding in found():
        if not finding.is_error:  # which ends it below
            _doubt("settings", finding.text)
    settings = _checked("settings", load_settings)
    here = _checked("--comfyui", lambda: comfyui_release(options.comfyui))
    target = _settings(settings)
    _network(target)
    if isinstance(target, Serverless):
        _platform(target, settings)
    else:
        _certificate(target)
        _ping(target, settings)
    with _session(settings) as session:
        _versions(session, here)
        _carrier(session)
        _models(session, options.model)
        round_trip_s = _link(session)
        call_s = _forward(session, options.model)
    _cost(settings, round_trip_s, call_s)
    return 0


def _say(check: str, text: str) -> None:
    print(f"  ok  {check:<13} {text}", flush=True)


def _doubt(check: str, text: str) -> None:
    print(f"  ??  {check:<13} {text}", flush=True)


def _checked(check: str, function: Callable[[], T]) -> T:
    try:
        return function()
    except OffloadError:
        print(f"FAIL  {check}", flush=True)
        raise


def _settings(settings: Settings) -> Direct | Serverless:
    target = _checked("settings", lambda: configured(settings))
    if isinstance(target, Direct):
        by = "without a token" if target.token is None else "with a token"
        if target.fingerprint is not None:
            by = "by its pairing line"
        _say("settings", f"a worker at {target.address}, {by}{_source()}")
    else:
        _say("settings", f"RunPod endpoint {target.endpoint_id}, kind: {target.kind}{_source()}")
    return target


def _source() -> str:
    files = env_files()
    return f" (read: {', '.join(map(str, files))})" if files else ""


def _network(target: Direct | Serverless) -> None:
    address = target.address if isinstance(target, Direct) or target.kind == "load-balancer" else target.api
    host, port = address.host, address.tcp_port
    if not host:  # not reached over a network
        return
    proxy = _proxy(address)
    if proxy is not None:
        host, port = proxy.host, proxy.port
    if isinstance(target, Serverless) and address != target.api:
        _proxy(target.api)
    addresses = _checked("address", lambda: _resolved(host, port))
    _say("address", f"{host} is {addresses[0]}" + (f" and {len(addresses) - 1} more" if addresses[1:] else ""))
    seconds = _checked("connection", lambda: _connected(address, proxy))
    through = "" if proxy is None else " through the proxy"
    _say("connection", f"port {address.tcp_port} answers{through} in {seconds * 1e3:.1f} ms")


def _proxy(address: Address) -> Proxy | None:
    """Return the proxy before `address`, once it is said."""
    proxy = _checked("address", lambda: proxy_for(address))
    if proxy is not None:
        _say("proxy", f"{address.host} is reached through {proxy}; NO_PROXY={address.host} goes past it")
    return proxy


def _resolved(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectError(
            f"{host} has no address ({error.strerror or type(error).__name__}): is the name right, and is this "
            "machine online?"
        ) from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _connected(address: Address, proxy: Proxy | None) -> float:
    connector = Connector(address, tls=None, proxy=proxy)
    times = []
    for _ in range(3):
        started = perf_counter()
        try:
            with closing(connector.connect(_CONNECT_S)):
                times.append(perf_counter() - started)
        except ProxyError:
            raise
        except ConnectError as error:
            why = getattr(error.__cause__, "strerror", None) or type(error.__cause__).__name__
            raise ConnectError(
                f"Nothing takes connections at {address.host}, port {address.tcp_port} ({why}). Is the worker "
                "running, does it listen on that port, does a firewall stand in between?"
            ) from error
    return min(times)


def _platform(target: Serverless, settings: Settings) -> None:
    with RunPodClient(target.key, target.endpoint_id, base_url=target.api, ca_file=settings.ca_file) as api:
        health = _checked("RunPod", api.health)
        kind = target.kind if target.kind != "auto" else _checked("RunPod", lambda: kind_of(api))
    _say("RunPod", f"the key is accepted; a {kind} endpoint; {_counts(health)}")
    if not health.workers.up:
        print(f"      no worker runs: starting one, for up to {settings.wake_timeout_s:.0f} s", flush=True)


def _counts(health: EndpointHealth) -> str:
    workers, jobs = health.workers, health.jobs
    return (
        f"workers: {workers.up} ready, {workers.running} of them running, {workers.initializing} "
        f"starting, {workers.throttled} throttled, {workers.unhealthy} unhealthy; jobs: {jobs.in_queue} waiting, "
        f"{jobs.in_progress} running, {jobs.failed} failed"
    )


def _certificate(target: Direct) -> None:
    """Check that the worker of a pairing line is the one that answers. Any other has no certificate to know."""
    if target.fingerprint is not None:
        connector = connector_to(target.address, fingerprint=target.fingerprint)
        _checked("certificate", lambda: connector.connect(_CONNECT_S)).close()
        _say("certificate", "it is the one of the pairing line")


def _ping(target: Direct, settings: Settings) -> None:
    if target.address.scheme not in {HTTP, HTTPS}:
        return
    health = ping(target.address, ca_file=settings.ca_file, fingerprint=target.fingerprint)
    if health is Health.READY:
        _say("worker", "it reports that it is ready")
    else:
        _doubt("worker", f"/ping: {_MEANINGS[health]}")


def _session(settings: Settings) -> Session:
    def progress(text: str) -> None:
        print(f"      {text}", flush=True)

    return _checked("handshake", lambda: connect_from(settings, notify=progress))


def _versions(session: Session, comfyui_here: str | None) -> None:
    there = session.welcome
    _say("handshake", f"backend {there.backend} on {there.device}")
    local = f", ComfyUI {comfyui_here}" if comfyui_here else ""
    print(f"      here:  comfy-gpu-offload {__version__}, torch {torch.__version__}{local}, {platform.platform()}")
    comfyui = f", ComfyUI {there.comfyui}" if there.comfyui else ""
    print(f"      there: comfy-gpu-offload {there.package}, torch {there.torch}{comfyui}", flush=True)
    if there.package != __version__:
        _doubt("handshake", "install the same release of comfy-gpu-offload on both sides")
    if missing := lacking(there):
        _doubt("handshake", f"the worker lacks {', '.join(missing)}: update comfy-gpu-offload there")
    if there.comfyui and comfyui_here is None:
        print(
            "      The release of ComfyUI here is not known: name its folder with --comfyui PATH.",
            flush=True,
        )
    elif there.comfyui and there.comfyui != comfyui_here:
        _doubt(
            "handshake",
            f"ComfyUI is {comfyui_here} here and {there.comfyui} at the worker: pictures of one seed may differ, "
            "and new models and nodes may not work; install the same release on both sides",
        )


def _carrier(session: Session) -> None:
    carrier = session.carrier
    if carrier.slower_why is None:
        _say("carrier", carrier.name)
    else:
        _doubt("carrier", f"{carrier.name}: {carrier.slower_why}")


def _models(session: Session, wanted: str | None) -> None:
    names = [entry.name for entry in session.welcome.models if entry.is_model]
    if not names:
        print("FAIL  models", flush=True)
        raise OffloadError(f"The worker has no models: {where_models_belong(session.welcome.folders)}.")
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
    _say("models", f"{len(names)}: {shown}")
    for line in skipped_lines(session.welcome.skipped):
        _doubt("models", f"not offered: {line}")
    if wanted is not None and wanted not in names:
        print("FAIL  model", flush=True)
        raise OffloadError(f"The worker has no model {wanted!r}. `comfy-gpu-offload models` lists what it has.")


def _link(session: Session) -> float:
    """Return the round trip in seconds; print it and the bandwidth both ways."""
    trips = [_checked("round trip", session.probe) for _ in range(_ROUND_TRIPS)]
    round_trip_s = statistics.median(trips[1:])
    _say("round trip", f"{round_trip_s * 1e3:.1f} ms (the first, with the connection: {trips[0] * 1e3:.1f} ms)")
    up = _checked("bandwidth", lambda: _rate(lambda size: session.probe(up_bytes=size), round_trip_s))
    down = _checked("bandwidth", lambda: _rate(lambda size: session.probe(down_bytes=size), round_trip_s))
    _say("bandwidth", f"{up * 8 / 1e6:.1f} Mbit/s up, {down * 8 / 1e6:.1f} Mbit/s down")
    return round_trip_s


def _rate(transfer: Callable[[int], float], round_trip_s: float) -> float:
    """Return bytes per second, by the largest transfer that is still quick."""
    size = _FIRST_BYTES
    while True:
        seconds = transfer(size)
        if seconds > _LONG_ENOUGH_S or size >= _MOST_BYTES:
            return size / max(seconds - round_trip_s, 1e-6)
        size *= 4


def _forward(session: Session, wanted: str | None) -> float | None:
    """Return how many seconds a forward call takes, or None for models whose arguments are not known here."""
    names = [entry.name for entry in session.welcome.models]
    name = wanted or (_DIGITS if _DIGITS in names else None)
    if name is None:
        _say("forward call", "a probe ran where calls run; --model NAME also loads a model")
        return None
    model = _checked("forward call", lambda: session.model(name))
    call = _digits_call(model) if name == _DIGITS else None
    if call is None:
        _say("forward call", f"{name} is loaded and computes in {model.description.compute_dtype}")
        return None
    seconds = _checked("forward call", lambda: _second_call_s(model, call))
    timings = model.last_timings
    compute_ms = 0.0 if timings is None else timings.compute_s * 1e3
    _say("forward call", f"{name}: {seconds * 1e3:.1f} ms, of which the model took {compute_ms:.1f} ms")
    return seconds


def _digits_call(model: RemoteModel) -> dict[str, torch.Tensor] | None:
    """Return a call of the bundled model; None where the demo is not part of this installation."""
    try:
        from ..digits.conditioning import conditioning  # noqa: PLC0415
    except ModuleNotFoundError:
        return None
    context, pooled = conditioning([7])
    return {
        "hidden_states": torch.zeros(1, 16, 8, 8, dtype=model.dtype),
        "timestep": torch.full((1,), 500.0),
        "encoder_hidden_states": context.to(model.dtype),
        "pooled_projections": pooled.to(model.dtype),
    }


def _second_call_s(model: RemoteModel, call: dict[str, torch.Tensor]) -> float:
    model(**call)  # the first one also carries what the next ones only name
    started = perf_counter()
    model(**call)
    return perf_counter() - started


def _cost(settings: Settings, round_trip_s: float, call_s: float | None) -> None:
    if not settings.gpu_rate:
        return
    seconds = round_trip_s if call_s is None else call_s
    what = "a call of no work" if call_s is None else "such a call"
    _say("cost", f"{what}: about ${settings.gpu_rate * seconds:.6f} at ${settings.gpu_rate:g} a second")
