"""EasyCache and LazyCache: the calls of the model that they skip here, and at the worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from comfy_extras import nodes_easycache as caches
from sessions import Pair, sampled
from sides import BACKEND, UNET, WAN, Kind, case

from comfy_gpu_offload.protocol.messages import ModelRef

_KINDS = {"unet": UNET, "wan": WAN}
_CACHES = {"EasyCache": caches.EasyCacheNode, "LazyCache": caches.LazyCacheNode}
_STEPS = 10
_SETTINGS = {"start_percent": 0.1, "end_percent": 0.9, "verbose": False}


@contextmanager
def _counted(network: Any) -> Iterator[list[int]]:
    """Count what the network computes; its own forward runs a cache's wrapper first."""
    calls: list[int] = []
    computed = network._forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return computed(*args, **kwargs)

    network._forward = counting
    try:
        yield calls
    finally:
        del network._forward


def step_caches() -> dict[str, Any]:
    """Return for each model and cache the calls that were computed, and whether the results are the same."""
    return {f"{cache} {name}": _of(kind, node) for name, kind in _KINDS.items() for cache, node in _CACHES.items()}


def _of(kind: Kind, node: Any) -> dict[str, Any]:
    pair = Pair.of(kind)
    there = BACKEND.pool.load(ModelRef(name=kind.file))[0].patcher.model.diffusion_model
    this = case(kind, steps=_STEPS)
    plain = sampled(pair.stock, this)
    with _counted(pair.stock.model.diffusion_model) as here:
        expected = sampled(node.execute(pair.stock, 2.0, **_SETTINGS).result[0], this)
    sent = pair.remote.remote.calls
    with _counted(there) as at_worker:
        found = sampled(node.execute(pair.remote, 2.0, **_SETTINGS).result[0], this)
    return {
        "same": torch.equal(expected, found),
        "mattered": not torch.equal(expected, plain),
        "finite": bool(expected.isfinite().all()),
        "here": len(here),
        "at the worker": len(at_worker),
        "sent": pair.remote.remote.calls - sent,
        "without a cache": _STEPS,
    }
