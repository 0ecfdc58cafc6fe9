from __future__ import annotations

from pathlib import Path

import pytest

from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.config.pairing import Pairing
from comfy_gpu_offload.server.pairing import share as module
from comfy_gpu_offload.server.pairing.share import open_share, shared_addresses

HERE = Address("https", "192.168.1.7", 8288)


def test_opened_again_it_has_the_same_line(tmp_path: Path) -> None:
    line = open_share(tmp_path / "pairing").line(HERE)
    assert open_share(tmp_path / "pairing").line(HERE) == line
    assert Pairing.parse(line).address == HERE


def test_each_name_has_a_line_of_its_own_with_one_certificate(tmp_path: Path) -> None:
    lines = [Pairing.parse(open_share(tmp_path / "pairing", name).line(HERE)) for name in ("desk", "laptop")]
    assert lines[0].token != lines[1].token
    assert lines[0].fingerprint == lines[1].fingerprint


@pytest.mark.parametrize(
    ("host", "shown", "addresses"),
    [
        ("::", None, ["https://192.168.1.7:1", "https://[fd00::7]:1", "https://gpu-box:1"]),
        ("0.0.0.0", None, ["https://192.168.1.7:1", "https://[fd00::7]:1", "https://gpu-box:1"]),
        ("10.8.0.2", None, ["https://10.8.0.2:1"]),
        ("::1", None, ["https://[::1]:1"]),
        ("::", "my.example", ["https://my.example:1"]),
        ("::", "my.example:40123", ["https://my.example:40123"]),
    ],
)
def test_a_line_holds_the_address_that_others_reach(
    host: str, shown: str | None, addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "own_addresses", lambda: ("192.168.1.7", "fd00::7", "gpu-box"))
    found = shared_addresses(host, 1, None if shown is None else Address.parse(f"https://{shown}"))
    assert [str(each) for each in found] == addresses
