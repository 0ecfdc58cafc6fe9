"""A worker whose one model, `echo`, returns its first argument, to measure everything but the model.

With `copies` among a call's arguments it returns that many of it, one after another: a reply larger than the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from pathlib import Path
from time import sleep
from typing import Any

from comfy_gpu_offload.backends.base import (
    Backend,
    BackendInfo,
    Computed,
    Described,
    Listing,
    ModuleCall,
    PatchSet,
    Report,
)
from comfy_gpu_offload.io.frame import FrameLimits
from comfy_gpu_offload.protocol.messages import ModelDescription, ModelEntry, ModelRef, SampleJob
from comfy_gpu_offload.server.blob_folder import BlobFolder
from comfy_gpu_offload.server.handler import HandlerOptions
from comfy_gpu_offload.server.http.routes import WorkerState
from comfy_gpu_offload.server.serve import ServeOptions, serve_until_signalled
from worker_process import worker_process

_FINGERPRINT = "echo" * 8
_UPLOAD_BYTES = 4 * 1024**3


class EchoBackend(Backend):
    """See `backends.base.Backend`. Computes nothing, and takes `pace_s` for each call of it."""

    def __init__(self, pace_s: float = 0.0) -> None:
        self._pace_s = pace_s

    def info(self) -> BackendInfo:
        return BackendInfo("echo", "none")

    def listing(self) -> Listing:
        return Listing((ModelEntry(name="echo", folder="echo", size_bytes=0),))

    def describe(self, ref: ModelRef) -> Described:
        return Described(ModelDescription(ref=ref, fingerprint=_FINGERPRINT, compute_dtype="float32"), None)

    def forward(self, call: ModuleCall) -> Computed:
        if self._pace_s:
            sleep(self._pace_s)
        copies, value = call.kwargs.get("copies", 1), call.args[0]
        return Computed(value if copies == 1 else value.repeat(copies), 0.0, self._pace_s)

    def sample(
        self, job: SampleJob, tensors: Mapping[str, Any], report: Report, *, patches: PatchSet | None = None
    ) -> Computed:
        for step in range(1, job.steps + 1):
            sleep(self._pace_s)
            report(step, job.steps, lambda: None)
        return Computed(tensors["latent"], 0.0, self._pace_s * job.steps)


def _serve(
    ready: Connection, kind: type[EchoBackend] = EchoBackend, pace_s: float = 0.0, uploads: Path | None = None
) -> None:
    folder = None if uploads is None else BlobFolder(uploads, _UPLOAD_BYTES)
    options = ServeOptions("127.0.0.1", 0, HandlerOptions(uploads=folder), lambda address: ready.send(str(address)))
    asyncio.run(serve_until_signalled(WorkerState(FrameLimits()), lambda: kind(pace_s), options))


def worker_of(
    kind: type[EchoBackend], pace_s: float = 0.0, uploads: Path | None = None
) -> AbstractContextManager[str]:
    """Yield the address of a worker with such a backend, in its own process; it keeps uploads in that folder."""
    return worker_process(_serve, kind, pace_s, uploads)


def echo_worker(pace_s: float = 0.0, uploads: Path | None = None) -> AbstractContextManager[str]:
    """Yield the address of an echo worker in a process of its own, which keeps uploads in that folder."""
    return worker_of(EchoBackend, pace_s, uploads)
