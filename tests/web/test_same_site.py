"""Pages of other sites, in the browser of the machine that ComfyUI runs on, do not reach the pack's routes."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest
import requests
from tests.comfyui.harness.installation import Installation
from tests.support.backend import FunctionBackend
from tests.support.worker import ThreadWorker

from .harness.screen import Screen

pytestmark = pytest.mark.comfyui

LISTS = "/comfy_gpu_offload/lists"
BODY = '{"reason": "click"}'
FETCH = '{"action": "state", "url": "https://huggingface.co/a", "folder": "vae", "name": "a.safetensors"}'
BODIES = {LISTS: BODY, "/comfy_gpu_offload/findings": BODY, "/comfy_gpu_offload/fetch": FETCH}
ROUTES = tuple(BODIES)
# Each way that a page can make a request to another site without being asked; what it can read of each reply.
REQUESTS = """async (url) => {
  const body = '{"reason": "click"}';
  const made = [
    { method: "GET", mode: "no-cors" },
    { method: "POST", mode: "no-cors", body },
    { method: "POST", mode: "no-cors", body, headers: { "Content-Type": "text/plain" } },
    { method: "POST", mode: "cors", body, headers: { "Content-Type": "application/json" } },
  ];
  const read = [];
  for (const options of made) {
    try {
      const reply = await fetch(url, options);
      read.push(reply.ok ? await reply.text() : "");
    } catch {
      read.push("");
    }
  }
  return read;
}"""


class Counted(FunctionBackend):
    """Counts how often it is asked what it has."""

    listings = 0

    def listing(self):  # type: ignore[no-untyped-def]
        self.listings += 1
        return super().listing()


@pytest.fixture
def backend(installation: Installation) -> Iterator[Counted]:
    """Serve the worker that the settings name, and count how often it is asked for its list."""
    counted = Counted()
    with ThreadWorker(counted) as worker:
        installation.configure(COMFY_GPU_OFFLOAD_URL=worker.url)
        yield counted


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Give the address of another site."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html><body>another site</body></html>")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_address[1]}"
        server.shutdown()


def test_another_sites_page(installation: Installation, backend: Counted, elsewhere: str, screen: Screen) -> None:
    before = backend.listings
    screen.page.goto(elsewhere)
    for route in ROUTES:
        for prefix in ("", "/api"):
            assert not any(screen.page.evaluate(REQUESTS, installation.url + prefix + route))
    assert backend.listings == before


def test_a_page_whose_name_is_rebound_to_this_machine(
    installation: Installation, backend: Counted, screen: Screen
) -> None:
    before = backend.listings
    rebound = installation.url.replace("127.0.0.1", "rebound.example")
    screen.page.goto(f"{rebound}/system_stats")
    for route in ROUTES:
        for prefix in ("", "/api"):
            assert not any(screen.page.evaluate(REQUESTS, rebound + prefix + route))
    assert backend.listings == before


@pytest.mark.each_release
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Origin": "http://localhost:{port}", "Host": "localhost:{port}"}, 200),
        ({"Origin": "http://192.168.1.20:{port}", "Host": "192.168.1.20:{port}"}, 200),
        ({"Origin": "http://workstation:{port}", "Host": "workstation:{port}"}, 200),
        ({"Origin": "http://workstation.local:{port}", "Host": "workstation.local:{port}"}, 200),
        ({"Origin": "https://comfy.example.com", "Host": "comfy.example.com"}, 200),
        ({"Origin": "https://comfy.example.com", "Host": "backend:8188", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "http://comfy.example.com", "Host": "comfy.example.com"}, 403),
        ({"Origin": "https://evil.example.com", "Host": "comfy.example.com"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Content-Type": "text/plain"}, 403),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 403),
    ],
    ids=str,
)
def test_where_a_request_comes_from(
    installation: Installation, backend: Counted, headers: dict[str, str], status: int, route: str
) -> None:
    port = installation.url.rsplit(":", 1)[1]
    sent = {name: value.replace("{port}", port) for name, value in headers.items()}
    reply = requests.post(
        installation.url + route,
        data=BODIES[route],
        headers={"Content-Type": "application/json", **sent},
        timeout=60,
    )
    assert reply.status_code == status, reply.text


@pytest.mark.parametrize(
    "body", ["", "{}", "[]", '{"reason": "whim"}', '{"reason": "open", "url": "http://x"}', "{" * 9999]
)
def test_a_body_that_is_none(installation: Installation, backend: Counted, body: str) -> None:
    reply = requests.post(
        installation.url + LISTS, data=body, headers={"Content-Type": "application/json"}, timeout=60
    )
    assert reply.status_code == 400
    assert "reason" in reply.json()["error"]
