"""A child process whose output is kept and can be waited for."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import IO

import psutil

# Both sides of a comparison count their threads alike, or sums are taken in another order.
_THREADS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Spinning OpenMP threads of one process starve the other's on a small machine.
    "OMP_WAIT_POLICY": "passive",
}
_POLL_S = 0.02
_OURS = ("COMFY_GPU_OFFLOAD_", "RUNPOD_", "COMFYUI_")
# Set where tests are developed, this doubles the time that ComfyUI's imports take.
_DROPPED = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the package's settings, and with `extra`."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(_OURS) and name not in _DROPPED
    }
    return {**kept, **_THREADS, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", **extra}


class Process:
    """A running command. Its output, both streams, is in `lines`."""

    def __init__(self, name: str, command: Sequence[str | Path], cwd: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.lines: list[str] = []
        self._grown = threading.Condition()
        self._ended = False
        self._child = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        assert self._child.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._child.stdout,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def ended(self) -> bool:
        return self._child.poll() is not None

    @property
    def output(self) -> str:
        """All output so far."""
        with self._grown:
            return "".join(self.lines)

    def wait_for_line(self, pattern: str, timeout_s: float) -> re.Match[str]:
        """Return the first line in which `pattern` is found; wait for it.

        Raises:
            AssertionError: the process ended, or the time did; carries the last lines.
        """
        wanted = re.compile(pattern)
        deadline = monotonic() + timeout_s
        seen = 0
        with self._grown:
            while True:
                while seen < len(self.lines):
                    if match := wanted.search(self.lines[seen]):
                        return match
                    seen += 1
                left = deadline - monotonic()
                if self._ended or left <= 0:
                    why = "ended" if self._ended else f"did not say {pattern!r} within {timeout_s:.0f} s"
                    raise AssertionError(f"{self.name} {why}. It said:\n{''.join(self.lines[-60:])}")
                self._grown.wait(left)

    def wait_for_work(self, seconds: float, timeout_s: float = 60.0) -> None:
        """Wait until the process has computed for `seconds` from now on."""
        times = psutil.Process(self._child.pid).cpu_times
        enough = times().user + seconds
        deadline = monotonic() + timeout_s
        while times().user < enough:
            assert monotonic() < deadline, f"{self.name} does not work"
            sleep(_POLL_S)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._child.kill()
        self._child.wait()
        self._reader.join()

    def stop(self, timeout_s: float = 20.0) -> int:
        """Ask it to end, and return its exit status; kill it after `timeout_s`."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
        try:
            return self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._child.returncode

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            with self._grown:
                self.lines.append(line)
                self._grown.notify_all()
        with self._grown:
            self._ended = True
            self._grown.notify_all()
