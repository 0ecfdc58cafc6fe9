"""Pushes of a model file: whole under its name whatever breaks, resumed where they were, or refused by name."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.breaking_proxy import BreakingProxy
from tests.support.refusing_proxy import RefusingProxy, answer_of
from tests.support.storing_worker import FOLDER, StoringBackend, safetensors_bytes, storing_process
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import Session, connect
from comfy_gpu_offload.client import model_push
from comfy_gpu_offload.errors import ModelPushError, WorkerFaultError
from comfy_gpu_offload.server.model_store import disk_space, model_pushes, provenance

SIZE = 4_000_000
PART = 256 * 1024
NAME = "own.safetensors"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send sixteen parts, on whatever machine this is."""
    monkeypatch.setattr(model_push, "MOST_PART_BYTES", PART)
    monkeypatch.setattr(disk_space, "MARGIN_BYTES", 0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / NAME
    made.write_bytes(safetensors_bytes(SIZE))
    return made


@pytest.fixture
def models(tmp_path: Path) -> Path:
    made = tmp_path / "models"
    made.mkdir()
    return made


@pytest.fixture
def worker(models: Path) -> Iterator[ThreadWorker]:
    with storing(models) as made:
        yield made


def storing(models: Path, port: int = 0) -> ThreadWorker:
    return ThreadWorker(StoringBackend(models), port=port, takes_models=True)


def parts_in(models: Path) -> list[Path]:
    return list(models.glob("*.part"))


class StoppedError(Exception):
    """A user's Ctrl-C."""


@dataclass
class Watch:
    """The progress that a push tells, and something that happens once so many bytes are at the worker."""

    at: int = 1 << 62
    then: Callable[[], None] = lambda: None
    sent: list[int] = field(default_factory=list)
    hashed: list[int] = field(default_factory=list)

    def __call__(self, what: str, done: int, of: int) -> None:
        (self.hashed if what.startswith("hashing") else self.sent).append(done)
        if what.startswith("sending") and done >= self.at:
            self.at = 1 << 62
            self.then()


def stop() -> None:
    raise StoppedError


def push(session: Session, file: Path, watch: Watch | None = None, name: str | None = None) -> None:
    session.push_model(file, FOLDER, name, on_work=watch or Watch(), uploads=True)


def assert_there(models: Path, file: Path, name: str = NAME) -> None:
    """Require the whole file under its name, its record, and nothing besides."""
    content = file.read_bytes()
    assert (models / name).read_bytes() == content
    origin = provenance.origin_of(models / name)
    assert origin is not None
    assert (origin.sha256, origin.source) == (hashlib.sha256(content).hexdigest(), "push")
    assert not parts_in(models)


def test_a_file_gets_there_whole(worker: ThreadWorker, file: Path, models: Path) -> None:
    watch = Watch()
    with connect(worker.url) as session:
        push(session, file, watch)
        assert [entry.name for entry in session.models()] == [NAME]
    assert_there(models, file)
    assert watch.hashed[-1] == watch.sent[-1] == file.stat().st_size
    assert watch.sent == sorted(watch.sent)
    assert watch.sent[0] == 0
    assert len(watch.sent) > 10


def test_a_gguf_file_and_another_name(worker: ThreadWorker, tmp_path: Path, models: Path) -> None:
    file = tmp_path / "own.gguf"
    file.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(16) + bytes(1000))
    with connect(worker.url) as session:
        push(session, file, name="another.gguf")
    assert_there(models, file, "another.gguf")


def test_single_http_requests_carry_it(worker: ThreadWorker, file: Path, models: Path) -> None:
    proxy = RefusingProxy(worker.port)
    proxy.answer = answer_of(404)
    with connect(proxy.url) as session:
        push(session, file)
        assert "WebSocket" not in session.carrier.name
    assert_there(models, file)


@pytest.mark.parametrize("after", [1000, 300_000, 900_001, 1_500_000, 2_222_222, 3_000_003, 3_900_000, 4_000_500])
def test_a_cut_costs_the_parts_under_way(worker: ThreadWorker, file: Path, models: Path, after: int) -> None:
    proxy = BreakingProxy(worker.port)
    with connect(proxy.url, retry_s=30) as session:
        proxy.break_after_up = proxy.up + after
        push(session, file)
        assert proxy.break_after_up is None
    assert_there(models, file)
    # Four parts were under way at most, and one was begun.
    assert proxy.up < file.stat().st_size + 6 * PART


def test_many_cuts(worker: ThreadWorker, file: Path, models: Path) -> None:
    proxy = BreakingProxy(worker.port)
    left = list(range(7))

    def cut_next(*_: object) -> None:
        if proxy.break_after_up is None and left:
            left.pop()
            proxy.break_after_up = proxy.up + 400_000

    with connect(proxy.url, retry_s=60) as session:
        session.push_model(file, FOLDER, on_work=cut_next, uploads=True)
    assert not left
    assert_there(models, file)


def test_a_byte_that_was_flipped_on_its_way_is_noticed(worker: ThreadWorker, file: Path, models: Path) -> None:
    proxy = BreakingProxy(worker.port)
    with connect(proxy.url, retry_s=30) as session:
        proxy.alter_after_up = proxy.up + 2_000_000
        push(session, file)
    assert proxy.alter_after_up is None
    assert_there(models, file)


def test_a_client_that_was_stopped_goes_on_from_there(worker: ThreadWorker, file: Path, models: Path) -> None:
    with connect(worker.url) as session, pytest.raises(StoppedError):
        push(session, file, Watch(2_000_000, stop))
    assert not (models / NAME).exists()
    assert len(parts_in(models)) == 1
    proxy, watch = BreakingProxy(worker.port), Watch()
    with connect(proxy.url) as session:
        push(session, file, watch)
    assert watch.sent[0] >= 2_000_000
    assert proxy.up < 2_100_000
    assert_there(models, file)


def test_what_was_changed_at_the_worker_meanwhile_is_sent_anew(file: Path, models: Path) -> None:
    with storing(models) as worker, connect(worker.url) as session, pytest.raises(StoppedError):
        push(session, file, Watch(2_000_000, stop))
    (part,) = parts_in(models)
    with part.open("r+b") as there:
        there.seek(1_000_000)
        there.write(bytes([there.read(1)[0] ^ 1]))
    watch = Watch()
    with storing(models) as worker, connect(worker.url) as session:
        push(session, file, watch)
    assert watch.sent[0] == 0
    assert_there(models, file)


def test_a_worker_that_was_killed_has_what_had_come(file: Path, models: Path) -> None:
    with storing_process(models) as (process, port), connect(f"http://127.0.0.1:{port}", retry_s=60) as session:
        again = storing(models, port)

        def restart() -> None:
            process.kill()
            process.wait(30)
            assert not (models / NAME).exists()
            again.__enter__()

        watch = Watch(2_000_000, restart)
        push(session, file, watch)
        again.stop()
    assert_there(models, file)
    assert 0 not in watch.sent[1:]


def test_two_clients_push_the_same_file_at_the_same_time(worker: ThreadWorker, file: Path, models: Path) -> None:
    failed: list[BaseException] = []
    gate = threading.Barrier(2)

    def one() -> None:
        try:
            with connect(worker.url) as session:
                gate.wait(30)
                push(session, file)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert_there(models, file)


def test_another_file_is_not_pushed_under_the_same_name_at_the_same_time(
    worker: ThreadWorker, file: Path, tmp_path: Path, models: Path
) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(safetensors_bytes(SIZE, seed=1))
    with connect(worker.url) as session, connect(worker.url) as second:

        def interfere() -> None:
            with pytest.raises(WorkerFaultError, match=r"being pushed to diffusion_models as own\.safetensors"):
                push(second, other, name=NAME)
            push(second, other)

        push(session, file, Watch(1_000_000, interfere))
    assert_there(models, file)
    assert (models / "other.safetensors").read_bytes() == other.read_bytes()


def test_a_push_that_stalled_blocks_its_name_for_a_while_only(
    worker: ThreadWorker, file: Path, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(safetensors_bytes(SIZE, seed=1))
    with connect(worker.url) as session:
        with pytest.raises(StoppedError):
            push(session, file, Watch(1_000_000, stop))
        monkeypatch.setattr(model_pushes, "_STALLED_S", 0.0)
        push(session, other, name=NAME)
    assert (models / NAME).read_bytes() == other.read_bytes()


def test_a_file_that_is_there_is_not_sent_again(worker: ThreadWorker, file: Path, models: Path) -> None:
    (models / NAME).write_bytes(file.read_bytes())  # put there by the operator, without a record
    proxy = BreakingProxy(worker.port)
    with connect(proxy.url) as session:
        push(session, file)
    assert proxy.up < 100_000


def test_another_file_of_the_name_is_not_replaced(worker: ThreadWorker, file: Path, models: Path) -> None:
    there = safetensors_bytes(SIZE, seed=1)
    (models / NAME).write_bytes(there)
    with (
        connect(worker.url) as session,
        pytest.raises(WorkerFaultError, match=r"There is another own\.safetensors in diffusion_models"),
    ):
        push(session, file)
    assert (models / NAME).read_bytes() == there


@pytest.mark.parametrize(
    ("folder", "name", "words"),
    [
        ("loras", NAME, "no folder 'loras' for models: it has diffusion_models"),
        ("../diffusion_models", NAME, "no folder"),
        (FOLDER, "../own.safetensors", "may not hold a folder"),
        (FOLDER, "own.ckpt", "could run code"),
        (FOLDER, ".own.safetensors", "may not begin or end with a dot"),
    ],
)
def test_wrong_places_are_refused_by_name(
    worker: ThreadWorker, file: Path, models: Path, folder: str, name: str, words: str
) -> None:
    with connect(worker.url) as session, pytest.raises(WorkerFaultError, match=words):
        session.push_model(file, folder, name, uploads=True)
    assert list(models.iterdir()) == []


@pytest.mark.parametrize("content", [b"\x80\x02}q\x00.", b"PK\x03\x04", b"<!doctype html>"])
def test_what_is_no_model_is_refused_by_its_beginning(
    worker: ThreadWorker, tmp_path: Path, models: Path, content: bytes
) -> None:
    file = tmp_path / NAME
    file.write_bytes(content.ljust(SIZE, b" "))
    proxy = BreakingProxy(worker.port)
    with connect(proxy.url) as session, pytest.raises(WorkerFaultError, match=r"own\.safetensors is not taken"):
        push(session, file)
    assert proxy.up < 2 * PART
    assert not [path for path in models.iterdir() if path.is_file()]


def test_a_full_disk_keeps_what_has_come(
    worker: ThreadWorker, file: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(worker.url) as session:
        with pytest.raises(StoppedError):
            push(session, file, Watch(2_000_000, stop))
        with monkeypatch.context() as patch:
            patch.setattr(disk_space, "MARGIN_BYTES", 1 << 60)
            patch.setattr("comfy_gpu_offload.server.model_store.incoming_file._LOOK_BYTES", 0)
            with pytest.raises(WorkerFaultError, match="no room for the model"):
                push(session, file)
        assert not (models / NAME).exists()
        watch = Watch()
        push(session, file, watch)
    assert watch.sent[0] >= 2_000_000
    assert_there(models, file)


def test_a_file_that_is_written_to_meanwhile_is_refused(worker: ThreadWorker, file: Path, models: Path) -> None:
    def write() -> None:
        with file.open("r+b") as there:
            there.seek(SIZE - 10)
            there.write(b"changed")

    with connect(worker.url) as session, pytest.raises(ModelPushError, match="was changed while it was being sent"):
        push(session, file, Watch(1_000_000, write))
    assert not (models / NAME).exists()


def test_a_worker_that_takes_no_files_is_not_asked(file: Path, models: Path) -> None:
    watch = Watch()
    with (
        ThreadWorker(StoringBackend(models)) as worker,
        connect(worker.url) as session,
        pytest.raises(ModelPushError, match="takes no model files"),
    ):
        push(session, file, watch)
    assert not watch.hashed


@pytest.mark.parametrize("what", ["missing", "empty", "a folder"])
def test_what_is_no_file_is_refused_here(worker: ThreadWorker, tmp_path: Path, what: str) -> None:
    path = tmp_path / what
    if what == "empty":
        path.touch()
    elif what == "a folder":
        path.mkdir()
    with connect(worker.url) as session, pytest.raises(ModelPushError, match=what):
        push(session, path)
