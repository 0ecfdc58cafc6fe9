"""A connection to a worker through a proxy, and what is said where none comes about."""

from __future__ import annotations

import socket
from time import monotonic

from ...config.address import Address
from ...config.proxies import Proxy
from ...errors import ProxyError
from .. import tcp_connection
from ..timed_socket import TimedSocket
from . import http_connect
from .refusal import NotAProxyError, Reason, TunnelRefusedError

_ALLOWED_PORT = 443


def connect_through(proxy: Proxy, target: Address, timeout_s: float) -> socket.socket:
    """Return a connection to `target`, without TLS yet. All of it ends within `timeout_s`.

    Raises:
        ProxyError: the proxy does not answer as one, or lets nobody through.
    """
    deadline = monotonic() + timeout_s
    sock: socket.socket | None = None
    try:
        sock = tcp_connection.connect_tcp(proxy.host, proxy.port, timeout_s)
        _ask_to_connect(TimedSocket(sock, deadline), proxy, target)
    except BaseException as error:
        if sock is not None:
            sock.close()
        if isinstance(error, TimeoutError) and sock is not None:
            error = TunnelRefusedError(Reason.UNREACHABLE, "no answer in time")
        if isinstance(error, TunnelRefusedError):
            raise _refused(proxy, target, error) from error
        if isinstance(error, OSError | NotAProxyError):
            raise _no_proxy(proxy, target, error) from error
        raise
    return sock


def _ask_to_connect(sock: TimedSocket, proxy: Proxy, target: Address) -> None:
    if proxy.kind.is_socks:
        from . import socks  # noqa: PLC0415  # its library's 22 modules take 20 ms, and few need them

        socks.ask_to_connect(sock, proxy, target)
    else:
        http_connect.ask_to_connect(sock, proxy, target)


def _refused(proxy: Proxy, target: Address, error: TunnelRefusedError) -> ProxyError:
    return ProxyError(_refusal(proxy, target, error), retryable=error.reason is Reason.UNREACHABLE)


def _refusal(proxy: Proxy, target: Address, error: TunnelRefusedError) -> str:
    subject, exempt = _subject(proxy), _exempt(target)
    if error.reason is Reason.LOGIN:
        other = "" if proxy.user is None else " other than those given"
        return (
            f"{subject} wants a user and a password{other} ({error.answer}): write "
            f"{proxy.kind}://USER:PASSWORD@{proxy.place} there."
        )
    if error.reason is Reason.LOGIN_KIND:
        return (
            f"{subject} wants to know who asks in a way that is not spoken here ({error.answer}): name a proxy on "
            f"this machine that speaks it, such as Px or Cntlm; {exempt}."
        )
    if error.reason is Reason.UNREACHABLE:
        return f"{subject} cannot reach {target} ({error.answer}). Does anybody answer there? {exempt}."
    text = f"{subject} lets nobody through to {target} ({error.answer}). "
    if target.tcp_port != _ALLOWED_PORT:
        text += (
            f"Many let through to port {_ALLOWED_PORT} alone, and this is {target.tcp_port}: let the worker, or "
            "what stands before it, listen there. "
        )
    return f"{text}Ask whoever runs it; {exempt}."


def _no_proxy(proxy: Proxy, target: Address, error: OSError | NotAProxyError) -> ProxyError:
    why = getattr(error, "strerror", None) or type(error).__name__
    if isinstance(error, NotAProxyError):
        why = str(error)
    text = f"{_subject(proxy)} does not answer as one ({why}). Is it right, and is it running? {_exempt(target)}."
    return ProxyError(text, retryable=True)


def _subject(proxy: Proxy) -> str:
    text = str(proxy)
    return text[0].upper() + text[1:]


def _exempt(target: Address) -> str:
    return f"NO_PROXY={target.host} goes past it"
