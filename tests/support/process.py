"""A worker process, started as a user would start it."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SOURCE = Path(__file__).resolve().parents[2] / "src"
_PREFIX = "listening on "


def environment(**extra: str) -> dict[str, str]:
    """Return this process's environment without settings of the package, with `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COMFY_GPU_OFFLOAD_")}
    return {**kept, "PYTHONPATH": str(_SOURCE), "OMP_WAIT_POLICY": "passive", **extra}


class WorkerProcess:
    """A worker in a process of its own. `log` holds its stderr, `url` its address."""

    def __init__(self, *arguments: str, cwd: Path, **settings: str) -> None:
        self.log: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        command = [sys.executable, "-m", "comfy_gpu_offload", "--log-level", "DEBUG", "worker", *arguments]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**settings),
            cwd=cwd,
        )
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_out, self._read_log)]
        for reader in self._readers:
            reader.start()
        line = self._lines.get(timeout=120)
        assert line.startswith(_PREFIX), "".join(self.log)
        self.url = line.removeprefix(_PREFIX).strip()

    def _read_out(self) -> None:
        for line in self.process.stdout or ():
            self._lines.put(line)
        self._lines.put("")

    def _read_log(self) -> None:
        self.log.extend(self.process.stderr or ())

    def pairing_line(self) -> str:
        """Return the line of a worker that is shared; it is printed after the address."""
        while not (line := self._lines.get(timeout=60)).startswith("comfy-gpu-offload://"):
            assert line, "".join(self.log)  # the end of its output
        return line.strip()

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def kill(self) -> None:
        """Kill it, as a power cut would."""
        self.process.kill()
        self.process.wait(30)
        self._read_to_the_end()

    def terminate(self) -> int:
        """Send SIGTERM; return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        self._read_to_the_end()
        return status

    def _read_to_the_end(self) -> None:
        """Read its last lines, which may still be in the pipe when it has ended."""
        for reader in self._readers:
            reader.join(60)


@contextmanager
def worker_process(*arguments: str, cwd: Path, **settings: str) -> Iterator[WorkerProcess]:
    """Run a worker until the block ends, however that ends."""
    worker = WorkerProcess(*arguments, cwd=cwd, **settings)
    try:
        yield worker
    finally:
        worker.kill()
