"""HTTP requests whose every hop is checked: host, scheme, and the very network address that is connected to."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from time import time
from typing import Final

import urllib3
from pydantic import SecretStr

from ...config.address import Address
from ...config.certificates import tls_context, untrusted
from ...config.proxies import proxy_for
from ...errors import ConfigError, ProxyError
from ...net.proxy.connection import connect_through
from ...net.tcp_connection import connect_to, places_of
from .allowed_hosts import AllowedHosts
from .errors import BrokenTransferError, DownloadFailedError, RefusedSourceError
from .web_address import WebAddress

_CONNECT_S = 10.0
_SILENCE_S = 30.0
_MOST_REDIRECTS = 8
_REDIRECTS = {301, 302, 303, 307, 308}
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504, 520, 522, 524}
# It warns of a head that it cannot read, with the address's query, which may hold a token.
logging.getLogger("urllib3.connection").addFilter(lambda record: "url=" not in str(record.msg))

_HEADERS: Final = {"User-Agent": "comfy-gpu-offload", "Accept-Encoding": "identity"}


@dataclass(frozen=True)
class Answer:
    """The answer to a request, whose body has not been read.

    Attributes:
        status: 2xx or 416.
        headers: of the last hop.
        first_headers: of the first hop, where that was a redirect; else as `headers`.
        address: of the last hop.
    """

    status: int
    headers: Mapping[str, str]
    first_headers: Mapping[str, str]
    address: WebAddress
    response: urllib3.BaseHTTPResponse

    def blocks(self, size: int) -> Iterator[bytes]:
        """Yield the body in blocks of up to `size` bytes, as they come, until it ends where it should.

        Raises:
            BrokenTransferError: it breaks off.
        """
        with _broken(self.address.place):
            # Not `read`, which copies once more, and on a slow line waits until a block is full.
            while block := self.response.read1(size):
                yield block


class GuardedHttp:
    """Requests to allowed hosts alone. Thread-safe: it holds no connection, and TLS contexts are.

    Args:
        hosts: that may be asked.
        ca_file: as `certificates.tls_context`.
    """

    def __init__(self, hosts: AllowedHosts, ca_file: Path | None = None) -> None:
        self._hosts = hosts
        self._ca_file = ca_file

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return tls_context(self._ca_file)  # 30 ms

    @contextmanager
    def get(
        self, address: WebAddress, bearer: SecretStr | None = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[Answer]:
        """Give the answer to a GET, after all redirects, and close the connection afterwards.

        Args:
            bearer: is sent to the first host alone: not after a redirect to another host, scheme or port.
            headers: further ones, which are sent with every hop.

        Raises:
            RefusedSourceError: a hop leads where the worker does not go.
            DownloadFailedError: the other side refuses; says what to do.
            BrokenTransferError: another attempt may succeed.
        """
        first_headers: Mapping[str, str] | None = None
        origin = address.origin
        for _ in range(_MOST_REDIRECTS):
            self._hosts.check(address)
            sent = {**_HEADERS, **(headers or {})}
            if bearer is not None and address.origin == origin:
                sent["Authorization"] = f"Bearer {bearer.get_secret_value()}"
            with self._hop(address, sent) as response:
                first_headers = first_headers or response.headers
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or location is None:
                    _check_status(response, address, has_bearer=bearer is not None)
                    yield Answer(response.status, response.headers, first_headers, address, response)
                    return
                address = address.joined(location)
        raise DownloadFailedError(f"{address.place} redirects in a circle: try again later.")

    @contextmanager
    def _hop(self, address: WebAddress, headers: Mapping[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        with _broken(address.place):
            made = self._connection(address.place)
        with closing(made) as connection:
            with _broken(address.place):
                connection.request(
                    "GET", address.target, headers=headers, preload_content=False, decode_content=False
                )
                response = connection.getresponse()
            try:
                yield response
            finally:
                response.close()

    def _connection(self, place: Address) -> urllib3.connection.HTTPConnection:
        """Return a connection to `place`, to be made at a network address that is checked.

        requests would add redirects, `.netrc`, cookies and proxies, which had to be switched off again; a pool of
        urllib3 logs each address with its query.
        """
        connect = self._connect

        class Plain(urllib3.connection.HTTPConnection):
            def _new_conn(self) -> socket.socket:
                return connect(place)

        class Encrypted(urllib3.connection.HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                return connect(place)

        if not place.is_encrypted:
            return Plain(place.host, place.tcp_port, timeout=_SILENCE_S)
        return Encrypted(place.host, place.tcp_port, timeout=_SILENCE_S, ssl_context=self._tls)

    def _connect(self, place: Address) -> socket.socket:
        """Return a connection to `place`. Its name is looked up once, and what was checked is connected to.

        A proxy looks names up by itself, as its operator allows.

        Raises:
            RefusedSourceError: the name leads to no network address that the worker may connect to.
        """
        proxy = proxy_for(place)
        if proxy is not None:
            sock = connect_through(proxy, place, _CONNECT_S)
        else:
            found = places_of(place.host, place.tcp_port)
            allowed = [each for each in found if self._hosts.check_network_address(place, str(each[4][0]))]
            if not allowed:
                raise RefusedSourceError(
                    f"{place.host} has a private network address: this worker does not connect to it for a client."
                )
            sock = connect_to(allowed, _CONNECT_S)
        sock.settimeout(_SILENCE_S)
        return sock


@contextmanager
def _broken(place: Address) -> Iterator[None]:
    """Turn the errors of a connection into those of this room."""
    try:
        yield
    except ProxyError as error:
        raise (BrokenTransferError(str(error)) if error.retryable else DownloadFailedError(str(error))) from error
    except ConfigError as error:
        raise DownloadFailedError(str(error)) from error
    except ssl.SSLCertVerificationError as error:
        raise DownloadFailedError(untrusted(error, str(place), place.host)) from error
    except (OSError, HTTPException, urllib3.exceptions.HTTPError) as error:
        raise BrokenTransferError(f"{place.host}: {_words(error)}") from error


def _words(error: BaseException) -> str:
    if isinstance(error, socket.gaierror):
        return "its name is not known"
    text = getattr(error, "strerror", None)
    return text if isinstance(text, str) and text else type(error).__name__.removesuffix("Error")


def _check_status(response: urllib3.BaseHTTPResponse, address: WebAddress, *, has_bearer: bool) -> None:
    status, host = response.status, address.place.host
    if status in _TRANSIENT:
        raise BrokenTransferError(f"{host} answers {status}", _retry_after_s(response.headers.get("Retry-After")))
    if status in {401, 403}:
        text = "does not accept the token, or its owner may not have this file" if has_bearer else "wants a token"
        raise DownloadFailedError(
            f"{host} {text} ({status}): set HF_TOKEN for Hugging Face or CIVITAI_TOKEN for Civitai where you ask "
            "from, and accept the model's terms on its page."
        )
    if status in {404, 410}:
        raise DownloadFailedError(f"{host} has no {address.path} ({status}): look at its page for the file's name.")
    if not (200 <= status < 300 or status == 416):
        raise DownloadFailedError(f"{host} answers {status} for {address.path}, and no file.")


def _retry_after_s(text: str | None) -> float | None:
    """Return the seconds that a Retry-After asks to wait: it is a number of them, or a date."""
    if text is None:
        return None
    try:
        return max(0.0, float(text)) if text.strip().isdigit() else parsedate_to_datetime(text).timestamp() - time()
    except (ValueError, TypeError, OverflowError):
        return None


def read_json_bytes(answer: Answer, most: int) -> bytes:
    """Return a body of at most `most` bytes.

    Raises:
        DownloadFailedError: it is larger.
        BrokenTransferError: it breaks off.
    """
    body = bytearray()
    for block in answer.blocks(64 * 1024):
        body += block
        if len(body) > most:
            raise DownloadFailedError(f"{answer.address.place.host} answers with more than {most} bytes of text.")
    return bytes(body)
