"""The reverse proxies pass WebSockets, and are where they were after a restart."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.reverse_proxies import Caddy, Haproxy, Nginx, ReverseProxy
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

_REFUSED = 426  # by the server, which is asked without an upgrade


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    """Run a WebSocket server that returns what it is sent; yield its port."""

    def answer(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    quiet = logging.getLogger("tests.reverse_proxies")
    quiet.setLevel(logging.CRITICAL)  # connections end without a close frame here
    with serve(answer, "127.0.0.1", 0, logger=quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.socket.getsockname()[1]
        server.shutdown()
        thread.join()


def _address(front: ReverseProxy) -> str:
    return f"ws://127.0.0.1:{front.port}"


@pytest.mark.parametrize("way", ["reload", "restart"])
@pytest.mark.parametrize("kind", [Nginx, Haproxy, Caddy])
def test_a_websocket_passes_and_ends_with_the_configuration(
    kind: type[ReverseProxy], way: str, echo: int, tmp_path: Path
) -> None:
    if kind.installed() is None:
        pytest.skip(f"{kind.name} is not installed")
    front = Nginx(echo, tmp_path, upgrades=True) if kind is Nginx else kind(echo, tmp_path)
    with front:
        with connect(_address(front)) as socket:
            socket.send(b"some bytes")
            assert socket.recv(timeout=30) == b"some bytes"
            getattr(front, way)()
            with pytest.raises(ConnectionClosed):
                socket.recv(timeout=60)
        with connect(_address(front)) as socket:
            socket.send(b"and more")
            assert socket.recv(timeout=30) == b"and more"


@pytest.mark.skipif(Nginx.installed() is None, reason="nginx is not installed")
def test_nginx_drops_upgrades_unless_it_is_told(echo: int, tmp_path: Path) -> None:
    with Nginx(echo, tmp_path) as front, pytest.raises(InvalidStatus) as refused, connect(_address(front)):
        pass
    assert refused.value.response.status_code == _REFUSED
