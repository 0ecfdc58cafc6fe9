from __future__ import annotations

import ipaddress
import socket
import sys
from types import SimpleNamespace

import psutil
import pytest

from comfy_gpu_offload.server.pairing import own_addresses as module
from comfy_gpu_offload.server.pairing.own_addresses import own_addresses

ROUTES = {socket.AF_INET: "192.168.1.7", socket.AF_INET6: "2001:db8:1::7"}


def interfaces(monkeypatch: pytest.MonkeyPatch, **found: str) -> None:
    addresses = {
        name: [SimpleNamespace(family=socket.AF_INET6 if ":" in text else socket.AF_INET, address=text)]
        for name, text in found.items()
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: addresses)
    monkeypatch.setattr(
        psutil, "net_if_stats", lambda: {name: SimpleNamespace(isup=name != "down") for name in found}
    )


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_towards", lambda family, _: ROUTES.get(family))
    monkeypatch.setattr(socket, "gethostname", lambda: "GPU-box")
    interfaces(
        monkeypatch, lo="127.0.0.1", eth0="192.168.1.7", down="10.1.1.1", tun0="10.8.0.2", zero="169.254.3.4"
    )


def test_the_address_in_the_lan_comes_first() -> None:
    assert own_addresses() == ("192.168.1.7", "10.8.0.2", "2001:db8:1::7", "gpu-box")


def test_without_a_route_the_interfaces_tell_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_towards", lambda *_: None)
    assert own_addresses() == ("192.168.1.7", "10.8.0.2", "gpu-box")


def test_without_psutil_the_routes_tell_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert own_addresses() == ("192.168.1.7", "2001:db8:1::7", "gpu-box")


@pytest.mark.parametrize("name", ["", "localhost", "localhost.localdomain", "a_b", "ä"])
def test_with_nothing_at_all_it_is_this_machine_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_towards", lambda *_: None)
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    interfaces(monkeypatch, lo="127.0.0.1")
    assert own_addresses() == ("127.0.0.1",)


def test_the_system_is_asked_without_sending_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for each in own_addresses():
        try:
            found = ipaddress.ip_address(each)
        except ValueError:
            assert each == socket.gethostname().lower()
            continue
        assert not found.is_link_local
        with socket.create_server((each, 0), family=socket.AF_INET6 if found.version == 6 else socket.AF_INET):
            pass  # an address of this machine
