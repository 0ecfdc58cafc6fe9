"""A rented pod: `start.sh` in a process group of its own, which RunPod's API, as far as it is asked, ends."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

KEY = "rpa_a-key-that-nobody-may-see"
TOKEN = "a-token-that-nobody-may-see-either"
POD = "abc123xyz"


@dataclass
class Api:
    """RunPod's two APIs, on loopback.

    Attributes:
        rest, graphql: status and body of the answer to a deletion; status 0 accepts the deletion and loses it.
        asked: method, path, bearer and body of each request.
        pod: the process whose group an accepted deletion ends.
    """

    rest: tuple[int, str] = (204, "")
    graphql: tuple[int, str] = (200, '{"data": {"podTerminate": null}}')
    asked: list[tuple[str, str, str, str]] = field(default_factory=list)
    pod: subprocess.Popen[str] | None = None
    url: str = ""

    def ways(self) -> list[str]:
        """Return the methods of the requests so far, one after the other."""
        return [method for method, *_ in self.asked]

    def answer(self, method: str, path: str, bearer: str, body: str) -> tuple[int, str]:
        """Return status and body."""
        self.asked.append((method, path, bearer, body))
        status, text = self.rest if method == "DELETE" else self.graphql
        return (status or (204 if method == "DELETE" else 200)), text

    def answered(self, method: str) -> None:
        """End the pod if the last request was to delete it, and was accepted."""
        _, path, bearer, body = self.asked[-1]
        status, text = self.rest if method == "DELETE" else self.graphql
        is_accepted = status in {200, 204} and "errors" not in text
        if is_accepted and bearer == f"Bearer {KEY}" and POD in path + body and self.pod is not None:
            end_group(self.pod)


class _Handler(BaseHTTPRequestHandler):
    def do_DELETE(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_GET(self) -> None:  # after a redirect that should not have been followed
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        api: Api = self.server.api  # type: ignore[attr-defined]
        status, text = api.answer(self.command, self.path, self.headers.get("Authorization", ""), body)
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", f"{api.url}/elsewhere")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
        self.wfile.flush()
        api.answered(self.command)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(api: Api) -> Iterator[Api]:
    """Serve the APIs until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.api = api  # type: ignore[attr-defined]
    api.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Pod:
    """A container that runs `command`; `log` holds what it says on either stream, to the end."""

    def __init__(self, command: list[str], cwd: Path, environment: Mapping[str, str], api: Api) -> None:
        self._log = (cwd / "log").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        api.pod = self.process
        self._cwd = cwd

    @property
    def log(self) -> str:
        """Return what it has said so far."""
        return (self._cwd / "log").read_text("utf-8")

    def wait(self, timeout_s: float = 120) -> int:
        """Wait for its end; return the exit status, negative if a signal ended it as RunPod does."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the pod did not end:\n{self.log}") from None

    def close(self) -> None:
        """End whatever is left of it."""
        end_group(self.process)
        self.process.wait(30)
        self._log.close()


def end_group(process: subprocess.Popen[str]) -> None:
    """Kill the process and its children, as the end of a container does; `timeout` has groups of its own."""
    for group in [process.pid, *_groups_below(process.pid)]:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def _groups_below(session: int) -> set[int]:
    """Return the process groups of a session."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session:
                found.add(int(fields[2]))
    return found
