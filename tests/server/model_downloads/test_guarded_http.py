"""Each hop is checked, and what was checked is what is connected to."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from tests.server.model_downloads.conftest import options_for
from tests.support import model_hub
from tests.support.connect_proxy import ConnectProxy
from tests.support.model_hub import ModelHub
from tests.support.tls import self_signed, server_context

from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.server.model_downloads import guarded_http
from comfy_gpu_offload.server.model_downloads.allowed_hosts import AllowedHosts
from comfy_gpu_offload.server.model_downloads.errors import (
    BrokenTransferError,
    DownloadFailedError,
    RefusedSourceError,
)
from comfy_gpu_offload.server.model_downloads.guarded_http import Answer, GuardedHttp, read_json_bytes
from comfy_gpu_offload.server.model_downloads.web_address import WebAddress

TOKEN = SecretStr("hf_secret")
DATA = b"0123456789" * 100


def address_of(*places: str, port: int = 443) -> list[Any]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, port)) for place in places]


def get(http: GuardedHttp, url: str, **more: Any) -> bytes:
    with http.get(WebAddress.parse(url), **more) as answer:
        return read_json_bytes(answer, 10**6)


@pytest.fixture
def http(hub: ModelHub) -> GuardedHttp:
    return GuardedHttp(options_for(hub).hosts)


def test_a_token_stays_with_the_host_that_it_is_for(hub: ModelHub, http: GuardedHttp) -> None:
    stored = hub.store("org/name/x.safetensors", DATA)
    url = f"{hub.url}/org/name/resolve/main/x.safetensors"
    assert get(http, url, bearer=TOKEN) == DATA
    site, storage = hub.asked
    assert site.headers["authorization"] == "Bearer hf_secret"
    assert "authorization" not in storage.headers
    assert storage.path.startswith(f"/blob/{stored.sha256}")


def test_a_token_stays_within_the_same_origin(hub: ModelHub, http: GuardedHttp) -> None:
    hub.files["x"] = hub.keep(DATA)
    assert get(http, f"{hub.url}/redirect?to=/plain/x", bearer=TOKEN) == DATA
    assert [asked.headers.get("authorization") for asked in hub.asked] == ["Bearer hf_secret"] * 2


def test_a_token_does_not_come_back_after_another_host(hub: ModelHub, http: GuardedHttp) -> None:
    hub.files["x"] = hub.keep(DATA)
    hub.faults.append(model_hub.status(302, Location=f"{hub.url}/redirect?to={hub.storage_url}/blob/none"))
    with pytest.raises(DownloadFailedError):
        get(http, f"{hub.url}/redirect?to={hub.storage_url}/blob/y", bearer=TOKEN)
    assert [("authorization" in asked.headers) for asked in hub.asked] == [True, False, True, False]


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "https://169.254.169.254/latest/meta-data/",
        "http://localhost:{port}/plain/x",
        "https://localhost/x",
        "https://127.0.0.1/x",
        "http://[::1]:80/x",
        "http://0.0.0.0/x",
        "https://2130706433/x",
        "https://example.org/x",
        "file:///etc/passwd",
        "https://user:pass@huggingface.co/x",
        "http://huggingface.co/x",
        "//169.254.169.254/x",
    ],
)
def test_a_redirect_elsewhere_is_not_followed(hub: ModelHub, http: GuardedHttp, target: str) -> None:
    target = target.format(port=Address.parse(hub.storage_url).port)
    with pytest.raises(RefusedSourceError):
        get(http, f"{hub.url}/redirect?to={target}")
    assert len(hub.asked) == 1


def test_redirects_end(hub: ModelHub, http: GuardedHttp) -> None:
    hub.site_faults = [model_hub.status(302, Location="/again")] * 20
    with pytest.raises(DownloadFailedError, match="in a circle"):
        get(http, f"{hub.url}/again")
    assert len(hub.asked) == 8


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"))


def test_a_certificate_is_checked(certificate: tuple[Path, Path]) -> None:
    with ModelHub(server_context(certificate)) as hub:
        hub.files["x"] = hub.keep(DATA)
        hosts = options_for(hub).hosts
        assert get(GuardedHttp(hosts, certificate[0]), f"{hub.url}/plain/x", bearer=TOKEN) == DATA
        with pytest.raises(DownloadFailedError, match="does not know who signed"):
            get(GuardedHttp(hosts), f"{hub.url}/plain/x", bearer=TOKEN)
        assert len(hub.asked) == 1


def test_a_proxy_is_given_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks the name up itself, so no address is looked at here."""
    with ConnectProxy({}) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url())
        monkeypatch.setattr(guarded_http, "places_of", lambda *_: pytest.fail("it was looked up here"))
        with pytest.raises(DownloadFailedError, match=r"lets nobody through to https://huggingface\.co"):
            get(GuardedHttp(AllowedHosts()), "https://huggingface.co/x")
        assert proxy.asked == ["huggingface.co:443"]


@pytest.mark.parametrize("private", ["127.0.0.1", "169.254.169.254", "10.1.2.3", "::1", "::ffff:10.0.0.1"])
def test_a_name_of_the_list_may_not_lead_to_a_private_address(
    private: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: address_of(private))
    monkeypatch.setattr(guarded_http, "connect_to", lambda *_: pytest.fail("it was connected to"))
    with pytest.raises(RefusedSourceError, match=r"huggingface\.co has a private network address"):
        get(GuardedHttp(AllowedHosts()), "https://huggingface.co/x")


def test_a_name_is_looked_up_once_and_that_address_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that answers otherwise the second time (DNS rebinding) is not asked a second time."""
    answers = [address_of("93.184.216.34", "10.0.0.1"), address_of("127.0.0.1")]
    asked: list[str] = []
    connected: list[list[str]] = []

    def look_up(host: str, *_: Any, **__: Any) -> Any:
        asked.append(host)
        return answers.pop(0)

    def connect(places: Any, _: float) -> socket.socket:
        connected.append([place[4][0] for place in places])
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(guarded_http, "connect_to", connect)
    with pytest.raises(BrokenTransferError, match=r"huggingface\.co: Connection refused"):
        get(GuardedHttp(AllowedHosts()), "https://huggingface.co/x")
    assert (asked, connected) == (["huggingface.co"], [["93.184.216.34"]])


def test_an_unknown_name_may_be_known_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(BrokenTransferError, match="its name is not known"):
        get(GuardedHttp(AllowedHosts()), "https://huggingface.co/x")


@pytest.mark.parametrize(
    ("code", "headers", "after_s"),
    [(429, {"Retry_After": "17"}, 17.0), (503, {}, None), (500, {"Retry_After": "soon"}, None)],
)
def test_what_may_pass_is_told_apart(
    hub: ModelHub, http: GuardedHttp, code: int, headers: dict[str, str], after_s: float | None
) -> None:
    hub.site_faults.append(model_hub.status(code, **headers))
    with pytest.raises(BrokenTransferError, match=str(code)) as broken:
        get(http, f"{hub.url}/x")
    assert broken.value.after_s == after_s


def test_a_date_to_wait_for_is_understood(hub: ModelHub, http: GuardedHttp) -> None:
    hub.site_faults.append(model_hub.status(429, Retry_After="Fri, 01 Jan 2100 00:00:00 GMT"))
    with pytest.raises(BrokenTransferError) as broken:
        get(http, f"{hub.url}/x")
    assert broken.value.after_s is not None
    assert broken.value.after_s > 10**8


@pytest.mark.parametrize(
    ("code", "bearer", "words"),
    [(401, None, "wants a token"), (403, TOKEN, "does not accept"), (404, None, "has no /x"), (400, None, "400")],
)
def test_what_will_not_pass_says_what_to_do(
    hub: ModelHub, http: GuardedHttp, code: int, bearer: SecretStr | None, words: str
) -> None:
    hub.site_faults.append(model_hub.status(code))
    with pytest.raises(DownloadFailedError, match=words) as failed:
        get(http, f"{hub.url}/x?token=query_secret", bearer=bearer)
    assert "secret" not in str(failed.value)


def test_a_long_answer_is_not_read_to_its_end(hub: ModelHub, http: GuardedHttp) -> None:
    hub.site_faults.append(model_hub.body(bytes(10**6)))
    with (
        http.get(WebAddress.parse(f"{hub.url}/x")) as answer,
        pytest.raises(DownloadFailedError, match="more than 1000"),
    ):
        read_json_bytes(answer, 1000)


def test_a_body_that_breaks_off_is_known(hub: ModelHub, http: GuardedHttp) -> None:
    stored = hub.files["x"] = hub.keep(DATA)
    hub.site_faults.append(model_hub.cut_at(hub, stored, 500))
    with http.get(WebAddress.parse(f"{hub.url}/plain/x")) as answer:
        assert isinstance(answer, Answer)
        with pytest.raises(BrokenTransferError):
            list(answer.blocks(100))
