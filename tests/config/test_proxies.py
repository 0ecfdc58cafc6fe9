from __future__ import annotations

import pytest

from comfy_gpu_offload.config import proxies
from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.config.proxies import Proxy, ProxyKind, proxy_for
from comfy_gpu_offload.errors import ConfigError

WORKER = Address.parse("https://gpu.example:8288")
UPPER = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "SOCKS_PROXY", "NO_PROXY")
NAMES = (*UPPER, *map(str.lower, UPPER))


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
    assert (proxy.place, proxy.source, proxy.user) == ("proxy.example:3128", name, None)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8288", "https://127.0.0.1:8288", "https://localhost", "https://[::1]:8288"]
)
def test_this_machine_is_never_reached_through_one(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://proxy.example:3128")
    assert proxy_for(Address.parse(url)) is None


def test_what_is_exempt_goes_past_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "gpu.example")
    assert proxy_for(WORKER) is None
    monkeypatch.setenv("NO_PROXY", "other.example")
    assert proxy_for(WORKER) is not None


@pytest.mark.parametrize(
    "value", ["socks6://proxy.example:1080", "https://proxy.example", "http://:0:0", "http://proxy.example:99999"]
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


def test_a_password_is_kept_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:very%2Dsecret@proxy.example:3128")
    proxy = proxy_for(WORKER)
    assert proxy is not None
    assert proxy.password is not None
    assert proxy.password.get_secret_value() == "very-secret"
    assert "secret" not in repr(proxy)
    assert str(proxy) == "the proxy proxy.example:3128 (HTTPS_PROXY)"


@pytest.mark.parametrize(
    ("value", "kind", "port"),
    [
        ("http://proxy.example", ProxyKind.HTTP, 80),
        ("socks5://proxy.example", ProxyKind.SOCKS5, 1080),
        ("socks5h://proxy.example:9050", ProxyKind.SOCKS5H, 9050),
        ("SOCKS5H://proxy.example", ProxyKind.SOCKS5H, 1080),
        ("socks://proxy.example", ProxyKind.SOCKS5H, 1080),
        ("socks4://proxy.example", ProxyKind.SOCKS4, 1080),
        ("socks4a://proxy.example", ProxyKind.SOCKS4A, 1080),
    ],
)
def test_kinds_and_their_ports(monkeypatch: pytest.MonkeyPatch, value: str, kind: ProxyKind, port: int) -> None:
    monkeypatch.setenv("ALL_PROXY", value)
    assert proxy_for(WORKER) == Proxy(kind, "proxy.example", port, "ALL_PROXY")


@pytest.mark.parametrize("login", ["me:" + "very-secret" * 25, "me:very-s%C3%A9cret", "me%00:very-secret"])
def test_a_login_that_socks_cannot_carry_is_refused(monkeypatch: pytest.MonkeyPatch, login: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"socks5h://{login}@proxy.example")
    with pytest.raises(ConfigError, match="255") as caught:
        proxy_for(WORKER)
    assert "very" not in str(caught.value)


@pytest.mark.parametrize(
    ("systems", "kind"),
    [
        ({"http": "http://other.example:3128", "https": "http://proxy.example:1080"}, ProxyKind.HTTP),
        # Windows, with a SOCKS proxy alone: Python names it twice.
        ({"socks": "socks://proxy.example:1080", "https": "socks4://proxy.example:1080"}, ProxyKind.SOCKS4),
        # macOS.
        ({"socks": "http://proxy.example:1080"}, ProxyKind.SOCKS5H),
        ({"socks": "http://other.example:1080", "https": "http://proxy.example:1080"}, ProxyKind.HTTP),
    ],
)
def test_the_systems_settings_are_used(
    monkeypatch: pytest.MonkeyPatch, systems: dict[str, str], kind: ProxyKind
) -> None:
    monkeypatch.setattr(proxies, "getproxies", lambda: systems)
    assert proxy_for(WORKER) == Proxy(kind, "proxy.example", 1080, "the system's settings")


def test_a_variable_that_nobody_else_reads_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOCKS_PROXY", "socks5://proxy.example:1080")
    assert proxy_for(WORKER) is None
