"""A web page can do nothing to a worker on its reader's machine: by raw sockets, and in a real browser."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from playwright.sync_api import Browser, sync_playwright
from tests.support.backend import FunctionBackend
from tests.support.frames import forward_frame
from tests.support.tls import self_signed, server_context
from tests.support.websocket_client import WebSocketClient
from tests.support.worker import ThreadWorker
from tests.web.harness.chromium import NONE_FOUND, find_browser

from comfy_gpu_offload.client.session import Session
from comfy_gpu_offload.errors import UnauthorizedError
from comfy_gpu_offload.server.http.browser_guard import BrowserGuard
from comfy_gpu_offload.transport.http_transport import HttpTransport

OURS = {"Content-Type": "application/octet-stream", "Host": "127.0.0.1:8288"}
TOKEN = "0123456789abcdefghijklmnop"


@pytest.fixture
def backend() -> FunctionBackend:
    return FunctionBackend()


@pytest.fixture
def worker(backend: FunctionBackend) -> Iterator[ThreadWorker]:
    with ThreadWorker(backend) as made:
        yield made


def post(
    port: int, headers: dict[str, str], path: str = "/v1/forward", tls: ssl.SSLContext | None = None
) -> tuple[int, bytes]:
    """Return the status and the whole reply of a call that is good except for these headers."""
    body = bytes(forward_frame(torch.ones(2)).joined())
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "Connection: close", "", ""])
    with ExitStack() as ending:
        sock = ending.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
        if tls is not None:
            sock = ending.enter_context(tls.wrap_socket(sock))
        sock.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    return int(answer.split(b" ", 2)[1]), answer


def test_a_call_of_ours_is_answered(worker: ThreadWorker, backend: FunctionBackend) -> None:
    assert post(worker.port, OURS)[0] == 200
    assert len(backend.calls) == 1


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:8288"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 403),
        ({"Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:8288"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "localhost.evil.example:8288"}, 421),
        ({"Host": "203.0.113.7:8288"}, 421),
        ({"Host": "127.0.0.1, evil.example"}, 421),
        ({"Host": "evil.example#127.0.0.1"}, 421),
        ({"Host": ""}, 421),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Type": ""}, 415),
    ],
)
@pytest.mark.parametrize("path", ["/v1/hello", "/v1/forward", "/v1/sample", "/v1/cancel"])
def test_what_a_browser_sends_for_a_page_is_refused(
    worker: ThreadWorker, backend: FunctionBackend, changed: dict[str, str], status: int, path: str
) -> None:
    got, answer = post(worker.port, {**OURS, **changed}, path)
    assert got == status
    assert b"access-control" not in answer.lower()
    assert not backend.calls


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:1", "localhost", "LocalHost:8288", "[::1]:8288", "127.1.2.3:8288", "localhost."],
)
def test_the_machines_own_names_are_taken(host: str) -> None:
    assert BrowserGuard().refusal({"host": host, "content-type": "application/octet-stream"}) is None


def test_two_hosts_are_no_request(worker: ThreadWorker) -> None:
    with socket.create_connection(("127.0.0.1", worker.port), timeout=30) as sock:
        sock.sendall(b"GET /ping HTTP/1.1\r\nHost: 127.0.0.1\r\nhost: evil.example\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_a_name_that_was_allowed_is_taken(backend: FunctionBackend) -> None:
    with ThreadWorker(backend, hosts=("GPU.home",)) as worker:
        assert post(worker.port, {**OURS, "Host": "gpu.home:8288"})[0] == 200
        assert post(worker.port, {**OURS, "Host": "other.home:8288"})[0] == 421


@pytest.mark.parametrize("allowed", ["2001:db8::7", "[2001:DB8:0::7]"])
def test_an_ipv6_address_that_was_allowed_is_taken(backend: FunctionBackend, allowed: str) -> None:
    with ThreadWorker(backend, hosts=(allowed,)) as worker:
        assert post(worker.port, {**OURS, "Host": "[2001:db8::7]:8288"})[0] == 200
        assert post(worker.port, {**OURS, "Host": "[::1]:8288"})[0] == 200
        assert post(worker.port, {**OURS, "Host": "[2001:db8::8]:8288"})[0] == 421


def test_with_a_token_a_proxys_name_is_taken_and_a_browser_is_not(backend: FunctionBackend) -> None:
    with ThreadWorker(backend, token=TOKEN) as worker:
        ours = {**OURS, "Host": "abc-8288.proxy.runpod.net", "Authorization": f"Bearer {TOKEN}"}
        assert post(worker.port, ours)[0] == 200
        assert post(worker.port, {**ours, "Origin": "https://evil.example"})[0] == 403
        assert post(worker.port, {**ours, "Authorization": "Bearer x"})[0] == 401


def test_behind_an_edge_that_asks_for_keys_its_name_is_taken(backend: FunctionBackend) -> None:
    with ThreadWorker(backend, is_behind_edge=True) as worker:
        assert post(worker.port, {**OURS, "Host": "x.api.runpod.ai"})[0] == 200
        assert post(worker.port, {**OURS, "Origin": "https://evil.example"})[0] == 403


def test_a_name_that_a_certificate_proves_is_taken(backend: FunctionBackend, tmp_path: Path) -> None:
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    with ThreadWorker(backend, tls=server_context(self_signed(tmp_path))) as worker:
        assert post(worker.port, {**OURS, "Host": "gpu.home"}, tls=trusting)[0] == 200


def test_a_client_that_asks_by_another_name_is_told_what_to_do(worker: ThreadWorker) -> None:
    transport = HttpTransport(worker.address)
    transport._fixed_headers = transport._fixed_headers.replace("Host: 127.0.0.1", "Host: gpu.home")
    with pytest.raises(UnauthorizedError, match="--allow-host"):
        Session(transport)


PAGE = """<!doctype html><script>
function opened(url) {
    return new Promise(resolve => {
        const socket = new WebSocket(url, "comfy-gpu-offload.v1");
        socket.onopen = () => resolve("opened");
        socket.onerror = () => resolve("failed");
    });
}
async function tried(url, options) {
    try { const reply = await fetch(url, options); return `${reply.type} ${reply.status} ${await reply.text()}`; }
    catch (error) { return "failed"; }
}
async function attack(url, frame) {
    const body = Uint8Array.from(frame);
    const typed = new Blob([body], {type: "application/octet-stream"});
    return [
        await tried(url, {method: "POST", mode: "no-cors", body}),
        await tried(url, {method: "POST", mode: "no-cors", body: typed}),
        await tried(url, {method: "POST", body: typed}),
        navigator.sendBeacon(url, new Blob([body], {type: "text/plain"})),
    ];
}
</script>"""


class Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE.encode())

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def site() -> Iterator[int]:
    """Serve a site of somebody else's; return its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture
def browser() -> Iterator[Browser]:
    program = find_browser(os.environ)
    if program is None:
        pytest.skip(NONE_FOUND)
    rule = "--host-resolver-rules=MAP evil.example 127.0.0.1"
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=program, args=[rule])
        yield made
        made.close()


def test_a_page_of_another_site_reaches_no_model(
    worker: ThreadWorker, backend: FunctionBackend, site: int, browser: Browser
) -> None:
    frame = list(bytes(forward_frame(torch.ones(2)).joined()))
    page = browser.new_page()
    page.goto(f"http://evil.example:{site}/")
    answers = page.evaluate("([url, frame]) => attack(url, frame)", [f"{worker.url}/v1/forward", frame])
    assert answers[:3] == ["opaque 0 ", "opaque 0 ", "failed"]
    # Of the pages' requests all came before this one.
    assert post(worker.port, OURS)[0] == 200
    assert len(backend.calls) == 1


def test_a_page_opens_no_websocket(
    worker: ThreadWorker, backend: FunctionBackend, site: int, browser: Browser
) -> None:
    page = browser.new_page()
    for near in (f"http://evil.example:{site}/", f"http://127.0.0.1:{site}/"):
        page.goto(near)
        assert page.evaluate("url => opened(url)", f"ws://127.0.0.1:{worker.port}/v1/connect") == "failed"
    with WebSocketClient(worker.port):  # which is opened to whoever is no page
        assert not backend.calls


def test_a_page_whose_name_leads_to_the_worker_reaches_no_model(
    worker: ThreadWorker, backend: FunctionBackend, browser: Browser
) -> None:
    frame = list(bytes(forward_frame(torch.ones(2)).joined()))
    page = browser.new_page()
    page.goto(f"http://evil.example:{worker.port}/ping")  # so that the worker's address is the page's own
    script = """async ([frame, type]) => {
        const body = new Blob([Uint8Array.from(frame)], {type});
        return (await fetch("/v1/forward", {method: "POST", body})).status;
    }"""
    assert page.evaluate(script, [frame, "application/octet-stream"]) == 403
    assert page.evaluate(script, [frame, "text/plain"]) == 403
    assert not backend.calls
