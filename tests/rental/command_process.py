"""Commands in processes that can be killed, forked from one that has imported everything already."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.process import environment
from tests.support.runpod_cloud import RunpodCloud

from comfy_gpu_offload.rental.records import Records, Rental

# Settings that stand in the `.env` already: a command writes where they are.
BEFORE = "COMFY_GPU_OFFLOAD_URL=https://before.example\n"
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["comfy_gpu_offload.cli.up_command", "comfy_gpu_offload.cli.down_command"])


class CommandProcess:
    """``comfy-gpu-offload`` with arguments, in a folder and an environment of its own."""

    def __init__(self, *arguments: str, folder: Path, env: Mapping[str, str]) -> None:
        self._output = folder / f"output-{len(list(folder.glob('output-*')))}"
        task = (arguments, str(folder), dict(env), str(self._output))
        self._process = _SERVER.Process(target=_run, args=task)
        self._process.start()

    @property
    def output(self) -> str:
        """All that it has said, on both streams."""
        return self._output.read_text("utf-8", "replace") if self._output.exists() else ""

    def send(self, number: int) -> None:
        """Send a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Kill it, as a power cut would."""
        self.send(signal.SIGKILL)
        self.wait()

    def end(self) -> None:
        """Kill it if it still runs."""
        self._process.kill()
        self._process.join(60)

    def wait(self, timeout_s: float = 120) -> int:
        """Wait for its end; return its exit status."""
        self._process.join(timeout_s)
        assert self._process.exitcode is not None, self.output
        return self._process.exitcode


class Place:
    """A user's folder with a `.env`, and a cloud. Commands that still run when its block ends are killed."""

    def __init__(self, folder: Path, cloud: RunpodCloud) -> None:
        self.folder, self.cloud = folder, cloud
        self.env = environment(**cloud.settings(), COMFY_GPU_OFFLOAD_RENTAL_FOLDER=str(folder / "rentals"))
        self._processes: list[CommandProcess] = []

    def __enter__(self) -> Place:
        (self.folder / ".env").write_text(BEFORE)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.end()

    def start(self, *arguments: str) -> CommandProcess:
        """Start a command."""
        self._processes.append(CommandProcess(*arguments, folder=self.folder, env=self.env))
        return self._processes[-1]

    def run(self, *arguments: str, status: int = 0) -> str:
        """Run a command to that end; return what it said."""
        process = self.start(*arguments)
        assert process.wait() == status, process.output
        return process.output

    @property
    def rentals(self) -> tuple[Rental, ...]:
        """The records."""
        return Records(self.folder / "rentals").all()

    @property
    def env_file(self) -> str:
        """The text of the `.env`."""
        return (self.folder / ".env").read_text()


def _run(arguments: tuple[str, ...], folder: str, env: dict[str, str], output: str) -> None:
    out = os.open(output, os.O_WRONLY | os.O_CREAT, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, stream in ((0, nothing), (1, out), (2, out)):
        os.dup2(stream, number)
    sys.stdin = os.fdopen(0, closefd=False)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    from comfy_gpu_offload.cli.main import main

    status = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
