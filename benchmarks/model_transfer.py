"""Bring a model file to a worker over loopback: the rate with hashing, and the memory at both ends.

    python benchmarks/model_transfer.py
    python benchmarks/model_transfer.py --gb 1 --rounds 5 --json transfer.json

The client is this process, the worker another one with folders of models, and the file's origin a third, which
sends noise as fast as it is read. A file that is pushed is read and hashed at the client first, which is part of
its time, and hashed at the worker as it comes. `of hash` compares with how fast this process hashes noise in
memory just before, since the hash is what a transfer cannot do without. Memory is each process's peak over what
it took before. Seconds and rates are the medians of all rounds. Exits with 1 where a bound is not held; that of
the rate supposes a machine that has nothing else to do, and a disk that is fast enough (`--folder`). Needs Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import arguments
from comfy_gpu_offload import Session, connect
from comfy_gpu_offload.backends.base import ModelFolder
from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.io.frame import FrameLimits
from comfy_gpu_offload.server.handler import HandlerOptions
from comfy_gpu_offload.server.http.routes import WorkerState
from comfy_gpu_offload.server.model_downloads.allowed_hosts import AllowedHosts
from comfy_gpu_offload.server.model_downloads.downloads import DownloadOptions
from comfy_gpu_offload.server.serve import ServeOptions, serve_until_signalled
from echo_worker import EchoBackend
from results import Bound, Results, Table, conclude
from worker_process import worker_process

_MOST_MEMORY = 100e6
_LEAST_RATE = 200e6
_FOLDER = "vae"
_BLOCK = 1024**2
_HASHED_BYTES = 256 * 1024**2
_COLUMNS = {
    "by": "what",
    "GB": "size_bytes 1e-9 .2f",
    "s": "seconds .1f",
    "MB/s": "rate 1e-6 .0f",
    "of hash": "of_hash .1%",
    "client MB": "client_bytes 1e-6 .1f",
    "worker MB": "worker_bytes 1e-6 .1f",
}


@dataclass(frozen=True)
class Row:
    """One way of a file to the worker: medians of its rounds, and the most memory that it took."""

    what: str
    size_bytes: int
    seconds: float
    rate: float
    of_hash: float
    client_bytes: int
    worker_bytes: int


class FolderBackend(EchoBackend):
    """See `backends.base.Backend`. Takes files into a folder."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root

    def model_folders(self) -> Mapping[str, ModelFolder]:
        return {_FOLDER: ModelFolder(self._root, frozenset({".safetensors"}))}


def main() -> int:
    """Transfer and print the table; exit status 1 if a bound is not held."""
    options = _options()
    rows = [_measured(what, int(options.gb * 1e9), options) for what in options.what]
    found = Results(
        "model_transfer",
        rows,
        [Table.of("A model's way to the worker over loopback", _COLUMNS, rows)],
        list(_bounds(rows)),
    )
    return conclude(found, options)


def _options() -> argparse.Namespace:
    parser = arguments.parser(__doc__, seed_of="nothing: the file is noise that differs each time")
    parser.add_argument(
        "--gb", type=arguments.number(0.01, 1000), default=4.0, help="of the file (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=arguments.whole_number(1, 100), default=3)
    parser.add_argument("--folder", type=Path, help="for the file (default: the system's for temporary ones)")
    parser.add_argument("--what", nargs="+", choices=[*_WAYS], default=[*_WAYS])
    return parser.parse_args()


def _bounds(rows: list[Row]) -> Iterator[Bound]:
    for row in rows:
        yield Bound.at_least(f"{row.what}: MB/s with hashing", row.rate / 1e6, _LEAST_RATE / 1e6, ".0f")
        for end, size in (("client", row.client_bytes), ("worker", row.worker_bytes)):
            yield Bound.at_most(f"{row.what}: MB of memory at the {end}", size / 1e6, _MOST_MEMORY / 1e6, ".1f")


def _measured(what: str, size: int, options: argparse.Namespace) -> Row:
    seconds: list[float] = []
    hashing: list[float] = []
    peaks: list[tuple[int, int]] = []
    for _ in range(options.rounds):
        with TemporaryDirectory(dir=options.folder) as folder, _WAYS[what](size, Path(folder)) as way:
            session, worker, bring = way
            hashing.append(_hash_rate())
            before = [_reset_peak(process) for process in (os.getpid(), worker)]
            began = perf_counter()
            bring(session)
            seconds.append(perf_counter() - began)
            _check_size(Path(folder), size)
            after = [_peak(process) for process in (os.getpid(), worker)]
            peaks.append((after[0] - before[0], after[1] - before[1]))
    taken = median(seconds)
    ratio = median(size / one / rate for one, rate in zip(seconds, hashing, strict=True))
    client, at_worker = (max(each) for each in zip(*peaks, strict=True))
    return Row(what, size, taken, size / taken, ratio, client, at_worker)


def _check_size(folder: Path, size: int) -> None:
    (file,) = folder.glob("*.safetensors")
    if file.stat().st_size != size + len(file_head(size)):
        raise SystemExit(f"{file} has {file.stat().st_size} bytes")


_Way = tuple[Session, int, Callable[[Session], Any]]


@contextmanager
def _fetching(size: int, folder: Path) -> Iterator[_Way]:
    """Give a session with a worker that is to download from an origin on this machine."""
    with (
        worker_process(_serve_file, size) as origin,
        worker_process(_serve_worker, folder, origin) as (url, worker),
        connect(url) as session,
    ):
        yield session, worker, lambda session: session.fetch_model(f"{origin}/{_FOLDER}/model.safetensors")


@contextmanager
def _pushing(size: int, folder: Path) -> Iterator[_Way]:
    """Give a session with a worker that a file of this machine is to be pushed to."""
    own = folder / "own" / "model.safetensors"
    own.parent.mkdir()
    with own.open("wb") as file:
        file.write(file_head(size))
        file.writelines(noise(size))
    with worker_process(_serve_worker, folder) as (url, worker), connect(url) as session:
        yield session, worker, lambda session: session.push_model(own, _FOLDER, uploads=True)


_WAYS: dict[str, Callable[[int, Path], Any]] = {"fetch": _fetching, "push": _pushing}


def _serve_worker(ready: Connection, folder: Path, origin: str | None = None) -> None:
    hosts = () if origin is None else (Address.parse(origin),)
    handler = HandlerOptions(takes_models=True, downloads=DownloadOptions(AllowedHosts(hosts)))
    options = ServeOptions("127.0.0.1", 0, handler, lambda address: ready.send((str(address), os.getpid())))
    asyncio.run(serve_until_signalled(WorkerState(FrameLimits()), lambda: FolderBackend(folder), options))


def _serve_file(ready: Connection, size: int) -> None:
    """Send a safetensors file with one tensor of `size` bytes to whoever asks, whatever is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ready.send(f"http://127.0.0.1:{listening.getsockname()[1]}")
        while True:
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                connection.recv(65536)
                head = file_head(size)
                total = len(head) + size
                connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n".encode() + head)
                for block in noise(size):
                    connection.sendall(block)


def file_head(size: int) -> bytes:
    """Return the beginning of a safetensors file with one tensor of `size` bytes."""
    header = json.dumps({"noise": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header


def noise(size: int) -> Iterator[memoryview]:
    """Yield `size` bytes in blocks: the same noise again and again."""
    block = memoryview(secrets.token_bytes(_BLOCK))
    for left in range(size, 0, -_BLOCK):
        yield block[: min(left, _BLOCK)]


def _hash_rate() -> float:
    """Return the bytes a second at which SHA-256 is computed of noise in memory."""
    began, digest = perf_counter(), hashlib.sha256()
    for block in noise(_HASHED_BYTES):
        digest.update(block)
    return _HASHED_BYTES / (perf_counter() - began)


def _reset_peak(process: int) -> int:
    """Let the system count a process's peak anew from now on; return the bytes that it takes now."""
    Path(f"/proc/{process}/clear_refs").write_text("5")
    return _status(process, "VmRSS")


def _peak(process: int) -> int:
    return _status(process, "VmHWM")


def _status(process: int, field: str) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    sys.exit(main())
