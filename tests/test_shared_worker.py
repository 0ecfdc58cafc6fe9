from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import comfy_gpu_offload
from comfy_gpu_offload import SharedWorker, connect, share
from comfy_gpu_offload.backends.diffusers.backend import DiffusersBackend
from comfy_gpu_offload.config.pairing import Pairing
from comfy_gpu_offload.errors import ConfigError, ConnectError
from comfy_gpu_offload.server.pairing.pairings import Pairings


def shared(folder: Path, **options: Any) -> SharedWorker:
    given = {"cpu": True, "port": 0, "share_as": "127.0.0.1", "pairing_folder": folder, **options}
    return share("diffusers", **given)


def test_a_worker_of_this_process_is_used_by_its_line_until_it_is_closed(tmp_path: Path) -> None:
    with shared(tmp_path / "pairing") as worker:
        with connect(worker.line) as session:
            assert session.model("digits").dtype is torch.bfloat16
        assert str(worker.addresses[0]).startswith("https://127.0.0.1:")
    with pytest.raises(ConnectError):
        connect(worker.line, retry_s=0.1)
    worker.close()
    with shared(tmp_path / "pairing", name="default") as again:
        first, second = Pairing.parse(worker.line), Pairing.parse(again.line)
        assert (first.token, first.fingerprint) == (second.token, second.fingerprint)
    assert [each.name for each in Pairings(tmp_path / "pairing").all()] == ["default"]


def test_to_wait_for_it_ends_when_it_is_closed(tmp_path: Path) -> None:
    worker = shared(tmp_path / "pairing")
    closing = threading.Timer(0.1, worker.close)
    closing.start()
    worker.wait()
    closing.join(60)


def test_its_token_is_not_in_its_representation(tmp_path: Path) -> None:
    with shared(tmp_path / "pairing") as worker:
        assert Pairing.parse(worker.line).token.get_secret_value() not in repr(worker)


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="Cannot listen"):
        shared(tmp_path / "pairing", host="127.0.0.1", port=taken.getsockname()[1])


def test_a_backend_that_cannot_be_made_raises_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise LookupError("no device")

    monkeypatch.setattr(DiffusersBackend, "__init__", fail)
    with pytest.raises(LookupError, match="no device"):
        shared(tmp_path / "pairing")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "a/b"}, "pairing's name"),
        ({"share_as": "a b"}, "share_as"),
        ({"token": "guess"}, "too easy to guess"),
        ({"colour": "red"}, "There is no setting colour"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        shared(tmp_path / "pairing", **options)


def test_it_is_part_of_the_public_names() -> None:
    assert {"share", "SharedWorker"} <= set(comfy_gpu_offload.__all__)
