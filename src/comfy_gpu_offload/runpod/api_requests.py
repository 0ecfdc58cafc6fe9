"""HTTP requests to RunPod's API: kept-alive connections, the key, bounds on time and size. No retries."""

from __future__ import annotations

import io
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import requests
import urllib3
from pydantic import SecretStr
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from ..config.address import HTTPS, Address
from ..config.certificates import tls_context
from ..config.proxies import Proxy, proxy_for
from ..errors import ProxyError, RunPodNetworkError, RunPodReplyError
from ..net.clock import Check
from ..net.interruptible import interruptibly
from ..net.proxy.connection import connect_through
from ..net.tcp_connection import connect_tcp
from .network_errors import DOUBT, network_error

_CHUNK_BYTES = 64 * 1024
# A connection that a router dropped without closing it would make a submission look lost;
# transport/http_transport.py has the same limit.
_IDLE_S = 60.0
# 1 Mbit/s. A slower line counts as none; requests get as much more time as their bytes take at this rate.
_SLOWEST_BYTES_PER_S = 125_000
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Request:
    """A request. Its body may hold secrets, and is not shown.

    Attributes:
        path: below the API's address.
        submits: whether it begins what is billed: a job, a pod, an endpoint.
        doubt: what an error says besides where RunPod may have begun it all the same.
        secrets: texts of the body that no message may repeat.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    timeout_s: float
    body: bytes | None = field(default=None, repr=False)
    job_id: str | None = None
    submits: bool = False
    doubt: str = DOUBT
    headers: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Reply:
    """RunPod's reply, whatever its status. `retry_after` and `rate_limit` are the headers of these names."""

    status: int
    body: bytes = field(repr=False)
    retry_after: str | None = None
    rate_limit: str | None = None


def _nothing() -> None:
    """Do nothing about a reply that never came."""


class ApiHttp:
    """Sends requests below `base`, with the key. Thread-safe."""

    def __init__(
        self,
        base: Address,
        api_key: SecretStr,
        *,
        connect_timeout_s: float,
        reply_bytes: int,
        ca_file: Path | None = None,
        setting: str = "RUNPOD_BASE_URL",
    ) -> None:
        """`ca_file`: as `certificates.tls_context`. `setting`: the one that `base` comes from, for messages.

        Raises:
            ConfigError: it cannot be read, or what names a proxy is wrong.
        """
        self._address, self._base = base, str(base)
        self._proxy = proxy_for(base)
        self._tls = tls_context(ca_file) if base.is_encrypted else None
        self._connect_timeout_s = connect_timeout_s
        self._reply_bytes = reply_bytes
        self._api_key = api_key
        self._setting = setting
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._used_at = monotonic()
        self._session = _session(self._address, self._api_key, self._tls, self._proxy)

    def exchange(
        self,
        request: Request,
        check: Check | None,
        late: Callable[[Reply], None],
        failed: Callable[[], None] = _nothing,
    ) -> Reply:
        """Return the reply to `request`, whatever its status.

        `late` gets it if the wait was given up before; `failed` is called when it is certain that none comes.

        Raises:
            RunPodNetworkError: no complete reply came.
            RunPodReplyError: it is too large.
            TlsError: RunPod's certificate was not accepted.
            Whatever `check` raises, which is called at least every 0.1 s.
        """
        self._drop_idle()
        meter = Meter()
        started = monotonic()

        def watch() -> None:
            if check is not None:
                check()
            allowed_s = self._connect_timeout_s + request.timeout_s + meter.bytes / _SLOWEST_BYTES_PER_S
            if monotonic() - started > allowed_s:
                raise RunPodNetworkError(
                    f"RunPod gave no complete reply to {request.path} within {allowed_s:.0f} s."
                    f"{request.doubt if request.submits else ''}",
                    connected=True,
                    maybe_submitted=request.submits,
                )

        try:
            return interruptibly(lambda: self._exchange(request, meter), watch, late, failed)
        finally:
            self._used_at = monotonic()

    def close(self) -> None:
        """Close the connections that are not in use. A later exchange opens new ones."""
        self._session.close()

    def forked(self) -> None:
        """Begin anew in a forked process. Dropped, its copies of the connections end without a word on the wire."""
        self._begin()

    def _drop_idle(self) -> None:
        with self._lock:
            if monotonic() - self._used_at > _IDLE_S:
                self._session.close()
            self._used_at = monotonic()

    @contextmanager
    def opened(self, request: Request, meter: Meter | None = None) -> Iterator[requests.Response]:
        """Send `request` and give the response, whose body is read within the block.

        Raises:
            RunPodNetworkError, TlsError: as `exchange`, also for what breaks within the block.
        """
        try:
            with self._session.request(
                request.method,
                self._base + request.path,
                data=None if request.body is None else _Upload(request.body, meter or Meter()),
                headers={**({} if request.body is None else _JSON), **request.headers},
                timeout=(self._connect_timeout_s, request.timeout_s),
                allow_redirects=False,  # the key must not be sent elsewhere
                stream=True,
            ) as response:
                yield response
        except ProxyError as error:
            raise RunPodNetworkError(str(error), connected=False, retryable=error.retryable) from error
        except (OSError, urllib3.exceptions.HTTPError) as error:
            ours = network_error(
                error,
                self._address,
                request.path,
                setting=self._setting,
                doubt=request.doubt,
                submits=request.submits,
            )
            raise ours from _without_request(error)

    def _exchange(self, request: Request, meter: Meter) -> Reply:
        with self.opened(request, meter) as response:
            body = self.body(response, request, meter)
            said = response.headers
            return Reply(response.status_code, body, said.get("Retry-After"), said.get("RateLimit"))

    def body(self, response: requests.Response, request: Request, meter: Meter | None = None) -> bytes:
        """Return the response's body.

        Raises:
            RunPodReplyError: it is too large.
        """
        body = bytearray()
        for piece in response.iter_content(_CHUNK_BYTES):
            body += piece
            if meter is not None:
                meter.bytes += len(piece)
            if len(body) > self._reply_bytes:
                raise RunPodReplyError(
                    f"RunPod's reply to {request.path} is larger than {self._reply_bytes / 1e6:.0f} MB, and is "
                    f"not read.{request.doubt if request.submits else ''}",
                    status=response.status_code,
                    maybe_submitted=request.submits,
                )
        return bytes(body)


def _session(
    base: Address, api_key: SecretStr, tls: ssl.SSLContext | None, proxy: Proxy | None
) -> requests.Session:
    session = requests.Session()
    # Proxies and certificates are chosen as for workers, and no .netrc is read.
    session.trust_env = False
    if tls is not None:
        session.mount("https://", _Https(base, proxy, tls))
    session.auth = _Bearer(api_key)
    session.headers.update({"User-Agent": "comfy-gpu-offload", "Accept": "application/json"})
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return session


class _Https(HTTPAdapter):
    """An adapter whose connections are made as those to workers are, through the same proxy."""

    def __init__(self, base: Address, proxy: Proxy | None, tls: ssl.SSLContext) -> None:
        self._pool_class = _pool_class(base, proxy)
        self._tls = tls
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """See `HTTPAdapter`."""
        super().init_poolmanager(*args, **kwargs, ssl_context=self._tls)
        self.poolmanager.pool_classes_by_scheme = {HTTPS: self._pool_class}


def _pool_class(base: Address, proxy: Proxy | None) -> type[urllib3.HTTPSConnectionPool]:
    """Return a pool whose connections lead to `base`. They are put in where urllib3 itself puts in SOCKS."""

    class Connection(urllib3.connection.HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            timeout_s = self.timeout
            assert isinstance(timeout_s, int | float)  # noqa: S101  # nosec B101
            if proxy is not None:
                sock = connect_through(proxy, base, timeout_s)
            else:
                try:
                    sock = connect_tcp(base.host, base.tcp_port, timeout_s)
                except OSError as error:
                    raise urllib3.exceptions.NewConnectionError(self, type(error).__name__) from error
            sock.settimeout(timeout_s)
            return sock

    class Pool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Connection

    return Pool


class _Bearer(AuthBase):
    def __init__(self, api_key: SecretStr) -> None:
        self._api_key = api_key

    def __call__(self, prepared: requests.PreparedRequest) -> requests.PreparedRequest:
        prepared.headers["Authorization"] = f"Bearer {self._api_key.get_secret_value()}"
        return prepared


class Meter:
    """A count of the bytes that have gone either way."""

    def __init__(self) -> None:
        self.bytes = 0


class _Upload(io.BytesIO):
    """A body that is read in small pieces.

    Given whole, it would have to leave within the connection's timeout, which is what urllib3 sets for sending:
    9.5 MB in 10 s is more than many lines carry.
    """

    def __init__(self, body: bytes, meter: Meter) -> None:
        super().__init__(body)
        self._meter = meter

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        self._meter.bytes += len(piece)
        return piece


def _without_request(error: Exception) -> Exception:
    """Return the same error without the request that `requests` attaches, whose headers hold the key."""
    if isinstance(error, requests.RequestException):
        error.request = None
        error.response = None
    return error
