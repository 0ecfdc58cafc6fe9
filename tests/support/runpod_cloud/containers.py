"""Containers of the stand-in's pods: processes on this machine, started again when they end, as RunPod does."""

from __future__ import annotations

import base64
import gzip
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.support.backend import FunctionBackend
from tests.support.process import environment
from tests.support.worker import ThreadWorker

_LISTENING = re.compile(r"listening on (http://\S+)")
_LONGEST_LOG = 10_000
_MOST_RESTARTS = 20


@dataclass(frozen=True)
class Order:
    """The order for a container: its pod's id, the image, its arguments and environment, and where its lines go."""

    pod_id: str
    image: str
    args: str
    env: Mapping[str, str]
    log: Callable[[str], None]


class Container:
    """A process group of its own. `url` is where its worker listens, once that is known."""

    def __init__(
        self, command: list[str], env: Mapping[str, str], folder: Path, log: Callable[[str], None], url: str | None
    ) -> None:
        self.url: str | None = None
        self.starts = 0
        self._command, self._env, self._folder, self._log, self._known = command, dict(env), folder, log, url
        self._lock = threading.Lock()
        self._is_killed = False
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def runs(self) -> bool:
        """True while its process lives."""
        process = self._process
        return process is not None and process.poll() is None

    def crash(self) -> None:
        """Kill what runs in it, as a crash would; it is started again."""
        if self._process is not None:
            _kill(self._process)

    def kill(self) -> None:
        """End it for good."""
        with self._lock:
            self._is_killed = True
            if self._process is not None:
                _kill(self._process)
        if threading.current_thread() is not self._thread:
            self._thread.join(60)

    def _run(self) -> None:
        while self.starts < _MOST_RESTARTS:
            with self._lock:
                if self._is_killed:
                    return
                self._process = process = subprocess.Popen(
                    self._command,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    env=self._env,
                    cwd=self._folder,
                    start_new_session=True,
                )
            self.starts += 1
            self.url = self._known
            for line in process.stdout or ():
                self._read(line)
            process.wait()
            _kill(process)  # what it left running in its group
            self.url = None

    def _read(self, line: str) -> None:
        heard = _LISTENING.search(line)
        if heard and self._known is None:
            self.url = heard[1]
        self._log(line.rstrip("\n"))


class ThreadContainer:
    """A worker in a thread of the test's process, which listens at once. Its model doubles what it is given."""

    def __init__(self, order: Order) -> None:
        self._worker = ThreadWorker(FunctionBackend(), token=order.env.get("COMFY_GPU_OFFLOAD_TOKEN"))
        self._worker.__enter__()
        self.starts = 1
        self.url: str | None = self._worker.url
        order.log(f"listening on {self.url}")

    @property
    def runs(self) -> bool:
        """True until it is killed."""
        return self.url is not None

    def crash(self) -> None:
        """Refuse: a thread cannot be killed."""
        raise NotImplementedError

    def kill(self) -> None:
        """Stop it."""
        if self.url is not None:
            self.url = None
            self._worker.stop()


class Running(Protocol):
    """A container, whatever it is made of."""

    starts: int

    @property
    def url(self) -> str | None:
        """The address of its worker, once that is known."""

    @property
    def runs(self) -> bool:
        """True while it lives."""

    def crash(self) -> None:
        """Kill what runs in it, as a crash would."""

    def kill(self) -> None:
        """End it for good."""


Starter = Callable[[Order], Running]


def worker(*arguments: str, folder: Path) -> Starter:
    """Return what starts a worker of this project with these arguments, whatever image and args are asked for."""

    def start(order: Order) -> Container:
        command = [sys.executable, "-m", "comfy_gpu_offload", "worker", *arguments]
        place = ("--host", "127.0.0.1", "--port", "0")
        return Container([*command, *place], environment(**order.env), folder, order.log, None)

    return start


def start_script(folder: Path, port: int = 8288, **env: str) -> Starter:
    """Return what really runs the pod's `args`, with a free port of this machine in place of the pod's `port`.

    `env` is added to a clean environment.
    """

    def start(order: Order) -> Container:
        place = folder / order.pod_id
        place.mkdir(parents=True, exist_ok=True)
        free = _free_port()
        script = place / "start.sh"
        mapped = re.sub(
            rf"^START_PORT='?{port}'?$", f"START_PORT={free}", script_of(order.args), flags=re.MULTILINE
        )
        script.write_text(mapped)
        clean = {"PATH": os.environ["PATH"], "HOME": str(place), "LANG": "C.UTF-8", "PORT": str(free)}
        whole = {**clean, **order.env, **env}
        return Container(["sh", str(script)], whole, place, order.log, f"http://127.0.0.1:{free}")

    return start


def script_of(args: str) -> str:
    """Return the script that a pod's `args` decode."""
    for word in re.findall(r"[A-Za-z0-9+/=]{40,}", " ".join(shlex.split(args))):
        data = base64.b64decode(word)
        return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
    raise AssertionError("the args hold no script")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _kill(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
