from __future__ import annotations

import pytest

from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.config.proxies import proxy_for
from comfy_gpu_offload.errors import ConfigError

WORKER = Address.parse("https://gpu.example:8288")
NAMES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy")


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_none_is_used_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_for(WORKER) is None
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")  # for plain http, which goes nowhere
    assert proxy_for(WORKER) is None


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("value", ["http://proxy.example:3128", "proxy.example:3128", "http://proxy.example:3128/"])
def test_https_goes_through_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    proxy = proxy_for(WORKER)
    assert proxy is not None
    assert (proxy.place, proxy.source, proxy.authorization) == ("proxy.example:3128", name, None)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8288", "https://127.0.0.1:8288", "https://localhost", "https://[::1]:8288"]
)
def test_this_machine_is_never_reached_through_one(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://proxy.example:3128")
    assert proxy_for(Address.parse(url)) is None


@pytest.mark.parametrize("exempt", ["gpu.example", ".example", "a.test, gpu.example", "gpu.example:8288", "*"])
def test_what_is_exempt_goes_past_it(monkeypatch: pytest.MonkeyPatch, exempt: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", exempt)
    assert proxy_for(WORKER) is None
    monkeypatch.setenv("NO_PROXY", "other.example")
    assert proxy_for(WORKER) is not None


def test_a_network_can_be_exempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "192.168.0.0/16")
    assert proxy_for(Address.parse("https://192.168.1.7:8288")) is None
    assert proxy_for(Address.parse("https://10.0.0.7:8288")) is not None


@pytest.mark.parametrize(
    "value", ["socks5://proxy.example:1080", "https://proxy.example", "http://:0:0", "http://proxy.example:99999"]
)
def test_one_that_cannot_be_used_is_refused_without_its_password(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value.replace("://", "://me:very-secret@"))
    with pytest.raises(ConfigError, match=r"HTTPS_PROXY.*NO_PROXY=gpu\.example") as caught:
        proxy_for(WORKER)
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        "http://me:very/secret@proxy.example:3128",
        "me:very#secret@proxy.example",
        "http://me:[very]secret@proxy:1",
        "http://me:very\u2100secret@proxy.example",
    ],
)
def test_a_password_that_breaks_the_address_is_not_shown_either(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(ConfigError, match="HTTPS_PROXY") as caught:
        proxy_for(WORKER)
    assert "very" not in str(caught.value)


def test_a_password_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:very%2Dsecret@proxy.example:3128")
    proxy = proxy_for(WORKER)
    assert proxy is not None
    assert proxy.authorization is not None
    assert proxy.authorization.get_secret_value() == "Basic bWU6dmVyeS1zZWNyZXQ="
    assert "secret" not in repr(proxy)
    assert "me" not in proxy.place.split(":")
