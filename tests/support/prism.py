"""Stoplight's prism: a mock server made from RunPod's own schema, which validates each request against it.

Neither is part of the repository: the schema is RunPod's, and prism comes from npm (`make prism`). Tests that need
them skip with a reason where one is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any

import pytest

_ROOT = Path(__file__).parents[2]
SCHEMA_VARIABLE = "RUNPOD_OPENAPI"
_SCHEMA_NAME = "runpod-openapi-v2.json"
_START_S = 120.0


def find_schema() -> Path | None:
    """Return RunPod's schema: the file that $RUNPOD_OPENAPI names, else one in shared/data beside the checkout."""
    named = os.environ.get(SCHEMA_VARIABLE)
    if named:
        assert Path(named).is_file(), f"${SCHEMA_VARIABLE} names no file: {named}"
        return Path(named)
    beside = (folder / "shared" / "data" / _SCHEMA_NAME for folder in _ROOT.parents)
    return next((path for path in beside if path.is_file()), None)


def find_prism() -> Path | None:
    """Return prism's program: what `make prism` installed, else one on the PATH."""
    installed = _ROOT / ".prism" / "node_modules" / ".bin" / "prism"
    if not hasattr(os, "killpg"):  # Windows, where npm's programs are scripts of cmd.exe
        return None
    if installed.is_file() and shutil.which("node"):
        return installed
    on_path = shutil.which("prism")
    return None if on_path is None else Path(on_path)


def needed() -> tuple[Path, Path]:
    """Return prism and the schema; skip the test where one of them is missing."""
    prism, schema = find_prism(), find_schema()
    if schema is None:
        pytest.skip(f"RunPod's schema {_SCHEMA_NAME} was not found: set {SCHEMA_VARIABLE} to it")
    if prism is None:
        pytest.skip("prism was not found: it takes Node and `make prism`")
    return prism, schema


def report() -> str:
    """Return a line that says what was found."""
    return f"RunPod's schema: {find_schema() or 'not found'}; prism: {find_prism() or 'not found'}"


class Prism:
    """A prism that runs until the block ends: a mock, or a proxy to `upstream` that validates replies as well."""

    def __init__(self, folder: Path, upstream: str | None = None) -> None:
        self._program, schema = needed()
        self._schema = folder / "schema.json"
        self._schema.write_text(json.dumps(_corrected(json.loads(schema.read_text("utf-8")))))
        self._upstream = upstream
        self._log = folder / "prism.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> Prism:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        mode = "mock" if self._upstream is None else "proxy"
        command = [
            str(self._program),
            mode,
            "--errors",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            str(self._schema),
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command if self._upstream is None else [*command, self._upstream],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait(port)
        self.url = f"http://127.0.0.1:{port}"
        return self

    def _wait(self, port: int) -> None:
        until = monotonic() + _START_S
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            assert self._process is not None
            assert self._process.poll() is None, self.log
            assert monotonic() < until, self.log
            sleep(0.1)

    @property
    def log(self) -> str:
        """All that it has printed."""
        return self._log.read_text("utf-8", "replace")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)


def _corrected(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema in words that prism knows, and without what its own examples break.

    Prism passes over `unevaluatedProperties`, by which RunPod refuses unknown fields. The examples of queue
    endpoints have ``{job_id}`` in what is to be a URL.
    """
    schemas = schema["components"]["schemas"]
    for value in schemas["QueueBasedRequestUrls"]["properties"].values():
        value.pop("format", None)
    for value in schemas.values():
        if value.get("unevaluatedProperties") is False:
            del value["unevaluatedProperties"]
            value["properties"] = dict.fromkeys(_properties(value, schemas), True)
            value["additionalProperties"] = False
    return schema


def _properties(value: dict[str, Any], schemas: dict[str, Any]) -> list[str]:
    """Return the names of all properties that a schema allows, also by the schemas that it is made of."""
    if "$ref" in value:
        return _properties(schemas[value["$ref"].rpartition("/")[2]], schemas)
    parts = (name for part in value.get("allOf", ()) for name in _properties(part, schemas))
    return [*value.get("properties", ()), *parts]
