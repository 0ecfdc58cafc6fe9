"""Workers and RunPod's API through a real proxy: the same rule for both."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.support.connect_proxy import ConnectProxy
from tests.support.runpod_api import ENDPOINT, KEY, FakeClock, loopback_api, says
from tests.support.tls import self_signed, server_context
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import connect
from comfy_gpu_offload.backends.diffusers.backend import DiffusersBackend
from comfy_gpu_offload.cli.main import main
from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.config.settings import Settings, variable
from comfy_gpu_offload.errors import ProxyError, RunPodNetworkError, TransportError
from comfy_gpu_offload.runpod.client import RunPodClient
from comfy_gpu_offload.transport.health import Health, ping

HOST = "worker.example"
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


def test_a_worker_is_reached_through_it(
    worker: ThreadWorker, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No name is looked up here: nobody but the proxy knows this one."""
    with ConnectProxy({f"{HOST}:443": port_of(worker.url)}, login="me:pass word") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url("me:pass%20word"))
        with connect(f"https://{HOST}", ca_file=certificate[0]) as session:
            assert session.model("digits").description.compute_dtype
        assert ping(Address.parse(f"https://{HOST}"), ca_file=certificate[0]) is Health.READY
    assert set(proxy.asked) == {f"{HOST}:443"}


def test_runpods_api_is_reached_through_it(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with loopback_api(says(200, NOBODY), tls=server_context(certificate)) as api:
        with ConnectProxy({f"{HOST}:443": port_of(api.url)}, login="me:pass word") as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url("me:pass%20word"))
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
    ("login", "refusal", "says_", "may_pass"),
    [
        ("me:guess", 403, "USER:PASSWORD", False),
        ("me:swordfish", 403, "lets nobody through", False),
        ("me:swordfish", 502, "cannot reach", True),
    ],
)
def test_what_it_answers_is_said_the_same_for_both(
    login: str, refusal: int, says_: str, may_pass: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy({}, login="me:swordfish", refusal=refusal) as proxy:
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


def test_the_doctor_says_which_is_used(
    worker: ThreadWorker,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ConnectProxy({f"{HOST}:443": port_of(worker.url)}) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url())
        monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", f"https://{HOST}")
        monkeypatch.setenv("COMFY_GPU_OFFLOAD_CA_FILE", str(certificate[0]))
        assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert f"{HOST} is reached through 127.0.0.1:{proxy.port} (HTTPS_PROXY" in said
