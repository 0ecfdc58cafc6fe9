from __future__ import annotations

import pytest

from comfy_gpu_offload.config import proxy_exemptions
from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.config.proxy_exemptions import is_exempt


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "listed", "is_listed"),
    [
        ("https://gpu.example", "", False),
        ("https://gpu.example", "*", True),
        ("https://gpu.example", "gpu.example", True),
        ("https://gpu.example", "GPU.Example.", True),
        ("https://gpu.example", ".example", True),
        ("https://gpu.example", "*.example", True),
        ("https://gpu.example", "pu.example", False),
        ("https://gpu.example", "gpu.example.org", False),
        ("https://gpu.example", "gpu", False),
        ("https://gpu.example", ".", False),
        ("https://gpu.example", "*.", False),
        ("https://gpu.example", "a.test, gpu.example", True),
        ("https://gpu.example", "a.test gpu.example", True),
        ("https://gpu.example", ",,", False),
        ("https://gpu.example", "gpu.example:443", True),
        ("https://gpu.example:8288", "gpu.example", True),
        ("https://gpu.example:8288", "gpu.example:8288", True),
        ("https://gpu.example:8288", "gpu.example:443", False),
        ("https://192.168.1.7:8288", "192.168.1.7", True),
        ("https://192.168.1.7:8288", "192.168.1.7:8288", True),
        ("https://192.168.1.7:8288", "192.168.1.7:443", False),
        ("https://192.168.1.7:8288", "192.168.0.0/16", True),
        ("https://192.168.1.7:8288", "192.168.1.9/24", True),
        ("https://192.168.1.7:8288", "192.168.1.7/99", False),
        ("https://192.168.1.7:8288", "2.168.1.7", False),
        ("https://10.0.0.7:8288", "192.168.0.0/16", False),
        ("https://[2001:db8::7]:8288", "2001:db8::7", True),
        ("https://[2001:db8::7]:8288", "2001:db8:0::7", True),
        ("https://[2001:db8::7]:8288", "[2001:DB8::7]", True),
        ("https://[2001:db8::7]:8288", "[2001:db8::7]:8288", True),
        ("https://[2001:db8::7]:8288", "[2001:db8::7]:443", False),
        ("https://[2001:db8::7]:8288", "2001:db8::/32", True),
        ("https://[2001:db8::7]:8288", "[2001:db8::]/32", True),
        ("https://[2001:db8::7]:8288", "2001:db9::/32", False),
        ("https://[2001:db8::7]:8288", "10.0.0.0/8", False),
        ("https://[2001:db8::7]:8288", "[", False),
    ],
)
def test_what_no_proxy_lists(url: str, listed: str, is_listed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", listed)
    assert is_exempt(Address.parse(url)) is is_listed


def test_lower_case_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "gpu.example")
    monkeypatch.setenv("no_proxy", "other.example")
    assert not is_exempt(Address.parse("https://gpu.example"))


def test_the_systems_exceptions_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_exemptions, "proxy_bypass", lambda host: host == "gpu.example")
    assert is_exempt(Address.parse("https://gpu.example"))
    assert not is_exempt(Address.parse("https://other.example"))
