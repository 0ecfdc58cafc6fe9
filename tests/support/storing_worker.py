"""Model files for tests, and a backend that has a folder for them.

    python -m tests.support.storing_worker FOLDER [PORT]

serves such a backend in a process of its own, which can be killed.
"""

from __future__ import annotations

import asyncio
import json
import random
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.backend import FunctionBackend
from tests.support.process import environment

from comfy_gpu_offload.backends.base import Listing, ModelFolder
from comfy_gpu_offload.io.frame import FrameLimits
from comfy_gpu_offload.protocol.messages import ModelEntry
from comfy_gpu_offload.server.handler import HandlerOptions
from comfy_gpu_offload.server.http.routes import WorkerState
from comfy_gpu_offload.server.serve import ServeOptions, serve_until_signalled

FOLDER = "diffusion_models"
SUFFIXES = frozenset({".safetensors", ".gguf"})
_ROOT = Path(__file__).resolve().parents[2]


def safetensors_bytes(size: int, seed: int = 0) -> bytes:
    """Return a safetensors file with one tensor of `size` random bytes."""
    entry = {"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    header = json.dumps(entry).encode()
    return struct.pack("<Q", len(header)) + header + random.Random(seed).randbytes(size)


class StoringBackend(FunctionBackend):
    """A backend that takes files into one folder and lists what lies there."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.unloaded: list[Path] = []

    def model_folders(self) -> Mapping[str, ModelFolder]:
        return {FOLDER: ModelFolder(self.folder, SUFFIXES)}

    def unload(self, path: Path) -> None:
        assert path.exists()
        self.unloaded.append(path)

    def listing(self) -> Listing:
        files = sorted(path for path in self.folder.glob("*") if path.suffix in SUFFIXES)
        return Listing(
            tuple(ModelEntry(name=path.name, folder=FOLDER, size_bytes=path.stat().st_size) for path in files)
        )


@contextmanager
def storing_process(folder: Path, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a worker with such a backend; give its process and its port."""
    command = [sys.executable, "-m", "tests.support.storing_worker", str(folder), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_ROOT, env=environment())
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()


def _main(folder: str, port: str = "0") -> None:
    def announce(address: object) -> None:
        print(str(address).rsplit(":", 1)[1], flush=True)

    options = ServeOptions("127.0.0.1", int(port), HandlerOptions(takes_models=True), announce)
    asyncio.run(serve_until_signalled(WorkerState(FrameLimits()), lambda: StoringBackend(Path(folder)), options))


if __name__ == "__main__":
    _main(*sys.argv[1:])
