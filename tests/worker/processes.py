"""The worker's entries as RunPod starts them: processes of their own, configured by the environment alone."""

from __future__ import annotations

import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.process import environment

ROOT = Path(__file__).resolve().parents[2]
# A virtual environment with RunPod's SDK in it, which `make` puts there where it can.
SDK_PYTHON = ROOT / ".venv-runpod" / "bin" / "python"
_PREFIX = "listening on "


def settings(**given: str) -> dict[str, str]:
    """Return this environment without RunPod's variables and ours, with `given`, for the diffusers backend."""
    kept = {
        name: value
        for name, value in environment().items()
        if not name.startswith("RUNPOD_") and name not in {"PORT", "PORT_HEALTH"}
    }
    return {**kept, "PYTHONPATH": f"{ROOT / 'src'}", "COMFY_GPU_OFFLOAD_BACKEND": "diffusers", **given}


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class ServerProcess:
    """`worker/server.py`; `log` holds all it said on stderr."""

    def __init__(self, cwd: Path, **given: str) -> None:
        self.log: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "worker" / "server.py")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=settings(**given),
            cwd=cwd,
        )
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_out, self._read_log)]
        for reader in self._readers:
            reader.start()

    def _read_out(self) -> None:
        for line in self.process.stdout or ():
            self._lines.put(line)
        self._lines.put("")

    def _read_log(self) -> None:
        self.log.extend(self.process.stderr or ())

    def ready(self) -> str:
        """Wait until the server listens; return its address."""
        line = self._lines.get(timeout=120)
        assert line.startswith(_PREFIX), "".join(self.log)
        return line.removeprefix(_PREFIX).strip()

    def ended(self) -> int:
        """Wait for the end of the process; return its exit status."""
        status = self.process.wait(60)
        for reader in self._readers:
            reader.join(60)
        return status

    def terminate(self) -> int:
        """SIGTERM; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()


@contextmanager
def server_process(cwd: Path, **given: str) -> Iterator[ServerProcess]:
    """Start a server that ends with the block, however the block ends."""
    server = ServerProcess(cwd, **given)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait(30)
