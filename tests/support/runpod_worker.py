"""A queue worker as RunPod runs it: the SDK's own loop, in a process of its own, asking a `RunPodGateway`."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import pytest

from .process import environment
from .runpod_gateway import RunPodGateway

_ROOT = Path(__file__).resolve().parents[2]
_LAUNCH = Path(__file__).with_name("sdk_launch.py")
_PYTHON = "COMFY_GPU_OFFLOAD_RUNPOD_PYTHON"
_START_S = 120.0
_END_S = 60.0


def sdk_python() -> Path:
    """Return the interpreter that has RunPod's SDK. Skip the test if there is none."""
    named = os.environ.get(_PYTHON)
    python = Path(named) if named else _ROOT / ".venv-runpod" / "bin" / "python"
    if not python.exists():
        pytest.skip(
            f"There is no {python}, which has RunPod's SDK: `make test` makes .venv-runpod; or set {_PYTHON}"
        )
    return python


class SdkWorker:
    """`with SdkWorker(gateway) as worker:` asks `gateway` for jobs until the block ends.

    Args:
        handler: the file that starts the SDK, as `python FILE` would; a relative one is the repository's.
        env: further variables; the package's and RunPod's own are not inherited.

    Attributes:
        log: what it has said so far, line by line.
    """

    def __init__(
        self,
        gateway: RunPodGateway,
        handler: str | Path = "worker/handler.py",
        *,
        env: Mapping[str, str] | None = None,
        worker_id: str | None = None,
    ) -> None:
        self.worker_id = worker_id or f"worker-{uuid.uuid4().hex[:12]}"
        self.log: list[str] = []
        self._gateway = gateway
        self._handler = _ROOT / handler
        self._env = dict(env or {})
        self._home = tempfile.TemporaryDirectory(prefix="runpod-home-")
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._process: subprocess.Popen[str] | None = None

    @property
    def process(self) -> subprocess.Popen[str]:
        """The SDK's process."""
        assert self._process is not None, "the worker has not started"
        return self._process

    def start(self) -> None:
        """Start it, and wait until it asks for jobs."""
        self._process = subprocess.Popen(
            [sdk_python(), _LAUNCH, self._handler],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment(),
            cwd=_ROOT,
            start_new_session=True,  # so that none of the processes that it starts is missed
        )
        self._reader.start()
        waited_s = 0.0
        while not self._gateway.wait_for_worker(self.worker_id, 0.5):
            waited_s += 0.5
            assert self._process.poll() is None, f"the worker ended:\n{self.text}"
            assert waited_s < _START_S, f"the worker asks for nothing:\n{self.text}"

    @property
    def text(self) -> str:
        """Its output so far."""
        return "".join(self.log)

    def terminate(self) -> int:
        """Send SIGTERM, as RunPod does; return its exit status, once the jobs that it has are done."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_END_S)

    def kill(self) -> None:
        """Kill it, as when its machine is taken away: the gateway is not told."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(_END_S)

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in environment().items() if not name.startswith("RUNPOD_")}
        return {
            **kept,
            # The SDK would send a key from ~/.runpod along. RUNPOD_AI_API_KEY would have it start a process for
            # its heartbeat that outlives it.
            "HOME": self._home.name,
            "PYTHONUNBUFFERED": "1",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
            **self._gateway.worker_environment(self.worker_id),
            **self._env,
        }

    def _read_log(self) -> None:
        self.log.extend(self.process.stdout or ())

    def _end(self) -> bool:
        """End whatever still runs; return whether anything did."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.process.wait(_END_S)
        return True

    def __enter__(self) -> SdkWorker:
        try:
            self.start()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended_before = self.process.poll() is not None
        try:
            status = self.terminate()
        except subprocess.TimeoutExpired:
            self._close()
            raise AssertionError(f"the worker did not end at SIGTERM:\n{self.text}") from error
        assert not self._close(), f"the worker left processes behind:\n{self.text}"
        assert ended_before or status == 0, f"the worker ended with {status}:\n{self.text}"

    def _close(self) -> bool:
        had_to = self._process is not None and self._end()
        if self._process is not None:
            self._reader.join(_END_S)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
        self._home.cleanup()
        return had_to
