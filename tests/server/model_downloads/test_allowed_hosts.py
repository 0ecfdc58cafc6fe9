"""The worker asks the hosts on its list alone, at public network addresses."""

from __future__ import annotations

import ipaddress

import pytest

from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.server.model_downloads.allowed_hosts import AllowedHosts, is_public
from comfy_gpu_offload.server.model_downloads.errors import RefusedSourceError
from comfy_gpu_offload.server.model_downloads.web_address import WebAddress

ADDED = AllowedHosts((Address.parse("https://models.example"), Address.parse("http://127.0.0.1:9000")))


@pytest.mark.parametrize(
    "url",
    [
        "https://huggingface.co/org/name/resolve/main/x.safetensors",
        "https://HuggingFace.co:443/x",
        "https://cdn-lfs-us-1.hf.co/x?Signature=s",
        "https://cas-bridge.xethub.hf.co/x",
        "https://civitai.com/api/download/models/1",
        "https://civitai.red/x",
        "https://b2.civitai.com/x",
        "https://civitai-delivery-worker-prod.5ac0637cfd0766c97916cefa3764fbdf.r2.cloudflarestorage.com/x",
        "https://models.example/x",
        "http://127.0.0.1:9000/x",
    ],
)
def test_hosts_of_the_list_are_asked(url: str) -> None:
    ADDED.check(WebAddress.parse(url))


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/x",
        "https://huggingface.co.example.org/x",
        "https://evilhuggingface.co/x",
        "https://huggingface.co:8443/x",
        "https://civitai-delivery-worker-prod.0123.r2.cloudflarestorage.com/x",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/x",
        "https://127.0.0.1/x",
        "https://localhost/x",
        "http://127.0.0.1:9001/x",
        "http://localhost:9000/x",
        "https://models.example:8443/x",
        "https://sub.models.example/x",
    ],
)
def test_others_are_refused_by_name(url: str) -> None:
    with pytest.raises(RefusedSourceError, match=r"does not download from https?://"):
        ADDED.check(WebAddress.parse(url))


@pytest.mark.parametrize(
    "url",
    [
        "http://huggingface.co/x",
        "ftp://huggingface.co/x",
        "file:///etc/passwd",
        "https://user:secret@huggingface.co/x",
        "https://huggingface.co/x y",
        "https:///x",
        "https://hugging\nface.co/x",
        "https://" + "x" * 9000,
    ],
)
def test_what_is_no_address_of_this_kind_is_refused(url: str) -> None:
    with pytest.raises(RefusedSourceError) as refused:
        ADDED.check(WebAddress.parse(url))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("text", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"])
def test_a_public_address_is_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("255.255.255.255", "224.0.0.1", "192.0.2.1", "198.18.0.1"),
        *("::1", "::", "fe80::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254"),
        *("64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a9fe:a9fe::1"),
    ],
)
def test_all_others_are_not(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    ("host", "address", "may"),
    [
        ("https://huggingface.co", "18.1.1.1", True),
        ("https://huggingface.co", "10.0.0.1", False),
        ("https://models.example", "10.0.0.1", True),
        ("https://models.example", "127.0.0.1", False),
        ("https://models.example", "169.254.169.254", False),
        ("https://models.example", "fe80::1%eth0", False),
        ("http://127.0.0.1:9000", "127.0.0.1", True),
    ],
)
def test_a_host_that_the_operator_names_may_lie_in_a_private_network(host: str, address: str, may: bool) -> None:
    assert ADDED.check_network_address(Address.parse(host), address) is may


def test_an_address_is_shown_without_its_query() -> None:
    address = WebAddress.parse("https://civitai.com/api/download/models/1?token=secret")
    assert "secret" not in f"{address} {address!r}"
    assert address.target == "/api/download/models/1?token=secret"


@pytest.mark.parametrize(
    ("location", "joined"),
    [
        ("/b", "https://huggingface.co/b"),
        ("c?x=1", "https://huggingface.co/a/c"),
        ("//cdn.hf.co/d", "https://cdn.hf.co/d"),
        ("https://cdn.hf.co/d", "https://cdn.hf.co/d"),
    ],
)
def test_a_redirect_may_be_relative(location: str, joined: str) -> None:
    assert str(WebAddress.parse("https://huggingface.co/a/b?token=x").joined(location)) == joined
