"""A stand-in for Hugging Face and Civitai: their routes, their storage, and what goes wrong there."""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
_BLOCK = 64 * 1024


@dataclass(frozen=True)
class Asked:
    """A request that came: `host` is the server's own address, `path` has its query."""

    host: str
    path: str
    headers: dict[str, str]


@dataclass
class Stored:
    """A file of the storage. `tag`: its entity tag, or None."""

    data: bytes
    tag: str | None = None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


HubFault = Callable[["Exchange"], bool]
"""Something that goes wrong with a request to the storage; returns whether it has answered."""


class ModelHub:
    """`with ModelHub() as hub:` serves sites at `hub.url`, and their storage at another origin, `hub.storage_url`.

    Attributes:
        files: of repositories, by ``org/name/path``.
        versions: of models at Civitai, by number.
        asked: all requests, in their order.
        faults: of requests to the storage, each used once, in their order.
        gate_token: with which alone the sites answer; None for anybody.
        ranges: whether the storage knows ranges.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        """`tls`: serve https with it."""
        self.files: dict[str, Stored] = {}
        self.versions: dict[int, dict[str, Any]] = {}
        self.asked: list[Asked] = []
        self.faults: list[HubFault] = []
        self.site_faults: list[HubFault] = []
        self.gate_token: str | None = None
        self.ranges = True
        self._stored: dict[str, Stored] = {}
        self._scheme = "http" if tls is None else "https"
        self._servers = [_server(self, Exchange.site, tls), _server(self, Exchange.storage, tls)]

    @property
    def url(self) -> str:
        return self._url(0)

    @property
    def storage_url(self) -> str:
        return self._url(1)

    def _url(self, number: int) -> str:
        return f"{self._scheme}://127.0.0.1:{self._servers[number].server_address[1]}"

    def store(self, path: str, data: bytes) -> Stored:
        """Add a file of a repository, ``org/name/path``."""
        stored = self.files[path] = self.keep(data)
        return stored

    def keep(self, data: bytes) -> Stored:
        """Add a file to the storage alone."""
        stored = Stored(data)
        stored.tag = f'"{stored.sha256[:20]}"'
        self._stored[stored.sha256] = stored
        return stored

    def storage_address(self, stored: Stored) -> str:
        """Return the signed address of a stored file."""
        return f"{self.storage_url}/blob/{stored.sha256}?X-Amz-Signature=secret"

    def publish(
        self, number: int, data: bytes, name: str = "model.safetensors", kind: str = "Checkpoint", **file: Any
    ) -> Stored:
        """Add a version of a model at Civitai with one file."""
        stored = self.keep(data)
        described = {
            "name": name,
            "type": "Model",
            "primary": True,
            "hashes": {"SHA256": stored.sha256.upper(), "AutoV2": "00"},
            "downloadUrl": f"{self.url}/api/download/models/{number}",
            "sizeKB": len(data) / 1024,
            **file,
        }
        self.versions[number] = {"id": number, "model": {"name": "m", "type": kind}, "files": [described]}
        self._stored[f"version {number}"] = stored
        return stored

    def listing(self, repository: str) -> list[dict[str, Any]]:
        """Return the files of a repository, as Hugging Face lists them."""
        files = [(path, file) for path, file in self.files.items() if path.startswith(f"{repository}/")]
        large = [
            {"type": "file", "path": path.removeprefix(f"{repository}/"), "lfs": {"oid": file.sha256}}
            for path, file in files
        ]
        return [{"type": "directory", "path": "vae"}, {"type": "file", "path": "README.md"}, *large]

    def stored(self, key: str) -> Stored | None:
        return self._stored.get(key)

    def requests_to(self, url: str) -> list[Asked]:
        return [asked for asked in self.asked if f"{self._scheme}://{asked.host}" == url]

    def __enter__(self) -> ModelHub:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


class Exchange(BaseHTTPRequestHandler):
    """One request to the hub."""

    protocol_version = "HTTP/1.1"
    hub: ModelHub
    role: Callable[[Exchange], None]

    def do_GET(self) -> None:
        self.close_connection = True
        place = f"127.0.0.1:{self.server.server_address[1]}"
        self.hub.asked.append(Asked(place, self.path, {k.lower(): v for k, v in self.headers.items()}))
        type(self).role(self)

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def site(self) -> None:
        """Answer as Hugging Face and Civitai do."""
        if self.hub.site_faults and self.hub.site_faults.pop(0)(self):
            return
        gate = self.hub.gate_token
        if gate is not None and self.headers.get("Authorization") != f"Bearer {gate}":
            self.answer(401, b"Access to this model is restricted.")
            return
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        if path == "/redirect":
            self.answer(302, b"", Location=query["to"][0])
        elif path.startswith("/api/"):
            self._civitai(path)
        elif path.startswith("/plain/"):
            self._send(self.hub.files.get(path.removeprefix("/plain/")))
        else:
            self._hugging_face(parts.path)

    def _hugging_face(self, path: str) -> None:
        organisation, name, resolve, _, *rest = map(unquote, path[1:].split("/"))
        stored = self.hub.files.get("/".join((organisation, name, *rest))) if resolve == "resolve" else None
        if stored is None:
            self.answer(404, b"Entry not found")
            return
        linked = {"X-Linked-Etag": f'"{stored.sha256}"', "X-Linked-Size": str(len(stored.data))}
        location = self.hub.storage_address(stored)
        self.answer(302, b"Found", Location=location, **linked, **{"X-Repo-Commit": COMMIT})

    def _civitai(self, path: str) -> None:
        *_, what, key = path.split("/")
        found: object = None
        if what == "tree":
            repository = path.removeprefix("/api/models/").removesuffix(f"/tree/{key}")
            found = self.hub.listing(repository)
        if what == "by-hash":
            each = self.hub.versions.values()
            found = next((v for v in each if any(f["hashes"].get("SHA256") == key for f in v["files"])), None)
        elif what == "model-versions":
            found = self.hub.versions.get(int(key))
        stored = self.hub.stored(f"version {key}")
        if path.startswith("/api/download/models/") and stored is not None:
            self.answer(307, b"", Location=self.hub.storage_address(stored))
        elif found is not None:
            self.answer(200, json.dumps(found).encode())
        else:
            self.answer(404, b'{"error": "Model not found"}')

    def storage(self) -> None:
        """Answer as the sites' storage does, which refuses a signed address that comes with a token."""
        if "Authorization" in self.headers:
            self.answer(400, b"Only one auth mechanism allowed")
        elif not (self.hub.faults and self.hub.faults.pop(0)(self)):
            self._send(self.hub.stored(urlsplit(self.path).path.removeprefix("/blob/")))

    def _send(self, stored: Stored | None) -> None:
        if stored is None:
            self.answer(404, b"NoSuchKey")
        else:
            self.send_stored(stored)

    def send_stored(self, stored: Stored, cut: int | None = None) -> None:
        """Send a file, or the range that is asked for; end the connection once byte `cut` of the file was sent."""
        begin, status, headers = 0, 200, {} if stored.tag is None else {"ETag": stored.tag}
        size = len(stored.data)
        wanted = self.headers.get("Range")
        if wanted and self.hub.ranges and self.headers.get("If-Range", stored.tag) == stored.tag:
            begin, status = int(wanted.removeprefix("bytes=").removesuffix("-")), 206
            headers["Content-Range"] = f"bytes {begin}-{size - 1}/{size}"
        self.begin(status, size - begin, **headers)
        end = size if cut is None else max(begin, cut)
        for at in range(begin, end, _BLOCK):
            self.wfile.write(stored.data[at : min(at + _BLOCK, end)])

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        """Send a whole answer."""
        self.begin(status, len(body), **headers)
        self.wfile.write(body)

    def begin(self, status: int, length: int | None, **headers: str) -> None:
        """Send the head of an answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()


def cut_at(hub: ModelHub, stored: Stored, byte: int) -> HubFault:
    """Return the fault of a connection that ends once that byte of the file was sent."""
    return lambda exchange: exchange.send_stored(stored, byte) is None


def status(code: int, **headers: str) -> HubFault:
    """Return the fault of an answer with that status. In names of headers, _ stands for -."""
    return lambda exchange: exchange.answer(code, b"", **_named(headers)) is None


def body(data: bytes, **headers: str) -> HubFault:
    """Return the fault of an answer with another body than the file's. In names of headers, _ stands for -."""
    return lambda exchange: exchange.answer(200, data, **_named(headers)) is None


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing of those that end their connections early."""


def _server(hub: ModelHub, role: Callable[[Exchange], None], tls: ssl.SSLContext | None) -> ThreadingHTTPServer:
    handler = type("HubExchange", (Exchange,), {"hub": hub, "role": role})
    server = _QuietServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if tls is not None:
        # The handshake is left to the thread that answers, so that a client that gives up holds nobody up.
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server
