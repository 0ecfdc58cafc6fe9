"""The stack one writes first: each call pickled, or as base64 in JSON, by `requests.post` to a plain http server.

A new connection each call, the conditioning with every call, no compression. JSON carries float32, since NumPy has
no bfloat16.
"""

from __future__ import annotations

import base64
import json
import pickle  # the stack that is measured here; both ends are this program
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from time import sleep
from typing import Any

import numpy as np
import requests
import torch

from worker_process import worker_process

_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Format:
    """The coding of a call's tensors as a body, and back."""

    dump: Callable[[Mapping[str, torch.Tensor]], bytes]
    load: Callable[[bytes], Mapping[str, torch.Tensor]]


def _dump_json(tensors: Mapping[str, torch.Tensor]) -> bytes:
    return json.dumps(
        {
            name: {"shape": list(tensor.shape), "data": base64.b64encode(tensor.float().numpy().tobytes()).decode()}
            for name, tensor in tensors.items()
        }
    ).encode()


def _load_json(body: bytes) -> dict[str, torch.Tensor]:
    entries = json.loads(body)
    return {
        name: torch.from_numpy(np.frombuffer(bytearray(base64.b64decode(entry["data"])), np.float32)).view(
            entry["shape"]
        )
        for name, entry in entries.items()
    }


FORMATS = {
    "pickle": Format(pickle.dumps, pickle.loads),
    "base64 in JSON": Format(_dump_json, _load_json),
}
_PATHS = {name: f"/{index}" for index, name in enumerate(FORMATS)}


def call(port: int, name: str, tensors: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """Make one call; return the bytes of its body up and down."""
    body = FORMATS[name].dump(tensors)
    reply = requests.post(f"http://127.0.0.1:{port}{_PATHS[name]}", data=body, timeout=_TIMEOUT_S)
    reply.raise_for_status()
    FORMATS[name].load(reply.content)
    return len(body), len(reply.content)


def naive_server(pace_s: float) -> AbstractContextManager[int]:
    """Yield the port of a server in its own process, which takes `pace_s` per call and returns the tensor `x`."""
    return worker_process(_serve, pace_s)


def _serve(ready: Connection, pace_s: float) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = FORMATS[next(name for name, path in _PATHS.items() if path == self.path)]
            tensors = form.load(self.rfile.read(int(self.headers["Content-Length"])))
            sleep(pace_s)
            body = form.dump({"x": tensors["x"]})
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    ready.send(server.server_port)
    thread.join()
