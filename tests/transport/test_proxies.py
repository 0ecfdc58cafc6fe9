"""Workers and RunPod's API through a real proxy: the same rule for both."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.support.connect_proxy import ConnectProxy
from tests.support.runpod_api import ENDPOINT, KEY, FakeClock, loopback_api, says
from tests.support.socks_proxy import SocksProxy
from tests.support.tls import self_signed, server_context
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import connect
from comfy_gpu_offload.backends.diffusers.backend import DiffusersBackend
from comfy_gpu_offload.cli.main import main
from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.config.settings import Settings, variable
from comfy_gpu_offload.errors import ConnectError, ProxyError, RunPodNetworkError, TransportError
from comfy_gpu_offload.protocol.envelope import seal
from comfy_gpu_offload.protocol.messages import Cancel
from comfy_gpu_offload.runpod.client import RunPodClient
from comfy_gpu_offload.transport.base import Timeouts
from comfy_gpu_offload.transport.connector import connector_to
from comfy_gpu_offload.transport.health import Health, ping
from comfy_gpu_offload.transport.http_transport import HttpTransport

HOST = "worker.example"
EVERY_KIND = pytest.mark.parametrize("kind", ["http", "socks5h"])
NOBODY = {"workers": {}, "jobs": {}}


@pytest.fixture(autouse=True)
def _nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"), f"DNS:{HOST},IP:127.0.0.1")


@pytest.fixture
def worker(certificate: tuple[Path, Path]) -> Iterator[ThreadWorker]:
    with ThreadWorker(DiffusersBackend(), tls=server_context(certificate)) as made:
        yield made


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1].split("/", maxsplit=1)[0])


@contextmanager
def proxy_of_kind(kind: str, routes: dict[str, int], login: str = "") -> Iterator[tuple[ConnectProxy, str]]:
    """Give a proxy and its address as HTTPS_PROXY has it."""
    shown = login.replace(" ", "%20")
    if kind == "http":
        with ConnectProxy(routes, login=login) as proxy:
            yield proxy, proxy.url(shown)
    else:
        with SocksProxy(routes, login=login) as proxy:
            yield proxy, proxy.url(shown, kind)


@EVERY_KIND
def test_a_worker_is_reached_through_it(
    kind: str, worker: ThreadWorker, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No name is looked up here: nobody but the proxy knows this one. One WebSocket carries it all."""
    routes = {f"{HOST}:443": port_of(worker.url)}
    with proxy_of_kind(kind, routes, "me:pass word") as (proxy, url):
        monkeypatch.setenv("HTTPS_PROXY", url)
        with connect(f"https://{HOST}", ca_file=certificate[0]) as session:
            assert session.model("digits").description.compute_dtype
        assert proxy.asked == [f"{HOST}:443"]
        assert ping(Address.parse(f"https://{HOST}"), ca_file=certificate[0]) is Health.READY
        http = HttpTransport(Address.parse(f"https://{HOST}"), ca_file=certificate[0])
        with closing(http):
            assert len(http.exchange("cancel", seal(Cancel(request="nothing-1")), Timeouts()))
        # A ping asks on a connection of its own, and another one where a busy worker is silent for long.
        assert set(proxy.asked) == {f"{HOST}:443"}
        assert len(proxy.asked) >= 3


@EVERY_KIND
def test_runpods_api_is_reached_through_it(
    kind: str, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with loopback_api(says(200, NOBODY), tls=server_context(certificate)) as api:
        with proxy_of_kind(kind, {f"{HOST}:443": port_of(api.url)}, "me:pass word") as (proxy, url):
            monkeypatch.setenv("HTTPS_PROXY", url)
            monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")  # what is named is trusted besides
            with RunPodClient(
                SecretStr(KEY), ENDPOINT, base_url=Address.parse(f"https://{HOST}/v2"), ca_file=certificate[0]
            ) as client:
                assert client.health().workers.ready == 0
        assert proxy.asked == [f"{HOST}:443"]
        assert api.requests == [("GET", f"/v2/{ENDPOINT}/health")]


def test_this_machines_worker_and_what_is_exempt_go_past_it(
    worker: ThreadWorker, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy({}) as proxy:
        for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url())
        with connect(worker.url, ca_file=certificate[0]) as session:
            assert session.welcome.backend == "diffusers"
        monkeypatch.setenv("NO_PROXY", "nowhere.invalid")
        with pytest.raises(TransportError) as caught:
            connect("https://nowhere.invalid", retry_s=0.1)
        assert not isinstance(caught.value, ProxyError)
        assert proxy.asked == []


@pytest.mark.parametrize(
    ("kind", "login", "refusal", "says_", "may_pass"),
    [
        (ConnectProxy, "me:guess", 403, "USER:PASSWORD", False),
        (ConnectProxy, "me:swordfish", 403, "lets nobody through", False),
        (ConnectProxy, "me:swordfish", 502, "cannot reach", True),
        (SocksProxy, "me:guess", 2, "USER:PASSWORD", False),
        (SocksProxy, "me:swordfish", 2, "lets nobody through", False),
        (SocksProxy, "me:swordfish", 4, "cannot reach", True),
    ],
)
def test_what_it_answers_is_said_the_same_for_both(
    kind: type[ConnectProxy],
    login: str,
    refusal: int,
    says_: str,
    may_pass: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with kind({}, login="me:swordfish", refusal=refusal) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url(login))
        with pytest.raises(ProxyError, match=says_) as worker_error:
            connect(f"https://{HOST}", retry_s=0.1)
        client = RunPodClient(
            SecretStr(KEY), ENDPOINT, base_url=Address.parse(f"https://{HOST}/v2"), clock=FakeClock().clock
        )
        with client, pytest.raises(RunPodNetworkError, match=says_) as api_error:
            client.health()
    for error in (worker_error.value, api_error.value):
        assert error.retryable is may_pass
        assert f"127.0.0.1:{proxy.port} (HTTPS_PROXY)" in str(error)
        assert login.split(":")[1] not in str(error)


def test_one_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
    with pytest.raises(ProxyError, match=f"127.0.0.1:{port}.*Is it right"):
        connect(f"https://{HOST}", retry_s=0.1)
    client = RunPodClient(
        SecretStr(KEY), ENDPOINT, base_url=Address.parse(f"https://{HOST}/v2"), clock=FakeClock().clock
    )
    with client, pytest.raises(RunPodNetworkError, match=f"127.0.0.1:{port}.*Is it right"):
        client.health()


def test_a_worker_behind_one_that_lets_through_to_443_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with ConnectProxy({f"{HOST}:443": 1}) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url())
        with pytest.raises(ProxyError, match="port 443 alone, and this is 8288"):
            connect(f"https://{HOST}:8288", retry_s=0.1)


@EVERY_KIND
def test_that_nobody_answers_behind_it_is_not_the_proxys_fault(
    kind: str, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server behind it hangs up in the handshake, as a worker does that restarts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            near, _ = listener.accept()
            near.recv(1)
            near.shutdown(socket.SHUT_WR)
            while near.recv(1000):
                pass
            near.close()

        hanging = threading.Thread(target=hang_up, daemon=True)
        hanging.start()
        with proxy_of_kind(kind, {f"{HOST}:443": listener.getsockname()[1]}) as (proxy, url):
            monkeypatch.setenv("HTTPS_PROXY", url)
            with pytest.raises(ConnectError, match=f"No worker answers .* proxy 127.0.0.1:{proxy.port}") as caught:
                connector_to(Address.parse(f"https://{HOST}")).connect(60)
        hanging.join(60)
    assert not isinstance(caught.value, ProxyError)
    assert caught.value.retryable


@EVERY_KIND
def test_an_interrupt_ends_the_wait_for_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class StopError(BaseException):
        pass

    def stop() -> None:
        raise StopError

    with socket.create_server(("127.0.0.1", 0)) as silent:
        scheme = "http" if kind == "http" else kind
        monkeypatch.setenv("HTTPS_PROXY", f"{scheme}://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(StopError):
            connector_to(Address.parse(f"https://{HOST}")).connect(3.0, stop)


@EVERY_KIND
def test_the_doctor_says_which_is_used(
    kind: str,
    worker: ThreadWorker,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with proxy_of_kind(kind, {f"{HOST}:443": port_of(worker.url)}) as (proxy, url):
        monkeypatch.setenv("HTTPS_PROXY", url)
        monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", f"https://{HOST}")
        monkeypatch.setenv("COMFY_GPU_OFFLOAD_CA_FILE", str(certificate[0]))
        assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    name = "proxy" if kind == "http" else "SOCKS proxy"
    assert f"{HOST} is reached through the {name} 127.0.0.1:{proxy.port} (HTTPS_PROXY)" in said
    assert "port 443 answers through the proxy" in said
    assert url not in said


def test_the_doctor_names_one_that_refuses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with SocksProxy({}, login="me:swordfish") as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url("me:guess"))
        monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", f"https://{HOST}")
        assert main(["doctor"]) == 1
    said = capsys.readouterr()
    assert "FAIL  connection" in said.out
    assert f"The SOCKS proxy 127.0.0.1:{proxy.port} (ALL_PROXY) wants a user and a password other" in said.err
    assert "guess" not in said.out + said.err
