from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_gpu_offload.config.address import Address, host_and_port, is_loopback


@pytest.mark.parametrize(
    ("text", "parts", "shown"),
    [
        ("https://gpu.example", ("https", "gpu.example", None, ""), "https://gpu.example"),
        (" HTTPS://GPU.example:8288/ ", ("https", "gpu.example", 8288, ""), "https://gpu.example:8288"),
        ("https://gpu.example/a/b//", ("https", "gpu.example", None, "/a/b"), "https://gpu.example/a/b"),
        ("http://127.0.0.1:1", ("http", "127.0.0.1", 1, ""), "http://127.0.0.1:1"),
        ("http://localhost:", ("http", "localhost", None, ""), "http://localhost"),
        ("http://[::1]:8288/x", ("http", "::1", 8288, "/x"), "http://[::1]:8288/x"),
        ("https://[2001:DB8::7]", ("https", "2001:db8::7", None, ""), "https://[2001:db8::7]"),
        ("other+file:///run/worker.sock", ("other+file", "", None, "/run/worker.sock"), None),
    ],
)
def test_an_address_has_parts_and_a_text(text: str, parts: tuple[object, ...], shown: str | None) -> None:
    address = Address.parse(text)
    assert (address.scheme, address.host, address.port, address.path) == parts
    assert str(address) == (shown or text)
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "printable ASCII"),
        ("https://bücher.example", "xn--"),
        ("https://gpu.example/a path", "without spaces"),
        ("gpu-box", "looks like https://HOST"),
        ("gpu-box:8288", "looks like https://HOST"),
        ("http://", "looks like https://HOST"),
        ("https://:8288", "looks like https://HOST"),
        ("https:///path", "looks like https://HOST"),
        ("ftp://gpu.example", "looks like https://HOST"),
        ("other://:80/x", "looks like https://HOST"),
        ("https://user:pass@host", "no user, password"),
        ("https://@gpu.example", "no user, password"),
        ("https://gpu.example?", "no user, password, query"),
        ("https://gpu.example/#", "no user, password, query or fragment"),
        ("https://gpu.example:0", "1 to 65535"),
        ("https://gpu.example:99999", "1 to 65535"),
        ("https://gpu.example:x", "1 to 65535"),
        ("https://gpu.example:-1", "1 to 65535"),
        ("http://::1:8288", r"\[::1\]"),
        ("http://[::1:8288", r"\[::1\]"),
        ("http://[gpu:box]:8288", r"\[::1\]"),
        ("http://[v1.x:y]:8288", r"\[::1\]"),
        ("https://gpu..example", "empty part"),
        (f"https://{'a' * 64}.example", "over 63 letters"),
        (f"https://{'a.' * 130}example", "over 253 letters"),
        ("https://[fe80::1%eth0]:8288", "a zone"),
        ("https://[fe80::1%25eth0]:8288", "a zone"),
        ("http://192.168.1.7:8288", "this machine only"),
        ("http://[2001:db8::7]", "this machine only"),
        ("http://gpu-box:8288", r"ssh -L 8288:127\.0\.0\.1:8288 gpu-box"),
    ],
)
def test_what_is_none_or_not_safe_is_refused_with_what_to_write(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Address.parse(text)


def test_an_address_cannot_be_changed_and_can_be_a_key() -> None:
    address = Address.parse("https://gpu.example/v2")
    with pytest.raises(FrozenInstanceError):
        address.host = "other"  # type: ignore[misc]
    assert {address: 1}[Address("https", "gpu.example", None, "/v2")] == 1
    assert str(address.below("abc/run")) == "https://gpu.example/v2/abc/run"


@pytest.mark.parametrize(
    ("text", "port", "encrypted", "loopback"),
    [
        ("https://gpu.example", 443, True, False),
        ("https://localhost", 443, True, True),
        ("http://127.9.9.9", 80, False, True),
        ("http://[::1]:8288", 8288, False, True),
        ("http://[::ffff:127.0.0.1]", 80, False, True),
        ("other:///run/worker.sock", 80, False, True),
    ],
)
def test_what_follows_from_its_parts(text: str, port: int, encrypted: bool, loopback: bool) -> None:
    address = Address.parse(text)
    assert (address.tcp_port, address.is_encrypted, address.is_loopback) == (port, encrypted, loopback)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example", "", "128.0.0.1", "::2"])
def test_what_others_reach_is_not_this_machine_alone(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("host", "port", "shown"),
    [("::1", 80, "[::1]:80"), ("::1", None, "[::1]"), ("gpu", 80, "gpu:80"), ("127.0.0.1", None, "127.0.0.1")],
)
def test_host_and_port_are_shown_as_in_a_url(host: str, port: int | None, shown: str) -> None:
    assert host_and_port(host, port) == shown


@given(st.text(alphabet="htps:/[]@.%#?0123456789abcfx-_ \\\n", max_size=40))
def test_whatever_is_written_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except ValueError:
        return
    assert address.is_encrypted or address.is_loopback
    assert Address.parse(str(address)) == address
