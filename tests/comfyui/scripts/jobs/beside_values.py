"""Inputs of a network at the worker beside values: tensors' order in memory, and `torch.autocast` around calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from sessions import Pair, sampled, three_ways
from sides import BACKEND, UNET, Case, case, noise

from comfy_gpu_offload.protocol.messages import ModelRef

_KIND = replace(UNET, latent=(1, 4, 16, 16))


def memory_orders() -> dict[str, Any]:
    """Return for each whether remote equals local, and the number of orders that the two networks saw."""
    pair = Pair.of(_KIND)
    _, conditioned = three_ways(pair, _transposed(), lambda model: model)
    here, there = pair.stock.model.diffusion_model, BACKEND.pool.load(ModelRef(name=_KIND.file))[0].patcher.model
    this = case(_KIND)
    with _strides_of_inputs(here) as seen_here:
        expected = sampled(_channels_last(pair.stock), this)
    with _strides_of_inputs(there.diffusion_model) as seen_there:
        found = sampled(_channels_last(pair.remote), this)
    return {
        "conditioning": conditioned,
        "each step": torch.equal(expected, found),
        "matters": not torch.equal(expected, sampled(pair.stock, this)),
        "seen": seen_here == seen_there,
        "channels last": [list(strides) for strides in sorted(seen_here)],
    }


def autocast() -> dict[str, bool]:
    """Return whether a network at the worker casts as one here does, and no longer than it should."""
    pair = Pair.of(_KIND)
    this = case(_KIND)
    plain = sampled(pair.stock, this)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = sampled(pair.stock, this), sampled(pair.remote, this)
    return {
        "same": torch.equal(expected, found),
        "matters": not torch.equal(expected, plain),
        "over": torch.equal(sampled(pair.remote, this), plain),
    }


def _transposed() -> Case:
    """Return a case whose texts lie with their tokens innermost, as a node leaves them that permutes."""
    plain = case(_KIND)
    context = noise((1, _KIND.width, 6), 7).transpose(1, 2)
    return replace(plain, positive=[[context, {}]])


def _channels_last(model: Any) -> Any:
    """Return a model whose inputs a node puts into the memory format that suits convolutions."""

    def ordered(apply: Any, call: Any) -> Any:
        latent = call["input"].to(memory_format=torch.channels_last)
        return apply(latent, call["timestep"], **call["c"])

    patched = model.clone()
    patched.set_model_unet_function_wrapper(ordered)
    return patched


@contextmanager
def _strides_of_inputs(network: Any) -> Iterator[set[tuple[int, ...]]]:
    seen: set[tuple[int, ...]] = set()
    hook = network.register_forward_pre_hook(lambda _, args: seen.add(args[0].stride()))
    try:
        yield seen
    finally:
        hook.remove()
