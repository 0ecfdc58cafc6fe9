"""ComfyUI's HTTP API, as a browser or a script uses it."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

import requests

_POLL_S = 0.02
Graph = dict[str, dict[str, Any]]


class PromptRejectedError(Exception):
    """ComfyUI did not take the prompt; the message is its answer."""


@dataclass(frozen=True)
class Outcome:
    """The end of a prompt.

    Attributes:
        messages: of ComfyUI's history, e.g. ``("execution_error", {...})``.
    """

    status: str
    messages: tuple[tuple[str, dict[str, Any]], ...]

    @property
    def succeeded(self) -> bool:
        return self.status == "success"

    @property
    def interrupted(self) -> bool:
        return any(name == "execution_interrupted" for name, _ in self.messages)

    @property
    def error(self) -> dict[str, Any] | None:
        """The error that ComfyUI shows: `exception_type`, `exception_message`, `node_type`, `traceback`."""
        return next((data for name, data in self.messages if name == "execution_error"), None)

    @property
    def summary(self) -> str:
        """The outcome for a failed test, without the whole tensors that ComfyUI's error holds."""
        error = self.error
        if error is None:
            return f"{self.status}: {[name for name, _ in self.messages]}"
        raised = f"{error['exception_type']}: {str(error['exception_message'])[:2000]}"
        return f"{error['node_type']} raised {raised}\n{''.join(error['traceback'][-4:])}"

    @property
    def error_message(self) -> str:
        error = self.error
        assert error is not None, f"no error, but {self.status}"
        return str(error["exception_message"])


class ComfyApi:
    """The API of one ComfyUI server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = requests.Session()
        self._http.trust_env = False  # no proxy between us and this machine

    def get(self, path: str) -> Any:
        """Return the JSON at `path`."""
        reply = self._http.get(self.url + path, timeout=60)
        reply.raise_for_status()
        return reply.json()

    def post(self, path: str, body: Any) -> Any:
        """Return the JSON that answers a POST of `body` as JSON."""
        reply = self._http.post(self.url + path, json=body, timeout=240)
        reply.raise_for_status()
        return reply.json()

    def status_of(self, path: str) -> tuple[int, str]:
        """Return HTTP status and text of a GET that may fail."""
        reply = self._http.get(self.url + path, timeout=60)
        return reply.status_code, reply.text

    def object_info(self, node: str) -> dict[str, Any]:
        """Return a node's definition, as the frontend reads it."""
        info = self.get(f"/object_info/{node}")
        assert node in info, f"ComfyUI knows no node {node}"
        definition: dict[str, Any] = info[node]
        return definition

    def queue(self, graph: Graph) -> str:
        """Queue a prompt, and return its id.

        Raises:
            PromptRejectedError: validation failed.
        """
        reply = self._http.post(f"{self.url}/prompt", json={"prompt": graph}, timeout=60)
        if reply.status_code != requests.codes.ok or reply.json().get("node_errors"):
            raise PromptRejectedError(reply.text)
        return str(reply.json()["prompt_id"])

    def wait(self, prompt_id: str, timeout_s: float = 180.0) -> Outcome:
        """Wait for the end of that prompt, and return it."""
        deadline = monotonic() + timeout_s
        while monotonic() < deadline:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                status = entry["status"]
                messages = tuple((name, data) for name, data in status["messages"])
                return Outcome(status["status_str"], messages)
            sleep(_POLL_S)
        raise AssertionError(f"the prompt did not end within {timeout_s:.0f} s")

    def run(self, graph: Graph, timeout_s: float = 180.0) -> Outcome:
        """Queue a prompt, and wait for its end."""
        return self.wait(self.queue(graph), timeout_s)

    def wait_for_looks(self, count: int, timeout_s: float) -> None:
        """Wait until ComfyUI has looked for the stop button `count` times from now on."""
        enough = self.get("/offload_test/looks") + count
        deadline = monotonic() + timeout_s
        while self.get("/offload_test/looks") < enough:
            assert monotonic() < deadline, f"fewer than {count} looks for the stop button in {timeout_s} s"
            sleep(_POLL_S)

    def free(self) -> None:
        """Have ComfyUI forget its loaded models and what nodes have returned, before the next prompt."""
        self._http.post(
            f"{self.url}/free", json={"unload_models": True, "free_memory": True}, timeout=60
        ).raise_for_status()

    def interrupt(self) -> None:
        """Do what the frontend's stop button does."""
        self._http.post(f"{self.url}/interrupt", json={}, timeout=60).raise_for_status()
