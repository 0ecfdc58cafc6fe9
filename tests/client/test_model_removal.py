"""Removal of what clients brought: from memory, then from the disk; everything else is refused by name."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.support.breaking_proxy import BreakingProxy
from tests.support.model_files import safetensors_file
from tests.support.storing_worker import FOLDER, StoringBackend
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import Session, connect
from comfy_gpu_offload.errors import ModelPushError, WorkerFaultError
from comfy_gpu_offload.server.model_store import disk_space

NAME = "own.safetensors"
CONTENT = safetensors_file(5000)


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoringBackend:
    monkeypatch.setattr(disk_space, "MARGIN_BYTES", 0)
    (tmp_path / "models").mkdir()
    return StoringBackend(tmp_path / "models")


@pytest.fixture
def worker(backend: StoringBackend) -> Iterator[ThreadWorker]:
    with ThreadWorker(backend, takes_models=True) as made:
        yield made
        backend.release.set()


@pytest.fixture
def session(worker: ThreadWorker, tmp_path: Path) -> Iterator[Session]:
    file = tmp_path / NAME
    file.write_bytes(CONTENT)
    with connect(worker.url, retry_s=30) as made:
        made.push_model(file, FOLDER, uploads=True)
        yield made


def test_the_list_says_what_was_brought(session: Session, backend: StoringBackend) -> None:
    (backend.folder / "operators.safetensors").write_bytes(CONTENT)
    entries = {entry.name: entry for entry in session.models()}
    assert entries[NAME].sha256 == hashlib.sha256(CONTENT).digest()
    assert entries[NAME].source == "push"
    assert entries["operators.safetensors"].sha256 is None
    assert entries["operators.safetensors"].source is None


def test_what_was_changed_since_is_the_operators(session: Session, backend: StoringBackend) -> None:
    (backend.folder / NAME).write_bytes(safetensors_file(6000))
    (entry,) = session.models()
    assert entry.source is None
    with pytest.raises(WorkerFaultError, match="was changed since"):
        session.remove_model(FOLDER, NAME)
    assert (backend.folder / NAME).exists()


def test_a_file_leaves_memory_and_then_the_disk(session: Session, backend: StoringBackend) -> None:
    session.remove_model(FOLDER, NAME)
    assert backend.unloaded == [backend.folder / NAME]
    assert session.models() == ()
    assert not [path for path in backend.folder.rglob("*") if path.is_file()]
    with pytest.raises(WorkerFaultError, match=r"There is no own\.safetensors in .* at the worker"):
        session.remove_model(FOLDER, NAME)


def test_a_removal_waits_for_the_call_that_runs(
    session: Session, backend: StoringBackend, worker: ThreadWorker
) -> None:
    with connect(worker.url) as other:
        waiting = other.model("wait")
        call = threading.Thread(target=waiting, args=(torch.ones(1),))
        call.start()
        assert backend.started.wait(30)
        removal = threading.Thread(target=session.remove_model, args=(FOLDER, NAME))
        removal.start()
        while worker.handler.running() is None or not worker.handler._parts.executor.has_waiting():
            assert removal.is_alive()
        assert (backend.folder / NAME).exists()
        backend.release.set()
        call.join(30)
        removal.join(30)
    assert not (backend.folder / NAME).exists()


@pytest.mark.parametrize(
    ("folder", "name", "words"),
    [
        (FOLDER, "operators.safetensors", "was not brought by fetch or push"),
        (FOLDER, "../models/own.safetensors", "may not hold a folder"),
        (FOLDER, ".comfy-gpu-offload", "may not begin"),
        ("loras", NAME, "no folder 'loras'"),
    ],
)
def test_all_else_is_refused_by_name(
    session: Session, backend: StoringBackend, folder: str, name: str, words: str
) -> None:
    (backend.folder / "operators.safetensors").write_bytes(CONTENT)
    before = sorted(backend.folder.rglob("*"))
    with pytest.raises(WorkerFaultError, match=words):
        session.remove_model(folder, name)
    assert sorted(backend.folder.rglob("*")) == before


def test_a_removal_whose_reply_was_lost_is_done(
    session: Session, worker: ThreadWorker, backend: StoringBackend
) -> None:
    proxy = BreakingProxy(worker.port)
    with connect(proxy.url, retry_s=30) as second:
        proxy.break_after_down = proxy.down + 20
        second.remove_model(FOLDER, NAME)
    assert proxy.break_after_down is None
    assert not (backend.folder / NAME).exists()


def test_a_worker_whose_operator_does_not_allow_it(backend: StoringBackend) -> None:
    with (
        ThreadWorker(backend) as worker,
        connect(worker.url) as session,
        pytest.raises(ModelPushError, match="takes no model files"),
    ):
        session.remove_model(FOLDER, NAME)


def test_messages_alone_do_not_help_where_it_is_not_allowed(
    backend: StoringBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfy_gpu_offload.client.model_files.refuse_without_pushes", lambda _: None)
    with (
        ThreadWorker(backend) as worker,
        connect(worker.url) as session,
        pytest.raises(WorkerFaultError, match="neither bring nor remove") as raised,
    ):
        session.remove_model(FOLDER, NAME)
    assert raised.value.code == "not_allowed"
