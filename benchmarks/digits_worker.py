"""Workers with the bundled digits model, in processes of their own; some compute otherwise than this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection

import numpy as np
import torch

from comfy_gpu_offload.backends.base import Computed, ModuleCall
from comfy_gpu_offload.backends.diffusers.backend import DiffusersBackend
from comfy_gpu_offload.io.frame import FrameLimits
from comfy_gpu_offload.io.tree import map_tensors
from comfy_gpu_offload.prediction import arithmetic
from comfy_gpu_offload.prediction.arithmetic import Column, Floats
from comfy_gpu_offload.server.handler import HandlerOptions
from comfy_gpu_offload.server.http.routes import WorkerState
from comfy_gpu_offload.server.serve import ServeOptions, serve_until_signalled
from worker_process import worker_process


class LastBitBackend(DiffusersBackend):
    """The digits backend, with about half of its results off by the last bit, always alike for the same input."""

    def forward(self, call: ModuleCall) -> Computed:
        """See `Backend`."""
        done = super().forward(call)
        return Computed(map_tensors(done.result, _last_bit_off), done.load_s, done.compute_s)


def _last_bit_off(tensor: torch.Tensor) -> torch.Tensor:
    words = tensor.contiguous().view(torch.int16)
    return (words ^ ((words >> 3) & 1)).view(tensor.dtype)


def predict_in_float64(basis: Sequence[Column], coefficients: Floats) -> Floats:
    """`prediction.predict` as on a machine that rounds once: other last bits now and then."""
    total = np.zeros(basis[0].size)
    for each, factor in zip(basis, coefficients, strict=True):
        total += each.values(slice(None)).astype(np.float64) * np.float64(factor)
    made = total.astype(np.float32)
    made[~np.isfinite(made)] = 0
    return made


AS_HERE, OTHER_MODEL, OTHER_PREDICTION = "same", "other-model", "other-prediction"
WORKERS = {
    AS_HERE: "as on this machine",
    OTHER_MODEL: "the model's outputs differ in the last bit",
    OTHER_PREDICTION: "predictions differ in the last bit",
}
"""The kinds of worker, and what is other about the arithmetic of each."""


def _serve(ready: Connection, kind: str) -> None:
    if kind == OTHER_PREDICTION:
        arithmetic.predict = predict_in_float64
    backend = LastBitBackend if kind == OTHER_MODEL else DiffusersBackend
    options = ServeOptions("127.0.0.1", 0, HandlerOptions(), lambda address: ready.send(str(address)))
    asyncio.run(serve_until_signalled(WorkerState(FrameLimits()), backend, options))


def digits_worker(kind: str = AS_HERE) -> AbstractContextManager[str]:
    """Yield the address of such a worker; `kind` is a key of `WORKERS`."""
    return worker_process(_serve, kind)
